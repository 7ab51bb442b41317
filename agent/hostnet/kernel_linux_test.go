package hostnet_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrationsensor/agent/hostnet"
)

// inProcess starts an agent inside the test's own process.
func (l *lab) inProcess() *agent {
	l.t.Helper()
	var a *agent
	l.client.Must(func() (err error) {
		a, err = startAgent(l.stateFile)
		return err
	})
	l.t.Cleanup(func() {
		if err := errors.Join(a.host.Close(), a.stop(), a.host.Close()); err != nil {
			l.t.Errorf("close: %v", err)
		}
	})
	return a
}

func TestOnlyProtectedConnectionsEnterTheTUN(t *testing.T) {
	l := newLab(t)
	before4 := l.mustDial(netip.AddrPortFrom(p1v4, portProtected))
	before6 := l.mustDial(netip.AddrPortFrom(p1v6, portProtected))
	a := l.inProcess()
	if err := a.host.SetProtected(protected()); err != nil {
		t.Fatal(err)
	}
	own := net.Dialer{Control: a.host.Control}
	for range 2 { // the second time with rp_filter at its strictest
		for _, p1 := range []netip.Addr{p1v4, p1v6} {
			l.wantWay("protected", netip.AddrPortFrom(p1, portProtected), "tunnel")
		}
		eventually(t, "the last packet of those", func() bool { return a.stack.Stats().Open == 0 })
		in := a.stack.Stats().PacketsIn
		for _, v := range []struct{ p1, p2 netip.Addr }{{p1v4, p2v4}, {p1v6, p2v6}} {
			l.wantWay("other port of the protected address", netip.AddrPortFrom(v.p1, portOther), "direct")
			l.wantWay("unprotected address", netip.AddrPortFrom(v.p2, portProtected), "direct")
			if got := l.wayOf(own, "tcp", netip.AddrPortFrom(v.p1, portProtected)); got != "direct" {
				t.Errorf("the agent's own socket to %v: goes %q, want direct", v.p1, got)
			}
			if got := l.wayOf(net.Dialer{}, "udp", netip.AddrPortFrom(v.p1, portProtected)); got != "direct" {
				t.Errorf("UDP to %v: goes %q, want direct", v.p1, got)
			}
		}
		for name, c := range map[string]net.Conn{"IPv4": before4, "IPv6": before6} {
			if err := echo(c); err != nil {
				t.Errorf("%s connection from before: %v", name, err)
			}
		}
		if got := a.stack.Stats().PacketsIn; got != in {
			t.Errorf("%d packets entered the TUN that should not have", got-in)
		}
		l.client.Must(func() error {
			return os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0)
		})
	}
	if st := a.stack.Stats(); st.Ignored != 0 {
		t.Errorf("%d packets other than TCP entered the TUN, want none: not even the kernel's own", st.Ignored)
	}
}

func (l *lab) mustDial(to netip.AddrPort) net.Conn {
	l.t.Helper()
	c, err := l.dial(net.Dialer{}, "tcp", to)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	if got := greeting(c); got != "direct" && got != "tunnel" {
		l.t.Fatalf("greeting of %v: %q", to, got)
	}
	return c
}

