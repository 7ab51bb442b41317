package packethandler

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

const patience = 10 * time.Second

// world is a Handler between a client and an origin on loopback.
type world struct {
	t      *testing.T
	h      *Handler
	origin *net.TCPListener
	at     netip.AddrPort
}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// freePort is one that was free a moment ago.
func freePort(t *testing.T) netip.AddrPort {
	l := listen(t)
	defer l.Close()
	return addrPort(l.Addr())
}

func start(t *testing.T, edit func(*Config)) *world {
	t.Helper()
	w := &world{t: t, origin: listen(t), at: freePort(t)}
	cfg := Config{Services: []Service{{Name: "web", Public: []netip.AddrPort{w.at}, Origin: w.origin.Addr().String()}}}
	if edit != nil {
		edit(&cfg)
	}
	w.h = New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run did not end")
		}
	})
	w.until("the ports are open", func() bool {
		w.h.mu.Lock()
		defer w.h.mu.Unlock()
		return len(w.h.doors) == len(cfg.Services)
	})
	return w
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain: %s", what)
		}
	}
}

func dial(t *testing.T, at netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	return guard(t, c)
}

func guard(t *testing.T, c *net.TCPConn) *net.TCPConn {
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

// pair connects a client through the handler and returns both ends.
func (w *world) pair() (client, origin *net.TCPConn) {
	w.t.Helper()
	client = dial(w.t, w.at)
	w.origin.SetDeadline(time.Now().Add(patience))
	o, err := w.origin.AcceptTCP()
	if err != nil {
		w.t.Fatal(err)
	}
	return client, guard(w.t, o)
}

func wantReset(t *testing.T, why string, c net.Conn) {
	t.Helper()
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: read got %v, want a reset", why, err)
	}
}

// wantDialReset wants a new client reset, in its connect already if the reset was quick.
func wantDialReset(t *testing.T, why string, at netip.AddrPort) {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
	if err == nil {
		wantReset(t, why, guard(t, c))
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: connect got %v, want a reset", why, err)
	}
}

func TestBytesAreTheSameBothWays(t *testing.T) {
	w := start(t, nil)
	client, origin := w.pair()
	up, down := make([]byte, 3<<20), make([]byte, 5<<20)
	fill := rand.NewChaCha8([32]byte{1})
	fill.Read(up)
	fill.Read(down)
	digest := func(c net.Conn) chan [32]byte {
		ch := make(chan [32]byte, 1)
		go func() {
			b, _ := io.ReadAll(c)
			ch <- sha256.Sum256(b)
		}()
		return ch
	}
	atOrigin, atClient := digest(origin), digest(client)
	go func() { origin.Write(down); origin.CloseWrite() }()
	client.Write(up)
	client.CloseWrite()
	if got := <-atOrigin; got != sha256.Sum256(up) {
		t.Error("origin got other bytes than the client sent")
	}
	if got := <-atClient; got != sha256.Sum256(down) {
		t.Error("client got other bytes than the origin sent")
	}
	w.until("flow forgotten", func() bool { return w.h.Stats().Open == 0 })
	if s := w.h.Stats(); s.In != 3<<20 || s.Out != 5<<20 || s.Accepted != 1 {
		t.Errorf("stats got %+v", s)
	}
}

func TestHalfCloseKeepsTheOtherDirection(t *testing.T) {
	for _, clientFirst := range []bool{true, false} {
		w := start(t, nil)
		a, b := w.pair()
		if !clientFirst {
			a, b = b, a
		}
		a.CloseWrite()
		if got, err := io.ReadAll(b); err != nil || len(got) != 0 {
			t.Fatalf("clientFirst %v: got %q, %v, want a clean end", clientFirst, got, err)
		}
		b.Write([]byte("answer after the end"))
		b.Close()
		if got, err := io.ReadAll(a); err != nil || string(got) != "answer after the end" {
			t.Errorf("clientFirst %v: got %q, %v", clientFirst, got, err)
		}
	}
}

func TestResetPassesOn(t *testing.T) {
	w := start(t, nil)
	client, origin := w.pair()
	client.SetLinger(0)
	client.Close()
	wantReset(t, "client reset", origin)

	client, origin = w.pair()
	origin.Write([]byte("half an answer"))
	if _, err := io.ReadFull(client, make([]byte, 14)); err != nil {
		t.Fatal(err)
	}
	origin.SetLinger(0)
	origin.Close()
	wantReset(t, "origin reset", client)
}

// The writer to a connection and its reader race for the kernel's one report of a reset. Whoever
// gets it, the other side must never see a clean end.
func TestResetWhileWritingIsNeverAnEnd(t *testing.T) {
	w := start(t, nil)
	for i := range 40 {
		client, origin := w.pair()
		wrote := make(chan error, 1)
		go func() {
			for b := make([]byte, 64<<10); ; {
				if _, err := client.Write(b); err != nil {
					wrote <- err
					return
				}
			}
		}()
		io.ReadFull(origin, make([]byte, 256<<10))
		origin.SetLinger(0)
		origin.Close()
		// The same race is in this client: its writer may be told. After a clean end it would get EPIPE.
		_, err := io.Copy(io.Discard, client)
		if werr := <-wrote; err == nil && !errors.Is(werr, syscall.ECONNRESET) {
			t.Fatalf("round %d: client saw a clean end of an answer that was reset (write: %v)", i, werr)
		}
		client.Close()
	}
}

func TestOriginUnreachableResetsTheClient(t *testing.T) {
	w := start(t, nil)
	w.origin.Close()
	wantDialReset(t, "origin refuses", w.at)
	w.until("counted", func() bool { return w.h.Stats().Refused == 1 })
}

