package paper

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
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrationsensor/examples/lab/kernel"
)

// asProxy, in the environment, makes this test program a proxy: its value is the Config.
const asProxy = "PAPER_TEST_PROXY"

var noSandbox error

func TestMain(m *testing.M) {
	if text := os.Getenv(asProxy); text != "" {
		if err := proxyMain(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	noSandbox = kernel.Enter()
	os.Exit(m.Run())
}

func proxyMain(text string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var c Config
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	n, err := Run(ctx, c, os.Stdout)
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(n))
}

var (
	gateway  = netip.MustParseAddr("198.18.0.1")
	ratifyAt = netip.MustParseAddrPort("198.18.80.12:7450")
	originAt = netip.MustParseAddrPort("198.18.80.30:8007")
	p1At     = netip.AddrPortFrom(testAddress, 80)
	p2At     = testNotice.to
)

// world is client, P1, the machine that takes P1's address when it is attacked, and P2, around a
// router that is the origin too.
type world struct {
	router, client, p1, attacked, p2 *kernel.Namespace
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	w := &world{}
	for _, m := range []struct {
		at    **kernel.Namespace
		name  string
		extra map[string]string
		addrs []netip.Addr
	}{
		{&w.router, "router", map[string]string{"ipv4/ip_forward": "1"}, nil},
		{&w.client, "client", nil, []netip.Addr{testClient.Addr()}},
		{&w.p1, "p1", nil, []netip.Addr{testAddress}},
		{&w.attacked, "attacked", nil, []netip.Addr{netip.MustParseAddr("198.18.80.13")}},
		{&w.p2, "p2", nil, []netip.Addr{p2At.Addr(), ratifyAt.Addr()}},
	} {
		ns, err := kernel.NewNamespace(m.name, m.extra)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		*m.at = ns
		if m.addrs == nil {
			err = ns.Up("lo", single(gateway), single(originAt.Addr()))
		} else {
			err = w.plugIn(ns, m.addrs)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.serveEcho(t)
	return w
}

// plugIn joins a machine to the router. The attacked one is a neighbour for P1's address too, and
// does not own it.
func (w *world) plugIn(ns *kernel.Namespace, addrs []netip.Addr) error {
	router, machine := &kernel.Plug{In: w.router, Name: ns.Name}, &kernel.Plug{In: ns, Name: "eth0"}
	if err := kernel.Veth(router, machine); err != nil {
		return err
	}
	err := errors.Join(
		ns.Neighbour("eth0", gateway, router.MAC),
		ns.Route(kernel.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: gateway, Dev: "eth0"}),
		w.router.Neighbour(ns.Name, testAddress, machine.MAC),
	)
	for _, a := range addrs {
		err = errors.Join(err,
			ns.Up("lo", single(a)),
			w.router.Neighbour(ns.Name, a, machine.MAC),
			w.router.Route(kernel.Route{To: single(a), Dev: ns.Name}),
		)
	}
	return err
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// attack routes P1's address to the machine with the checker.
func (w *world) attack(t *testing.T) {
	t.Helper()
	if err := w.router.Route(kernel.Route{To: single(testAddress), Dev: w.attacked.Name}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) serveEcho(t *testing.T) {
	t.Helper()
	l, err := w.router.Listen("tcp", originAt.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
}

// proxy is a running child.
type proxy struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Reader
}

func startProxy(t *testing.T, ns *kernel.Namespace, c Config) *proxy {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asProxy+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	p := &proxy{t, cmd, bufio.NewReader(out)}
	if line, err := p.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%s says %q, %v", c.Role, line, err)
	}
	return p
}

// stop ends the proxy as its user does and returns what it counted.
func (p *proxy) stop() (n Counts) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := json.NewDecoder(p.out).Decode(&n); err != nil {
		p.t.Errorf("counts: %v", err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("the proxy ended with %v", err)
	}
	return n
}

// forwarder is the Config of a forwarder at an address.
func forwarderAt(r Role, at netip.AddrPort) Config {
	return Config{Role: r, Assumed: Assume(0), Ratify: ratifyAt, Forwards: []Forward{{at, originAt}}}
}

func checkerWith(p float64) Config {
	c := Config{
		Role: Checker, Assumed: Assume(0), Ratify: ratifyAt,
		Address: testAddress, Ports: []uint16{80}, P2: p2At.Addr(), P: p, Toward: gateway,
	}
	c.Assumed.Key, c.Assumed.PreFilter = testKey, 0
	return c
}

// dial is the paper's client. The wait is long where a notification ends it, so that a slow machine
// does not change what happens.
func (w *world) dial(t *testing.T, wait time.Duration) (c net.Conn, told Told, err error) {
	t.Helper()
	a := Assume(0)
	a.Key, a.ReceiveTimeout = testKey, wait
	err = w.client.Block(func() error {
		var fd int
		fd, told, err = Dial(t.Context(), p1At, a)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "connection")
		defer f.Close()
		c, err = net.FileConn(f)
		return err
	})
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, told, err
}

// echo sends bytes, ends its side and wants the same bytes and then the end.
func echo(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	sent := strings.Repeat("seven hundred and sixty thousand bytes ", 1000)
	done := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, sent)
		done <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err == nil && string(got) != sent {
		err = fmt.Errorf("%d bytes came back of %d", len(got), len(sent))
	}
	return errors.Join(err, <-done)
}