func echo(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

func TestSetProtectedIsADiff(t *testing.T) {
	l := newLab(t)
	a := l.inProcess()
	both := netip.AddrPortFrom(p1v4, portOther)
	for _, step := range []struct {
		what  string
		set   []netip.AddrPort
		rules int
		way   map[netip.AddrPort]string
	}{
		{"two", protected(), rulesOfTwo, map[netip.AddrPort]string{protected()[0]: "tunnel", protected()[1]: "tunnel", both: "direct"}},
		{"the same again, one as a mapped address", []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom16(p1v4.As16()), portProtected), protected()[1]}, rulesOfTwo, nil},
		{"a second port of one", append(protected(), both), rulesOfTwo + 2, map[netip.AddrPort]string{protected()[0]: "tunnel", both: "tunnel"}},
		{"the first port no more", []netip.AddrPort{both}, 2, map[netip.AddrPort]string{protected()[0]: "direct", protected()[1]: "direct", both: "tunnel"}},
		{"none", nil, 0, map[netip.AddrPort]string{both: "direct"}},
	} {
		if err := a.host.SetProtected(step.set); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		if got := l.traces().rules; got != step.rules {
			t.Errorf("%s: got %d rules, want %d", step.what, got, step.rules)
		}
		for to, want := range step.way {
			l.wantWay(step.what, to, want)
		}
	}
	if got := l.traces().routes; got != 0 {
		t.Errorf("got %d routes with nothing protected, want none", got)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	l := newLab(t)
	a := l.inProcess()
	if err := a.host.SetProtected(protected()); err != nil {
		t.Fatal(err)
	}
	want := traces{rules: rulesOfTwo, routes: 2, addrs: 2, device: true}
	if got := l.traces(); got != want {
		t.Errorf("while open: %+v, want %+v", got, want)
	}
	janitor := a.host.JanitorPID()
	app := l.mustDial(protected()[0])
	if err := a.host.Close(); err != nil {
		t.Fatal(err)
	}
	if got := l.traces(); got != (traces{device: true}) {
		t.Errorf("after Close: %+v, want only the device, which is its opener's", got)
	}
	if _, err := os.Stat(l.stateFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state file: got %v, want none", err)
	}
	if err := syscall.Kill(janitor, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("janitor: got %v, want it gone", err)
	}
	wantAborted(t, app)
	l.wantWay("after Close", protected()[0], "direct")
	if err := a.host.SetProtected(protected()); err == nil {
		t.Error("SetProtected after Close: got nil, want an error")
	}
}

// wantAborted: the application must hear at once that its connection is no more.
func wantAborted(t *testing.T, app net.Conn) {
	t.Helper()
	if err := app.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := app.Read(make([]byte, 1))
	if !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the application reads %v, want ECONNABORTED or ECONNRESET", err)
	}
}

func TestJanitorCleansUpAfterSIGKILL(t *testing.T) {
	l := newLab(t)
	cmd, janitor := l.start(protected()...)
	apps := []net.Conn{l.mustDial(protected()[0]), l.mustDial(protected()[1])}
	kill(t, cmd.Process.Pid)
	start := time.Now()
	eventually(t, "no rule, route or device", func() bool { return l.traces() == traces{} })
	t.Logf("clean %v after SIGKILL", time.Since(start).Round(time.Millisecond))
	for _, c := range apps {
		wantAborted(t, c)
	}
	eventually(t, "the janitor is gone", func() bool { return errors.Is(syscall.Kill(janitor, 0), syscall.ESRCH) || isZombie(janitor) })
	for _, to := range protected() {
		l.wantWay("after SIGKILL", to, "direct")
	}
}

// isZombie: the janitor's new parent may take its time; here that is the test's own init.
func isZombie(pid int) bool {
	_, err := hostnet.StartTime(pid)
	return err != nil
}

func TestRestartRightAfterSIGKILLKeepsItsRules(t *testing.T) {
	l := newLab(t)
	cmd, janitor := l.start(protected()...)
	kill(t, cmd.Process.Pid)
	l.start(protected()...) // waits for the janitor's lock
	eventually(t, "the old janitor is gone", func() bool { return isZombie(janitor) })
	if got := l.traces(); got != (traces{rules: rulesOfTwo, routes: 2, addrs: 2, device: true}) {
		t.Errorf("after the restart: %+v; the old janitor has taken the new agent's rules", got)
	}
	for _, to := range protected() {
		l.wantWay("after the restart", to, "tunnel")
	}
}

func TestNextStartSweepsWhenTheJanitorWasKilledToo(t *testing.T) {
	l := newLab(t)
	cmd, janitor := l.start(protected()...)
	apps := []net.Conn{l.mustDial(protected()[0]), l.mustDial(protected()[1])}
	kill(t, janitor)
	kill(t, cmd.Process.Pid)
	eventually(t, "the device is gone", func() bool { return !l.traces().device })
	if got := l.traces(); got.rules != rulesOfTwo || got.routes != 0 {
		t.Errorf("left behind: %+v, want the rules and no route", got)
	}
	l.wantWay("rules that lead nowhere", protected()[0], "direct")

	l.start() // protects nothing
	if got := l.traces().rules; got != 0 {
		t.Errorf("after the next start: %d rules, want none", got)
	}
	for _, c := range apps {
		wantAborted(t, c)
	}
}

