package memnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"migrationsensor/netstack"
)

var (
	client4, client6 = netip.MustParseAddr("198.18.1.1"), netip.MustParseAddr("2001:2:0:1::1")
	server4, server6 = netip.MustParseAddr("198.18.2.1"), netip.MustParseAddr("2001:2:0:2::1")
	nobody4, nobody6 = netip.MustParseAddr("198.18.3.1"), netip.MustParseAddr("2001:2:0:3::1")
)

// pair is a client and a server on one segment.
type pair struct {
	t              *testing.T
	net            *Network
	client, server *Host
}

func newPair(t *testing.T, cfg Config) *pair {
	t.Helper()
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	p := &pair{t: t, net: New(cfg)}
	t.Cleanup(func() {
		p.net.Close()
		if t.Failed() {
			t.Logf("seed %d", cfg.Seed)
		}
	})
	for _, h := range []struct {
		at    **Host
		name  string
		addrs []netip.Addr
	}{
		{&p.client, "client", []netip.Addr{client4, client6}},
		{&p.server, "server", []netip.Addr{server4, server6}},
	} {
		var err error
		*h.at, err = p.net.Add(h.name, Port{Name: "eth0", Segment: "internet", Addrs: h.addrs, Routes: Everywhere})
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func eachVersion(t *testing.T, f func(t *testing.T, server, nobody netip.Addr)) {
	t.Run("IPv4", func(t *testing.T) { f(t, server4, nobody4) })
	t.Run("IPv6", func(t *testing.T) { f(t, server6, nobody6) })
}

func (p *pair) listen(a netip.Addr) net.Listener {
	p.t.Helper()
	l, err := p.server.Listen(netip.AddrPortFrom(a, 80))
	if err != nil {
		p.t.Fatal(err)
	}
	return l
}

// connect returns both ends of a connection.
func (p *pair) connect(l net.Listener) (near netstack.Conn, far net.Conn) {
	p.t.Helper()
	at, _ := netip.ParseAddrPort(l.Addr().String())
	near, err := p.client.Dial(p.t.Context(), at)
	if err != nil {
		p.t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		p.t.Fatal(err)
	}
	for _, c := range []net.Conn{near, far} {
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			p.t.Fatal(err)
		}
	}
	return near, far
}

func TestConnIsANetConn(t *testing.T) {
	eachVersion(t, func(t *testing.T, server, _ netip.Addr) {
		p := newPair(t, Config{})
		l := p.listen(server)
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			a, err := p.client.Dial(t.Context(), netip.AddrPortFrom(server, 80))
			if err != nil {
				return nil, nil, nil, err
			}
			b, err := l.Accept()
			if err != nil {
				return nil, nil, nil, err
			}
			return a, b, func() { a.Abort(); b.(netstack.Conn).Abort() }, nil
		})
	})
}

func TestErrorsAreErrnos(t *testing.T) {
	eachVersion(t, func(t *testing.T, server, nobody netip.Addr) {
		p := newPair(t, Config{})
		if _, err := p.client.Dial(t.Context(), netip.AddrPortFrom(server, 81)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("closed port: got %v, want ECONNREFUSED", err)
		}
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := p.client.Dial(short, netip.AddrPortFrom(nobody, 80)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an address that nobody has: got %v, want silence", err)
		}
		l := p.listen(server)
		if _, err := p.server.Listen(netip.AddrPortFrom(server, 80)); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second listener: got %v, want EADDRINUSE", err)
		}
		if _, err := p.server.Listen(netip.AddrPortFrom(nobody, 80)); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("listener at a foreign address: got %v, want EADDRNOTAVAIL", err)
		}
		near, far := p.connect(l)
		near.Abort()
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after the other end's abort: got %v, want ECONNRESET", err)
		}
		l.Close()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: got %v, want net.ErrClosed", err)
		}
	})
}

func TestUnreachableIsAnOption(t *testing.T) {
	eachVersion(t, func(t *testing.T, _, nobody netip.Addr) {
		p := newPair(t, Config{Unreachable: true})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := p.client.Dial(ctx, netip.AddrPortFrom(nobody, 80))
		if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("got %v, want EHOSTUNREACH or ENETUNREACH", err)
		}
	})
}

