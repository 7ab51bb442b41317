package firewall

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

const (
	ifname     = "edge0"
	linkPort   = 7443
	dropPort   = 8443 // a service with plain = drop
	openPort   = 9443 // a service with plain = admit
	cookiePort = 6443 // a service with plain = cookie
	sshPort    = 22   // none of our business
	noPort     = 1    // nobody listens
)

// patience is how long a connect must hang to count as dropped. On a veth an answer takes
// microseconds, and the capture in TestHiddenIsDark proves silence without a clock.
const patience = 150 * time.Millisecond

// ends are the addresses of one family.
type ends struct {
	name                              string
	edge, client, admitted, peer, own netip.Addr // own: of the edge's interface; edge: its public one
}

var families = []ends{
	{"IPv4", netip.MustParseAddr("198.18.72.1"), netip.MustParseAddr("198.18.71.2"), netip.MustParseAddr("198.18.71.3"),
		netip.MustParseAddr("198.18.71.4"), netip.MustParseAddr("198.18.71.1")},
	{"IPv6", netip.MustParseAddr("2001:2:0:72::1"), netip.MustParseAddr("2001:2:0:71::2"), netip.MustParseAddr("2001:2:0:71::3"),
		netip.MustParseAddr("2001:2:0:71::4"), netip.MustParseAddr("2001:2:0:71::1")},
}

// world is an edge and, behind a veth, everybody else.
type world struct {
	t                *testing.T
	edge, outside    *space
	hwEdge, hwClient net.HardwareAddr
}

// newWorld makes the test parallel: most of its time it waits for silence.
func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	w := &world{t: t, edge: newSpace(t), outside: newSpace(t)}
	w.edge.up("lo", "198.18.72.1/32", "2001:2:0:72::1/128")
	w.outside.up("lo")
	w.edge.sysctl("ipv4/conf/all/rp_filter", "0")
	w.edge.sysctl("ipv4/icmp_ratelimit", "0")
	w.edge.sysctl("ipv6/icmp/ratelimit", "0")
	w.plug()
	return w
}

// plug joins the two; it is called again when the interface was removed.
func (w *world) plug() {
	w.t.Helper()
	w.edge.join(w.outside, ifname)
	w.hwEdge = w.edge.up(ifname, "198.18.71.1/24", "2001:2:0:71::1/64")
	w.hwClient = w.outside.up(ifname, "198.18.71.2/24", "198.18.71.3/24", "198.18.71.4/24",
		"2001:2:0:71::2/64", "2001:2:0:71::3/64", "2001:2:0:71::4/64")
	w.edge.waitUp(ifname)
	w.outside.waitUp(ifname)
	w.outside.route("198.18.72.0/24", "198.18.71.1")
	w.outside.route("2001:2:0:72::/64", "2001:2:0:71::1")
	for _, f := range families {
		w.outside.neighbour(ifname, f.own.String(), w.hwEdge)
		for _, a := range []netip.Addr{f.client, f.admitted, f.peer} {
			w.edge.neighbour(ifname, a.String(), w.hwClient)
		}
	}
	for _, f := range families {
		for _, a := range []netip.Addr{f.client, f.admitted, f.peer} {
			w.waitAlive(w.edge, netip.Addr{}, a)
		}
		w.waitAlive(w.outside, f.peer, f.edge)
	}
}

// waitAlive returns when an address answers: a new IPv6 address takes its time even without
// duplicate address detection. These connects get through every firewall here.
func (w *world) waitAlive(s *space, from, to netip.Addr) {
	w.t.Helper()
	d := net.Dialer{Timeout: 50 * time.Millisecond}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	s.must("wait for "+to.String(), func() (err error) {
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
			if _, err = d.Dial("tcp", netip.AddrPortFrom(to, noPort).String()); errors.Is(err, syscall.ECONNREFUSED) {
				return nil
			}
		}
		return err
	})
}