func TestSilentOriginIsBounded(t *testing.T) {
	w := start(t, func(c *Config) {
		c.DialTimeout = 20 * time.Millisecond
		c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	wantDialReset(t, "origin silent", w.at)
}

func TestCap(t *testing.T) {
	w := start(t, func(c *Config) { c.MaxConns = 1 })
	client, origin := w.pair()
	wantDialReset(t, "one too many", w.at)
	if s := w.h.Stats(); s.OverCap != 1 || s.Open != 1 {
		t.Errorf("stats got %+v", s)
	}
	client.Close()
	origin.Close()
	w.until("place is free again", func() bool { return w.h.Stats().Open == 0 })
	w.pair()
}

func TestSuspendResetsAndResumeServes(t *testing.T) {
	w := start(t, nil)
	client, origin := w.pair()
	w.h.SetForwarding(false)
	wantReset(t, "suspended, client side", client)
	wantReset(t, "suspended, origin side", origin)
	wantDialReset(t, "new client while suspended", w.at)
	if s := w.h.Stats(); s.Suspended != 1 {
		t.Errorf("stats got %+v", s)
	}
	w.h.SetForwarding(true)
	client, origin = w.pair()
	client.Write([]byte("x"))
	if _, err := io.ReadFull(origin, make([]byte, 1)); err != nil {
		t.Errorf("after the suspension: %v", err)
	}
}

// TestSteadyServiceIsNotSuspended: its clients have nowhere to move, and its connections are no reason to wait with a suspension.
func TestSteadyServiceIsNotSuspended(t *testing.T) {
	w := start(t, func(c *Config) { c.Services[0].Steady = true })
	client, origin := w.pair()
	if s := w.h.Stats(); s.Open != 1 || s.Ending != 0 {
		t.Errorf("stats %+v, want one connection open and none that will end", s)
	}
	w.h.SetForwarding(false)
	for range 2 {
		client.Write([]byte("x"))
		if _, err := io.ReadFull(origin, make([]byte, 1)); err != nil {
			t.Errorf("suspended: %v", err)
		}
		client, origin = w.pair()
	}
}

func TestFlows(t *testing.T) {
	w := start(t, nil)
	client, _ := w.pair()
	want := Flow{Src: addrPort(client.LocalAddr()), Dst: w.at}
	if got := w.h.Flows(); len(got) != 1 || got[0] != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSetServices(t *testing.T) {
	w := start(t, nil)
	old, _ := w.pair()
	other := freePort(t)
	if err := w.h.SetServices([]Service{{Name: "db", Public: []netip.AddrPort{other}, Origin: w.origin.Addr().String()}}); err != nil {
		t.Fatal(err)
	}
	if c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(w.at)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("port of a removed service: got %v, %v, want refused", c, err)
	}
	before := w.at
	w.at = other
	w.pair()
	old.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := old.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("open connection of a removed service: got %v, want it to live", err)
	}

	busy := listen(t)
	err := w.h.SetServices([]Service{
		{Name: "web", Public: []netip.AddrPort{addrPort(busy.Addr())}, Origin: "x"},
		{Name: "db", Public: []netip.AddrPort{other, before}, Origin: w.origin.Addr().String()},
	})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), busy.Addr().String()) ||
		!strings.Contains(err.Error(), `"web"`) || !strings.Contains(err.Error(), "another program has port") {
		t.Errorf("busy port: got %v", err)
	}
	w.at = before
	w.pair() // the others serve all the same
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func TestBusyPortAtStart(t *testing.T) {
	busy := listen(t)
	h := New(Config{Services: []Service{{Name: "web", Public: []netip.AddrPort{addrPort(busy.Addr())}}}})
	if err := h.Run(t.Context()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v", err)
	}
}

// sickListener fails a few times before it lets anybody in.
type sickListener struct {
	net.Listener
	errs []error
}

func (l *sickListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: err}
	}
	return l.Listener.Accept()
}

func TestAcceptSurvives(t *testing.T) {
	w := start(t, func(c *Config) {
		c.Listen = func(at netip.AddrPort) (net.Listener, error) {
			l, err := listenTCP(at)
			return &sickListener{l, []error{syscall.EMFILE, syscall.ECONNABORTED, syscall.ENOBUFS}}, err
		}
	})
	w.pair()
	if s := w.h.Stats(); s.AcceptErrors != 3 {
		t.Errorf("accept errors got %d, want 3", s.AcceptErrors)
	}
}

func TestProxyHeader(t *testing.T) {
	for _, c := range []struct{ name, src, dst, want string }{
		{"IPv4", "198.18.0.9:40000", "198.18.0.1:443", "0d0a0d0a000d0a515549540a" + "2111000c" + "c6120009" + "c6120001" + "9c40" + "01bb"},
		{"IPv6", "[2001:2::9]:40000", "[2001:2::1]:443", "0d0a0d0a000d0a515549540a" + "21210024" +
			"20010002000000000000000000000009" + "20010002000000000000000000000001" + "9c40" + "01bb"},
	} {
		got := hex.EncodeToString(appendProxyHeader(nil, netip.MustParseAddrPort(c.src), netip.MustParseAddrPort(c.dst)))
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestProxyHeaderComesFirst(t *testing.T) {
	w := start(t, func(c *Config) { c.Services[0].ProxyProtocol = true })
	client, origin := w.pair()
	client.Write([]byte("hello"))
	want := append(appendProxyHeader(nil, addrPort(client.LocalAddr()), w.at), "hello"...)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(origin, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %x, %v, want %x", got, err, want)
	}
}
