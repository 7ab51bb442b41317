package hostnet_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"migrationsensor/agent/hostnet"
	"migrationsensor/netstack"
	"migrationsensor/netstack/netstacktest"
)

// childEnv holds the JSON of a childConfig: this process is then an agent for a test to kill.
const childEnv = "HOSTNET_TEST_CHILD"

func TestMain(m *testing.M) {
	if hostnet.JanitorMain() {
		return
	}
	if s := os.Getenv(childEnv); s != "" {
		fmt.Fprintln(os.Stderr, "child:", childMain(s))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const (
	device = "ms0"
	table  = 5300
)

var (
	tun4 = netip.MustParseAddr("198.19.0.1")
	tun6 = netip.MustParseAddr("2001:2::19:1")
)

type childConfig struct {
	StateFile string
	Protected []netip.AddrPort
}

type childReady struct{ Janitor int }

// childMain leads protected connections into a stack that greets them, until it is killed.
func childMain(config string) error {
	var cfg childConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	a, err := startAgent(cfg.StateFile)
	if err != nil {
		return err
	}
	if err := a.host.SetProtected(cfg.Protected); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(childReady{Janitor: a.host.JanitorPID()}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin) // until the test ends
	return err
}

// agent is a TUN with a stack behind it that sends "tunnel" to whoever comes.
type agent struct {
	host  *hostnet.Host
	stack *netstack.Stack
	stop  func() error
}

func startAgent(stateFile string) (*agent, error) {
	dev, err := netstack.OpenTUN(device, 1500)
	if err != nil {
		return nil, err
	}
	s, err := netstack.New(netstack.Config{Device: dev, Handler: func(f *netstack.Flow) {
		if c, err := f.Accept(); err == nil {
			_, _ = c.Write([]byte("tunnel\n")) // the test sees what is missing
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}})
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	host, err := hostnet.Open(hostnet.Config{Device: device, Addr4: tun4, Addr6: tun6, StateFile: stateFile})
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return &agent{host: host, stack: s, stop: func() error {
		cancel()
		return <-done
	}}, nil
}

// lab is a client's namespace, and a router's that has the addresses that clients dial.
type lab struct {
	t              *testing.T
	client, router *netstacktest.Namespace
	stateFile      string
}

// The router's addresses: one to protect, one to leave alone; its ports: likewise.
var (
	p1v4, p2v4 = netip.MustParseAddr("198.18.1.1"), netip.MustParseAddr("198.18.1.2")
	p1v6, p2v6 = netip.MustParseAddr("2001:2::1:1"), netip.MustParseAddr("2001:2::1:2")
)

const (
	portProtected = 443
	portOther     = 22
)

func protected() []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(p1v4, portProtected), netip.AddrPortFrom(p1v6, portProtected)}
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, client: netstacktest.NewNamespace(t), router: netstacktest.NewNamespace(t), stateFile: t.TempDir() + "/hostnet.json"}
	netstacktest.Veth(l.client, l.router, "eth0", []string{"198.18.0.1/24", "2001:2::1/64"}, []string{"198.18.0.2/24", "2001:2::2/64"})
	l.router.Must(func() error {
		return errors.Join(
			netstacktest.Up("lo", p1v4.String()+"/32", p2v4.String()+"/32", p1v6.String()+"/128", p2v6.String()+"/128"),
			l.listen(portProtected), l.listen(portOther), l.listenUDP(p1v4), l.listenUDP(p1v6),
		)
	})
	l.client.Must(func() error {
		return errors.Join(netstacktest.Route("0.0.0.0/0", "", "198.18.0.2"), netstacktest.Route("2001:2::1:0/112", "", "2001:2::2"))
	})
	return l
}

// listen serves TCP on every address of the router: it says "direct", then echoes.
func (l *lab) listen(port uint16) error {
	tcp, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	l.t.Cleanup(func() { _ = tcp.Close() }) // ends the goroutine
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Write([]byte("direct\n")) // the test sees what is missing
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return nil
}

// listenUDP says "direct" to each datagram.
func (l *lab) listenUDP(addr netip.Addr) error {
	udp, err := net.ListenPacket("udp", netip.AddrPortFrom(addr, portProtected).String())
	if err != nil {
		return err
	}
	l.t.Cleanup(func() { _ = udp.Close() }) // ends the goroutine
	go func() {
		b := make([]byte, 1500)
		for {
			_, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte("direct\n"), from) // the same
		}
	}()
	return nil
}

func (l *lab) dial(d net.Dialer, network string, to netip.AddrPort) (c net.Conn, err error) {
	d.Timeout = 3 * time.Second
	d.SetMultipathTCP(false)
	err = l.client.Enter(func() (err error) {
		c, err = d.Dial(network, to.String())
		return err
	})
	return c, err
}

// way says which way a new connection of an application goes: "direct", "tunnel" or an error.
func (l *lab) way(to netip.AddrPort) string { return l.wayOf(net.Dialer{}, "tcp", to) }

func (l *lab) wayOf(d net.Dialer, network string, to netip.AddrPort) string {
	c, err := l.dial(d, network, to)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return err.Error()
		}
	}
	return greeting(c)
}

func greeting(c net.Conn) string {
	if err := c.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err.Error()
	}
	s, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(s)
}

func (l *lab) wantWay(what string, to netip.AddrPort, want string) {
	l.t.Helper()
	if got := l.way(to); got != want {
		l.t.Errorf("%s (%v): goes %q, want %q", what, to, got, want)
	}
}

// traces is everything of ours in the client's namespace.
type traces struct {
	rules, routes, addrs int
	device               bool
}

func (l *lab) traces() (got traces) {
	l.t.Helper()
	l.client.Must(func() error {
		for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rules, err := netlink.RuleList(fam)
			if err != nil {
				return err
			}
			for _, r := range rules {
				if r.Protocol == 77 {
					got.rules++
				}
			}
			routes, err := netlink.RouteListFiltered(fam, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			got.routes += len(routes)
		}
		link, err := netlink.LinkByName(device)
		if err != nil {
			return nil
		}
		got.device = true
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		got.addrs = len(addrs)
		return err
	})
	return got
}

// rulesOfTwo is how many rules one IPv4 and one IPv6 address need.
const rulesOfTwo = 2 + 4

// start starts an agent process and waits until it protects addrs.
func (l *lab) start(addrs ...netip.AddrPort) (cmd *exec.Cmd, janitor int) {
	l.t.Helper()
	config, err := json.Marshal(childConfig{StateFile: l.stateFile, Protected: addrs})
	if err != nil {
		l.t.Fatal(err)
	}
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+string(config))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.client.Start(cmd); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { // kills what the test has not killed
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = stdin.Close()
	})
	var ready childReady
	if err := json.NewDecoder(stdout).Decode(&ready); err != nil {
		l.t.Fatalf("agent process did not come up: %v", err)
	}
	return cmd, ready.Janitor
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}