func TestDatagramsCross(t *testing.T) {
	eachVersion(t, func(t *testing.T, server, _ netip.Addr) {
		p := newPair(t, Config{})
		at := netip.AddrPortFrom(server, 7443)
		c, err := p.server.Process().ListenPacket("", at)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.client.Process().SendTo("eth0", at, []byte("knock")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 16)
		n, from, err := c.ReadFrom(b)
		if err != nil || string(b[:n]) != "knock" {
			t.Fatalf("got %q, %v", b[:n], err)
		}
		if a := from.(*net.UDPAddr).AddrPort().Addr(); a != client4 && a != client6 {
			t.Errorf("from %v, want the client", from)
		}
		if err := c.SetReadDeadline(time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.ReadFrom(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("past the deadline: got %v", err)
		}
		c.Close()
		if _, _, err := c.ReadFrom(b); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: got %v", err)
		}
	})
}

// transfer sends size bytes both ways at once and compares digests.
func transfer(t *testing.T, a, b net.Conn, size int) {
	t.Helper()
	want := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(want)
	sum := sha256.Sum256(want)
	errs := make(chan error, 4)
	for _, c := range []net.Conn{a, b} {
		go func() {
			_, err := io.Copy(c, bytes.NewReader(want))
			errs <- errors.Join(err, c.(interface{ CloseWrite() error }).CloseWrite())
		}()
		go func() {
			h := sha256.New()
			_, err := io.Copy(h, c)
			if err == nil && [sha256.Size]byte(h.Sum(nil)) != sum {
				err = errors.New("other bytes than were sent")
			}
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestFaultsLoseNoByte is for each fault by itself: TCP repairs it, and it did happen.
func TestFaultsLoseNoByte(t *testing.T) {
	const size = 200 << 10
	for name, c := range map[string]Conditions{
		"none":      {},
		"delay":     {Delay: 5 * time.Millisecond},
		"loss":      {Loss: 0.02, Delay: time.Millisecond},
		"duplicate": {Duplicate: 0.2},
		"reorder":   {Reorder: 0.1, HoldBack: 2 * time.Millisecond},
		"rate":      {Rate: 1e6, Queue: 30_000},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Config{})
			p.net.Play(Fault{Host: "client", Conditions: c})
			near, far := p.connect(p.listen(server4))
			began := time.Now()
			transfer(t, near, far, size)
			took := time.Since(began)
			if name == "rate" && took < size*9/10*time.Second/1e6 {
				t.Errorf("%d bytes at 1 MB/s took %v", size, took)
			}
			if name == "loss" && p.net.Counts().Lost == 0 {
				t.Error("nothing was lost")
			}
		})
	}
}

func TestDelayIsTheRoundTrip(t *testing.T) {
	p := newPair(t, Config{})
	p.client.Interface("eth0").Set(Conditions{Delay: 20 * time.Millisecond}, Conditions{Delay: 30 * time.Millisecond})
	p.listen(server4)
	began := time.Now()
	if _, err := p.client.Dial(t.Context(), netip.AddrPortFrom(server4, 80)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("connect took %v, the round trip is 50 ms", took)
	}
}

func TestCutOfOneWayForATime(t *testing.T) {
	p := newPair(t, Config{})
	near, far := p.connect(p.listen(server4))
	p.net.Play(
		Fault{Host: "server", Peer: "client", Way: Out, Until: 300 * time.Millisecond, Conditions: Conditions{Cut: true}},
		Fault{Host: "server", Peer: "somebody", Conditions: Conditions{Cut: true}}, // none of this pair's business
	)
	began := time.Now()
	if _, err := near.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	if _, err := io.ReadFull(far, b); err != nil || time.Since(began) > 200*time.Millisecond {
		t.Errorf("the way in is not cut: got %v after %v", err, time.Since(began))
	}
	if _, err := far.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(near, b[:6]); err != nil || time.Since(began) < 290*time.Millisecond {
		t.Errorf("got %v after %v, want the answer after the cut", err, time.Since(began))
	}
}

