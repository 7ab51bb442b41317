package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

const inNamespace = "MS_AGENT_TEST_NAMESPACE"

// TestReal runs itself again in a process with a network namespace of its own: an ordinary connect() of the kernel,
// the TUN, netstack, and an edge on loopback.
func TestReal(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		applicationsThroughTheTUN(t)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace and a TUN")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("needs a TUN: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestReal$", "-test.v", "-test.timeout=90s")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in the namespace: %v\n%s", err, out)
	}
	if n := strings.Count(string(out), "--- PASS: TestReal"); n != 1 {
		t.Errorf("%d tests passed in the namespace, want 1\n%s", n, out)
	}
}

// applicationsThroughTheTUN is TestReal's body, in a network namespace of its own.
func applicationsThroughTheTUN(t *testing.T) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	defaultRoute(t)
	f := newFleet(t, "fleet")
	f.edge(false)
	cfg := testConfig(t)
	cfg.NoTUN, cfg.Token = false, f.token().String()
	r := start(t, cfg, System{})

	app := net.Dialer{Timeout: 5 * time.Second}
	c, err := app.DialContext(t.Context(), "tcp", at("echo"))
	if err != nil {
		t.Fatalf("connect through the TUN: %v\n%+v", err, r.Status())
	}
	echo(t, c, "through the TUN ")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
		t.Errorf("after half-close: %d bytes, %v", len(b), err)
	}
	c.Close()
	for service, want := range map[string]error{"refused": syscall.ECONNREFUSED, "nowhere": syscall.EHOSTUNREACH, "denied": syscall.ECONNREFUSED} {
		if _, err := app.DialContext(t.Context(), "tcp", at(service)); !errors.Is(err, want) {
			t.Errorf("%s: connect gives %v, want %v", service, err, want)
		}
	}
	if n := fastOpenFailed(t); n == 0 {
		t.Error("no SYN carried data: the agent's own sockets, which keep out of the TUN, must send keyed ones")
	}
	if s := r.Status(); s.Counts.TUNPackets == 0 || s.Counts.Opened != 1 || s.Counts.Refused != 1 {
		t.Errorf("counts %+v", s.Counts)
	}
	open, err := app.DialContext(t.Context(), "tcp", at("echo"))
	if err != nil {
		t.Fatal(err)
	}
	r.down()
	open.SetDeadline(time.Now().Add(5 * time.Second))
	// netstack's reset may still be queued when the device goes; then the kernel aborts the socket.
	if _, err := open.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("open connection when the agent stops: %v, want a reset or an abort, never a clean end", err)
	}
	if l, err := netlink.LinkByName(cfg.Device); err == nil {
		t.Errorf("device %s is left behind", l.Attrs().Name)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range rules {
			if rule.Priority != 0 && rule.Priority != 32766 && rule.Priority != 32767 && rule.Priority != -1 {
				t.Errorf("rule left behind: %v", rule)
			}
		}
	}
}

// defaultRoute gives the namespace what every real machine has; without one the kernel drops an ICMP error as one from
// nowhere.
func defaultRoute(t *testing.T) {
	t.Helper()
	eth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth9"}, PeerName: "peer9"}
	addr, err := netlink.ParseAddr("198.18.0.2/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkAdd(eth), netlink.AddrAdd(eth, addr), netlink.LinkSetUp(eth),
		netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Index, Gw: net.IPv4(198, 18, 0, 1)})); err != nil {
		t.Fatal(err)
	}
}

// fastOpenFailed is how often the kernel sent data in a SYN that was not acknowledged with it, as by every edge.
func fastOpenFailed(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/net/netstat")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	for i, name := range strings.Fields(lines[0]) {
		if name == "TCPFastOpenActiveFail" {
			n, err := strconv.Atoi(strings.Fields(lines[1])[i])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no TCPFastOpenActiveFail in %q", lines[0])
	return 0
}