func config(hidden bool) Config {
	cfg := Config{Interfaces: []string{ifname}, LinkPort: linkPort, Hidden: hidden}
	for _, f := range families {
		cfg.Addrs = append(cfg.Addrs, f.edge)
		cfg.Allow = append(cfg.Allow, netip.PrefixFrom(f.peer, f.peer.BitLen()))
		cfg.Services = append(cfg.Services, netip.AddrPortFrom(f.edge, dropPort), netip.AddrPortFrom(f.edge, openPort), netip.AddrPortFrom(f.edge, cookiePort))
	}
	cfg.Plain = func(s netip.AddrPort) Plain {
		return map[uint16]Plain{openPort: PlainAdmit, cookiePort: PlainCookie}[s.Port()]
	}
	return cfg
}

// firewall opens one on the edge.
func (w *world) firewall(cfg Config) *Firewall {
	w.t.Helper()
	f, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.edge.must("open firewall", func() error {
		undo, err := f.Open()
		if err == nil {
			w.t.Cleanup(func() {
				if err := undo(); err != nil {
					w.t.Errorf("undo: %v", err)
				}
			})
		}
		return err
	})
	return f
}

// serve echoes on every port of the edge but noPort.
func (w *world) serve() {
	w.t.Helper()
	for _, port := range []string{"7443", "8443", "9443", "6443", "22"} {
		w.edge.must("listen", func() error { return echo(w.t, ":"+port) })
	}
}

func echo(t *testing.T, addr string) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
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
	return nil
}

// dial connects from an address outside.
func (w *world) dial(from, to netip.Addr, port uint16, wait time.Duration) (c net.Conn, err error) {
	d := net.Dialer{Timeout: wait, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	d.SetMultipathTCP(false)
	w.outside.do(func() { c, err = d.Dial("tcp", netip.AddrPortFrom(to, port).String()) })
	if err == nil {
		w.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// wantIn connects and exchanges bytes.
func (w *world) wantIn(why string, from, to netip.Addr, port uint16) net.Conn {
	w.t.Helper()
	c, err := w.dial(from, to, port, 5*time.Second)
	if err != nil {
		w.t.Fatalf("%s: %v", why, err)
	}
	w.wantAlive(why, c)
	return c
}

// wantOut is answered by nothing at all.
func (w *world) wantOut(why string, from, to netip.Addr, port uint16) {
	w.t.Helper()
	_, err := w.dial(from, to, port, patience)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		w.t.Errorf("%s: got %v, want a connect that hangs", why, err)
	}
}

// wantRefused is answered by the kernel.
func (w *world) wantRefused(why string, from, to netip.Addr, port uint16) {
	w.t.Helper()
	if _, err := w.dial(from, to, port, 5*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		w.t.Errorf("%s: got %v, want connection refused", why, err)
	}
}

func (w *world) wantAlive(why string, c net.Conn) {
	w.t.Helper()
	if err := exchange(c, 5*time.Second); err != nil {
		w.t.Errorf("%s: %v", why, err)
	}
}

func (w *world) wantStalled(why string, c net.Conn) {
	w.t.Helper()
	if err := exchange(c, patience); !errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Errorf("%s: got %v, want silence", why, err)
	}
}

func exchange(c net.Conn, wait time.Duration) error {
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}

// flow is a client's connection as the edge sees it.
func flow(c net.Conn) Flow {
	return Flow{Src: c.LocalAddr().(*net.TCPAddr).AddrPort(), Dst: c.RemoteAddr().(*net.TCPAddr).AddrPort()}
}

// udp sends a datagram and reports whether the kernel answered "port unreachable". The connect
// to the allowed port afterwards is the fence: what the edge answered before it is here.
func (w *world) udpRefused(fence ends, from, to netip.Addr, port uint16) bool {
	w.t.Helper()
	var c net.Conn
	w.outside.must("UDP", func() (err error) {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		c, err = d.Dial("udp", netip.AddrPortFrom(to, port).String())
		return err
	})
	defer c.Close()
	if _, err := c.Write([]byte("knock")); err != nil {
		w.t.Fatal(err)
	}
	w.wantIn("fence", fence.peer, fence.edge, sshPort)
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, syscall.ECONNREFUSED)
}