// TestSeedChoosesTheFaults is about what can be replayed: the same packets in the same order fare the same.
func TestSeedChoosesTheFaults(t *testing.T) {
	draw := func(seed uint64) (out [200]bool) {
		l := newLane(Conditions{Loss: 0.3}, seed, 1)
		for i := range out {
			_, _, out[i] = l.pass(100, time.Time{})
		}
		return out
	}
	if first, again := draw(7), draw(7); first != again {
		t.Error("one seed, two fates")
	}
	if draw(7) == draw(8) {
		t.Error("two seeds, one fate")
	}
}

func TestKillIsWhatPeersSeeOfSIGKILL(t *testing.T) {
	p := newPair(t, Config{})
	l := p.listen(server4)
	near, far := p.connect(l)
	unread, half := p.connect(l)
	if _, err := unread.Write([]byte("xy")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(half, make([]byte, 1)); err != nil { // nobody reads the other byte
		t.Fatal(err)
	}
	old := p.server.Process()
	reads := make(chan error, 1)
	go func() { _, err := far.Read(make([]byte, 1)); reads <- err }()
	p.server.Kill()
	if err := <-reads; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the killed process's own read: got %v", err)
	}
	if _, err := old.Listen(netip.AddrPortFrom(server4, 90)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the killed process listens: got %v", err)
	}
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("peer of an idle connection: got %v, want EOF", err)
	}
	if _, err := near.Write([]byte("still there?")); err != nil {
		t.Fatal(err)
	}
	if err := eventually(func() error { _, err := near.Write([]byte("x")); return err }); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("peer that writes on: got %v, want a reset", err)
	}
	if _, err := unread.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("peer whose bytes lay unread: got %v, want ECONNRESET", err)
	}
	if _, err := p.client.Dial(t.Context(), netip.AddrPortFrom(server4, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("new connection: got %v, want ECONNREFUSED", err)
	}
	near, far = p.connect(p.listen(server4)) // the next process has the port
	transfer(t, near, far, 1000)
}

// eventually calls f until it fails.
func eventually(f func() error) error {
	for range 1000 {
		if err := f(); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("it never fails")
}

func TestStopIsWhatPeersSeeOfSIGSTOP(t *testing.T) {
	p := newPair(t, Config{})
	l := p.listen(server4)
	near, far := p.connect(l)
	p.server.Stop()
	if _, err := near.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.Dial(t.Context(), netip.AddrPortFrom(server4, 80)); err != nil {
		t.Errorf("the kernel of a stopped process makes connections: got %v", err)
	}
	read := make(chan string, 1)
	go func() {
		b := make([]byte, 5)
		n, _ := io.ReadFull(far, b)
		read <- string(b[:n])
	}()
	select {
	case got := <-read:
		t.Fatalf("a stopped process read %q", got)
	case <-time.After(100 * time.Millisecond):
	}
	p.server.Continue()
	if got := <-read; got != "hello" {
		t.Errorf("got %q", got)
	}
}

func TestResetIsSeenByBothEnds(t *testing.T) {
	p := newPair(t, Config{})
	l := p.listen(server4)
	near, far := p.connect(l)
	other, _ := p.connect(l)
	mine := near.LocalAddr().(*net.TCPAddr).AddrPort()
	if n := p.server.Reset(func(_, remote netip.AddrPort) bool { return remote == mine }); n != 1 {
		t.Errorf("cut %d connections, want 1", n)
	}
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the far end: got %v, want ECONNRESET", err)
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the host's own end: got %v, want ECONNABORTED", err)
	}
	if _, err := other.Write([]byte("x")); err != nil {
		t.Errorf("another connection: %v", err)
	}
	far.Close()
	near, far = p.connect(l) // the process goes on
	transfer(t, near, far, 1000)
}