func TestSweepAlone(t *testing.T) {
	l := newLab(t)
	cmd, janitor := l.start(protected()...)
	kill(t, janitor)
	kill(t, cmd.Process.Pid)
	eventually(t, "the device is gone", func() bool { return !l.traces().device })
	l.client.Must(func() error { return hostnet.Sweep(l.stateFile, nil) })
	if got := l.traces(); got != (traces{}) {
		t.Errorf("after Sweep: %+v, want nothing", got)
	}
	if _, err := os.Stat(l.stateFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state file: got %v, want none", err)
	}
}

func TestALiveAgentIsNotSwept(t *testing.T) {
	l := newLab(t)
	l.start(protected()...)
	other := t.TempDir() + "/other.json"
	l.client.Must(func() error {
		for what, err := range map[string]error{
			"Sweep, same state file":  hostnet.Sweep(l.stateFile, nil),
			"Sweep, other state file": hostnet.Sweep(other, nil),
			"Sweep, no state file":    hostnet.Sweep("", nil),
			"Open, same state file":   openError(hostnet.Config{Device: "lo", Addr4: tun4, StateFile: l.stateFile}),
			"Open, other state file":  openError(hostnet.Config{Device: "lo", Addr4: tun4, StateFile: other}),
		} {
			if !errors.Is(err, hostnet.ErrInUse) {
				t.Errorf("%s: got %v, want ErrInUse", what, err)
			}
		}
		return nil
	})
	if got := l.traces(); got != (traces{rules: rulesOfTwo, routes: 2, addrs: 2, device: true}) {
		t.Errorf("the live agent has left %+v", got)
	}
	l.wantWay("still protected", protected()[0], "tunnel")
}

func openError(cfg hostnet.Config) error {
	h, err := hostnet.Open(cfg)
	if err == nil {
		_ = h.Close() // the test fails anyway
	}
	return err
}

func TestIPv6TurnedOff(t *testing.T) {
	l := newLab(t)
	l.client.Must(func() error {
		for _, which := range []string{"all", "default"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	})
	a := l.inProcess()
	if err := a.host.SetProtected(protected()); err != nil {
		t.Fatalf("SetProtected with an IPv6 address: %v; want it left out, as nobody can reach it", err)
	}
	l.wantWay("IPv4", protected()[0], "tunnel")
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	l := newLab(t)
	l.client.Must(func() error {
		for want, cfg := range map[string]hostnet.Config{
			"open the TUN first": {Device: "nowhere", Addr4: tun4, StateFile: l.stateFile},
			"want an IPv4 and":   {Device: device, Addr4: tun6},
			"state file":         {Device: device, Addr4: tun4, StateFile: "/nowhere/state.json"},
		} {
			if err := openError(cfg); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want it to say %q", err, want)
			}
		}
		return nil
	})
	if _, err := os.Stat(l.stateFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state file after a failed Open: got %v, want none", err)
	}
	a := l.inProcess()
	for _, bad := range []string{"127.0.0.1:443", "0.0.0.0:443", "198.18.1.1:0", "224.0.0.1:443", "[fe80::1]:443", tun4.String() + ":443"} {
		if err := a.host.SetProtected([]netip.AddrPort{netip.MustParseAddrPort(bad)}); err == nil {
			t.Errorf("SetProtected(%s): got nil, want an error", bad)
		}
	}
}

func TestRulesOfOneAddress(t *testing.T) {
	for _, row := range []struct {
		to   string
		tun  netip.Addr
		want []string
	}{
		{"198.18.1.1:443", tun4, []string{
			"5200 from 198.19.0.1/32 to 198.18.1.1/32 tcp 443 lookup 5300",
			"5200 from 0.0.0.0/32 to 198.18.1.1/32 tcp 443 fwmark 0x0/0x2000000 lookup 5300",
		}},
		{"[2001:2::1:1]:7443", tun6, []string{
			"5198 from 2001:2::19:1/128 to 2001:2::1:1/128 tcp 7443 lookup 5300",
			"5199 from ::/1 to 2001:2::1:1/128 tcp 7443 lookup 254",
			"5199 from 8000::/1 to 2001:2::1:1/128 tcp 7443 lookup 254",
			"5200 to 2001:2::1:1/128 tcp 7443 fwmark 0x0/0x2000000 lookup 5300",
		}},
	} {
		if got := hostnet.RuleStrings(netip.MustParseAddrPort(row.to), row.tun); !slices.Equal(got, row.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", row.to, got, row.want)
		}
	}
}
