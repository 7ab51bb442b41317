package lab

import (
	"errors"
	"io"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/examples/lab/kernel"
)

func TestEveryMachineReachesTheEntry(t *testing.T) {
	w := newWorld(t, Config{})
	p1v4, p1v6 := P1.Port(WebPort)
	for _, at := range []netip.AddrPort{p1v4, p1v6} {
		serveEcho(t, w.P1, at)
		for _, ns := range []*kernel.Namespace{w.Client, w.Fresh, w.Each, w.Plain, w.Attacker, w.Site} {
			c, err := ns.Dial(t.Context(), "tcp", at.String())
			if err != nil {
				t.Fatalf("%s to %s: %v", ns.Name, at, err)
			}
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			var b [1]byte
			if _, err := io.ReadFull(c, b[:]); err != nil {
				t.Fatalf("%s to %s: echo: %v", ns.Name, at, err)
			}
			c.Close()
		}
	}
}

func TestAddedProxyAnswersUnlessItIsDark(t *testing.T) {
	w := newWorld(t, Config{})
	for _, p := range []Proxy{
		{Name: "plain-p1", Public: PlainP1, Back: BackPlainP1, Limited: true},
		{Name: "paper-dark", Public: PaperAttacked, Back: BackPaperAttacked, Dark: true},
	} {
		ns, err := w.AddProxy(p)
		if err != nil {
			t.Fatal(err)
		}
		at, _ := p.Public.Port(WebPort)
		l, err := ns.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		err = connectWithin(w.Client, at, 300*time.Millisecond)
		if answered := err == nil; answered == p.Dark {
			t.Errorf("%s: connect: %v", p.Name, err)
		}
		v4, _ := BackOrigin.Port(OriginEcho)
		if err := connectWithin(ns, v4, time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s to the origin, which listens nowhere: %v", p.Name, err)
		}
	}
}

func TestBackplaneJoinsTheNodesOnly(t *testing.T) {
	w := newWorld(t, Config{})
	v4, v6 := BackOrigin.Port(OriginEcho)
	for _, at := range []netip.AddrPort{v4, v6} {
		serveEcho(t, w.Origin, at)
		for _, ns := range []*kernel.Namespace{w.P1, w.P2, w.P3, w.Sign} {
			c, err := ns.Dial(t.Context(), "tcp", at.String())
			if err != nil {
				t.Fatalf("%s to the origin: %v", ns.Name, err)
			}
			c.Close()
		}
		if err := connectWithin(w.Attacker, at, 300*time.Millisecond); !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINPROGRESS) {
			t.Errorf("the origin is reachable from the internet, or is not just silent: %v", err)
		}
	}
}

func TestLinkDelaysByHalfTheRoundTrip(t *testing.T) {
	const rtt = 40 * time.Millisecond
	w := newWorld(t, Config{RTT: rtt})
	at, _ := P1.Port(WebPort)
	serveEcho(t, w.P1, at)
	var took []time.Duration
	for range 9 {
		start := time.Now()
		if err := connectWithin(w.Client, at, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	if took[0] < rtt {
		t.Errorf("a connect took %v, faster than the link's round trip of %v", took[0], rtt)
	}
	if median := took[len(took)/2]; median > rtt+20*time.Millisecond {
		t.Errorf("connects took %v in the median over a link of %v round trip", median, rtt)
	}
}

// TestUnusedAndDarkAddressLookAlike: an address of the service range that nobody has is silent,
// as a proxy that drops everything; no router answers for it.
func TestUnusedAddressIsSilent(t *testing.T) {
	w := newWorld(t, Config{})
	v4, v6 := Unused.Port(LinkPort)
	for _, at := range []netip.AddrPort{v4, v6} {
		if err := connectWithin(w.Attacker, at, 300*time.Millisecond); !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINPROGRESS) {
			t.Errorf("connect to unused %s: %v, want silence", at, err)
		}
	}
}

func TestLinkLosesItsShareAndCountsIt(t *testing.T) {
	const sent = 4000
	w := newWorld(t, Config{RTT: time.Millisecond, Loss: 0.25, Seed: 7})
	before := w.ClientLink.Stats()[0]
	err := w.Client.Block(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrInet4{Port: 9, Addr: Unused.V4.As4()}
		for range sent {
			if err := unix.Sendto(fd, make([]byte, 32), 0, to); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got := kernel.LinkStats{}
	eventually(t, "every datagram is written or lost", func() bool {
		s := w.ClientLink.Stats()[0]
		got = kernel.LinkStats{Read: s.Read - before.Read, Written: s.Written - before.Written, Lost: s.Lost - before.Lost}
		return got.Read >= sent && got.Written+got.Lost == got.Read
	})
	// Five standard deviations of a binomial around 1000: ±137.
	if got.Lost < 863 || got.Lost > 1137 {
		t.Errorf("lost %d of %d at 25 %%", got.Lost, sent)
	}
}

func serveEcho(t *testing.T, ns *kernel.Namespace, at netip.AddrPort) {
	t.Helper()
	l, err := ns.Listen("tcp", at.String())
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

// connectWithin connects by a blocking call on a thread in the namespace and closes again.
func connectWithin(ns *kernel.Namespace, to netip.AddrPort, limit time.Duration) error {
	return ns.Block(func() error {
		family, sa := unix.AF_INET, unix.Sockaddr(nil)
		if to.Addr().Is6() {
			family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
		} else {
			sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		tv := unix.NsecToTimeval(int64(limit))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
			return err
		}
		return unix.Connect(fd, sa)
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