func TestCrashIsSilentUntilTheBoot(t *testing.T) {
	p := newPair(t, Config{})
	near, _ := p.connect(p.listen(server4))
	boot := p.server.Crash()
	if err := near.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Write([]byte("anybody?")); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a crashed host says something: %v", err)
	}
	boot()
	if err := near.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the boot: got %v, want ECONNRESET", err)
	}
}

func TestTapSeesAndDrops(t *testing.T) {
	p := newPair(t, Config{})
	l := p.listen(server4)
	seen := make(chan []byte, 16)
	p.server.Interface("eth0").SetTap(Tap{In: func(head []byte) bool {
		select {
		case seen <- head:
		default:
		}
		return false
	}})
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.client.Dial(short, netip.AddrPortFrom(server4, 80)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dropped SYN: got %v", err)
	}
	if syn := <-seen; syn[0]>>4 != 4 || [4]byte(syn[16:20]) != server4.As4() {
		t.Errorf("the tap sees %x, not the SYN's IP header", syn)
	}
	p.server.Interface("eth0").SetTap(Tap{})
	near, far := p.connect(l)
	transfer(t, near, far, 1000)
}

// TestRoutesChooseTheInterface has a host with two interfaces to segments that do not meet.
func TestRoutesChooseTheInterface(t *testing.T) {
	p := newPair(t, Config{})
	back := netip.MustParseAddr("198.18.80.1")
	if _, err := p.net.Add("origin", Port{Name: "back0", Segment: "backplane", Addrs: []netip.Addr{netip.MustParseAddr("198.18.80.30")}, Routes: Everywhere}); err != nil {
		t.Fatal(err)
	}
	both, err := p.net.Add("p1",
		Port{Name: "eth0", Segment: "internet", Addrs: []netip.Addr{netip.MustParseAddr("198.18.72.11")}, Routes: Everywhere},
		Port{Name: "back0", Segment: "backplane", Addrs: []netip.Addr{back}, Routes: []netip.Prefix{netip.MustParsePrefix("198.18.80.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := p.net.Host("origin").Listen(netip.MustParseAddrPort("198.18.80.30:8080"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := both.Dial(t.Context(), netip.MustParseAddrPort("198.18.80.30:8080"))
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got := far.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != back {
		t.Errorf("the origin sees %v, want the backplane's %v", got, back)
	}
	c.Close()
	far.Close()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.client.Dial(short, netip.MustParseAddrPort("198.18.80.30:8080")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the internet reaches the backplane: %v", err)
	}
}

// TestFaultOfSomePackets loses exactly the packets that are chosen, and shows them whole.
func TestFaultOfSomePackets(t *testing.T) {
	p := newPair(t, Config{})
	near, far := p.connect(p.listen(server4))
	var once atomic.Bool
	longest := make(chan int, 1)
	stop := p.net.Play(Fault{Host: "server", Way: In, Conditions: Conditions{Cut: true}, Only: func(packet []byte) bool {
		if len(packet) < 1000 || !once.CompareAndSwap(false, true) {
			return false
		}
		longest <- len(packet)
		return true
	}})
	defer stop()
	before := p.net.Counts().Lost
	transfer(t, near, far, 100<<10)
	if n := p.net.Counts().Lost - before; n != 1 {
		t.Errorf("%d packets are lost, want the one that was chosen", n)
	}
	if n := <-longest; n <= HeadSize {
		t.Errorf("it was shown %d bytes of it", n)
	}
}

// TestReaddress is a machine that comes to another network: its old connections are dead, new ones come from there.
func TestReaddress(t *testing.T) {
	p := newPair(t, Config{})
	l := p.listen(server4)
	near, _ := p.connect(l)
	if err := p.client.Readdress("eth0", server4); err == nil {
		t.Error("it took another host's address")
	}
	other := netip.MustParseAddr("198.18.7.7")
	if err := p.client.Readdress("eth0", other); err != nil {
		t.Fatal(err)
	}
	_ = near.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = near.Write([]byte("anybody?"))
	if n, err := near.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes came to an address that is gone", n)
	}
	_, far := p.connect(l)
	if got := far.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != other {
		t.Errorf("a new connection comes from %v, want %v", got, other)
	}
}
