package netstack_test

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"migrationsensor/netstack"
	"migrationsensor/netstack/netstacktest"
)

// Both IP versions must behave alike, so most tests run for each.
var targets = map[string]netip.AddrPort{
	"IPv4": netip.MustParseAddrPort("198.18.7.1:443"),
	"IPv6": netip.MustParseAddrPort("[2001:2::7:1]:443"),
}

func eachVersion(t *testing.T, f func(t *testing.T, to netip.AddrPort)) {
	for name, to := range targets {
		t.Run(name, func(t *testing.T) { f(t, to) })
	}
}

// served is what a handler did with the flows it got.
type served struct {
	host  *netstacktest.Host
	stack *netstack.Stack
	flows chan *netstack.Flow
	conns chan netstack.Conn
}

// serve runs a stack whose handler passes each flow on and then calls decide.
func serve(t *testing.T, cfg netstack.Config, decide func(*served, *netstack.Flow)) *served {
	t.Helper()
	s := &served{flows: make(chan *netstack.Flow, 64), conns: make(chan netstack.Conn, 64)}
	cfg.Handler = func(f *netstack.Flow) {
		s.flows <- f
		decide(s, f)
	}
	s.host, s.stack = netstacktest.Start(t, cfg)
	return s
}

func accept(s *served, f *netstack.Flow) {
	if c, err := f.Accept(); err == nil {
		s.conns <- c
	}
}

// connect returns both ends of an accepted connection.
func (s *served) connect(t *testing.T, to netip.AddrPort) (app, flow netstack.Conn) {
	t.Helper()
	app, err := s.host.Dial(soon(t), to)
	if err != nil {
		t.Fatalf("dial an accepted flow: %v", err)
	}
	flow = receive(t, "the flow's connection", s.conns)
	t.Cleanup(func() { app.Abort(); flow.Abort() })
	return app, flow
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("no %s within 10 s", what)
		panic("unreachable")
	}
}

// eventually polls a condition that the other goroutines make true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func TestFlowNamesBothEnds(t *testing.T) {
	eachVersion(t, func(t *testing.T, to netip.AddrPort) {
		s := serve(t, netstack.Config{}, accept)
		app, flow := s.connect(t, to)
		f := receive(t, "flow", s.flows)
		if f.Dst() != to {
			t.Errorf("Dst: got %v, want what the application dialled, %v", f.Dst(), to)
		}
		if got, want := f.Src().String(), app.LocalAddr().String(); got != want {
			t.Errorf("Src: got %s, want the application's socket %s", got, want)
		}
		if got, want := flow.LocalAddr().String(), to.String(); got != want {
			t.Errorf("LocalAddr: got %s, want %s", got, want)
		}
		if got, want := flow.RemoteAddr().String(), app.LocalAddr().String(); got != want {
			t.Errorf("RemoteAddr: got %s, want %s", got, want)
		}
	})
}

func TestVerdictReachesConnect(t *testing.T) {
	for name, row := range map[string]struct {
		decide func(*served, *netstack.Flow)
		want   error
		count  func(netstack.Stats) uint64
	}{
		"refuse is ECONNREFUSED":         {func(_ *served, f *netstack.Flow) { f.Refuse() }, syscall.ECONNREFUSED, func(s netstack.Stats) uint64 { return s.Refused }},
		"unreachable is EHOSTUNREACH":    {func(_ *served, f *netstack.Flow) { f.Unreachable() }, syscall.EHOSTUNREACH, func(s netstack.Stats) uint64 { return s.Unreachable }},
		"drop is silence":                {func(_ *served, f *netstack.Flow) { f.Drop() }, context.DeadlineExceeded, func(s netstack.Stats) uint64 { return s.Dropped }},
		"no verdict is dropped":          {func(*served, *netstack.Flow) {}, context.DeadlineExceeded, func(s netstack.Stats) uint64 { return s.Dropped }},
		"the first of two verdicts wins": {func(_ *served, f *netstack.Flow) { f.Refuse(); f.Unreachable(); f.Drop() }, syscall.ECONNREFUSED, func(s netstack.Stats) uint64 { return s.Refused }},
	} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, to netip.AddrPort) {
				s := serve(t, netstack.Config{}, row.decide)
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				_, err := s.host.Dial(ctx, to)
				want := row.want
				if want == syscall.EHOSTUNREACH && to.Addr().Is6() {
					// gVisor as the application's host does not know this ICMPv6 code; the kernel test does.
					want = context.DeadlineExceeded
					if st := s.stack.Stats(); st.PacketsOut != 1 {
						t.Errorf("answers: got %d, want the one ICMP error", st.PacketsOut)
					}
				}
				if !errors.Is(err, want) {
					t.Errorf("connect: got %v, want %v", err, want)
				}
				eventually(t, "one verdict counted, nothing left in flight", func() bool {
					st := s.stack.Stats()
					return row.count(st) == 1 && st.Flows == 1 && st.InFlight == 0
				})
			})
		})
	}
}

// firstSight is what a test's Arrive returns.
type firstSight struct{ dst netip.AddrPort }

func (firstSight) Abort() {}

func TestArriveComesBeforeTheFlow(t *testing.T) {
	eachVersion(t, func(t *testing.T, to netip.AddrPort) {
		got := make(chan netstack.Early, 2)
		s := serve(t, netstack.Config{Arrive: func(dst netip.AddrPort) netstack.Early { return firstSight{dst} }}, func(s *served, f *netstack.Flow) {
			got <- f.Early()
			accept(s, f)
		})
		s.connect(t, to)
		if e := receive(t, "flow", got); e != (firstSight{to}) {
			t.Errorf("the flow's Early: got %v, want what Arrive said of %v", e, to)
		}
	})
}

// TestTheApplicationHearsNothingBeforeTheVerdict: gVisor's SYN-ACK is ready long before, and is sent again after a second.
func TestTheApplicationHearsNothingBeforeTheVerdict(t *testing.T) {
	for name, verdict := range map[string]func(*served, *netstack.Flow){"accept": accept, "refuse": func(_ *served, f *netstack.Flow) { f.Refuse() }} {
		t.Run(name, func(t *testing.T) {
			before := make(chan uint64, 1)
			s := serve(t, netstack.Config{}, func(s *served, f *netstack.Flow) {
				time.Sleep(1200 * time.Millisecond)
				before <- s.stack.Stats().PacketsOut
				verdict(s, f)
			})
			c, err := s.host.Dial(soon(t), targets["IPv4"])
			if n := receive(t, "verdict", before); n != 0 {
				t.Errorf("%d packets to the application before the verdict", n)
			}
			if (err == nil) != (name == "accept") {
				t.Errorf("connect: %v", err)
			}
			if err == nil {
				c.Close()
			}
		})
	}
}

func TestVerdictIsGivenOnce(t *testing.T) {
	errs := make(chan error, 1)
	s := serve(t, netstack.Config{}, func(_ *served, f *netstack.Flow) {
		f.Refuse()
		_, err := f.Accept()
		errs <- err
	})
	_, _ = s.host.Dial(soon(t), targets["IPv4"]) // refused, as tested above
	if err := receive(t, "second verdict", errs); !errors.Is(err, netstack.ErrDecided) {
		t.Errorf("Accept after Refuse: got %v, want ErrDecided", err)
	}
}

func TestSlowVerdictSwallowsRetransmittedSYNs(t *testing.T) {
	go1 := make(chan struct{})
	s := serve(t, netstack.Config{}, func(s *served, f *netstack.Flow) { <-go1; accept(s, f) })
	time.AfterFunc(1500*time.Millisecond, func() { close(go1) }) // gVisor sends the SYN again after 1 s
	app, _ := s.connect(t, targets["IPv4"])
	app.Abort()
	if st := s.stack.Stats(); st.Flows != 1 || st.PacketsIn < 3 {
		t.Errorf("got %d flows from %d packets, want 1 flow though the SYN came twice", st.Flows, st.PacketsIn)
	}
}

func TestDeadServiceDoesNotBlockALiveOne(t *testing.T) {
	dead, live := netip.MustParseAddrPort("198.18.7.2:80"), targets["IPv4"]
	s := serve(t, netstack.Config{MaxInFlight: 8, MaxPerDestination: 2}, func(s *served, f *netstack.Flow) {
		if f.Dst() == dead {
			<-f.Context().Done()
			return
		}
		accept(s, f)
	})
	for range 4 {
		go func() { _, _ = s.host.Dial(t.Context(), dead) }() // ends with the test
	}
	eventually(t, "two wait, two are silently dropped", func() bool {
		st := s.stack.Stats()
		return st.InFlight == 2 && st.PerDestinationDrops >= 2
	})
	s.connect(t, live)
}

func TestInFlightCap(t *testing.T) {
	s := serve(t, netstack.Config{MaxInFlight: 2, MaxPerDestination: 2}, func(_ *served, f *netstack.Flow) { <-f.Context().Done() })
	for port := range uint16(3) {
		to := netip.AddrPortFrom(targets["IPv4"].Addr(), 1000+port)
		go func() { _, _ = s.host.Dial(t.Context(), to) }() // ends with the test
	}
	eventually(t, "the third SYN is dropped", func() bool {
		st := s.stack.Stats()
		return st.InFlight == 2 && st.InFlightDrops >= 1
	})
}

func TestApplicationThatGaveUpShowsInAccept(t *testing.T) {
	gone, result := make(chan struct{}), make(chan error, 4)
	s := serve(t, netstack.Config{}, func(_ *served, f *netstack.Flow) {
		<-gone
		_, err := f.Accept()
		result <- err
	})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := s.host.Dial(ctx, targets["IPv4"])
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("dial: got %v, want cancelled", err)
	}
	close(gone)
	if err := receive(t, "Accept's answer", result); err == nil {
		t.Error("Accept for an application that is gone: got nil, want an error")
	}
	if st := s.stack.Stats(); st.GaveUp != 1 {
		t.Errorf("GaveUp: got %d, want 1", st.GaveUp)
	}
}

func TestRunResetsConnectionsBeforeItEnds(t *testing.T) {
	eachVersion(t, func(t *testing.T, to netip.AddrPort) {
		near, far := netstacktest.Pair(1500)
		conns, waiting := make(chan netstack.Conn, 1), make(chan struct{})
		s, err := netstack.New(netstack.Config{Device: far, Handler: func(f *netstack.Flow) {
			if f.Dst().Port() == 1 {
				close(waiting)
				<-f.Context().Done()
				return
			}
			if c, err := f.Accept(); err == nil {
				conns <- c
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		h := netstacktest.NewHost(t, near)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		app, err := h.Dial(soon(t), to)
		if err != nil {
			t.Fatal(err)
		}
		flow := receive(t, "connection", conns)
		go func() { _, _ = h.Dial(t.Context(), netip.AddrPortFrom(to.Addr(), 1)) }() // ends with the test
		receive(t, "flow in flight", waiting)

		stop()
		if err := receive(t, "end of Run", done); err != nil {
			t.Errorf("Run: got %v, want nil for a stop that was asked for", err)
		}
		_ = app.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := app.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the application's read: got %v, want ECONNRESET", err)
		}
		if _, err := flow.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("the flow's read: got %v, want ECONNABORTED, never a clean EOF", err)
		}
		if err := flow.Close(); err != nil {
			t.Errorf("close after the stack: %v", err)
		}
	})
}

func TestRunEndsWithTheDevice(t *testing.T) {
	_, far := netstacktest.Pair(1500)
	s, err := netstack.New(netstack.Config{Device: far, Handler: func(*netstack.Flow) {}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	eventually(t, "running", func() bool { return far.LinkEndpoint().IsAttached() })
	_ = far.Close() // never fails
	if err := receive(t, "end of Run", done); err == nil {
		t.Error("Run after the device vanished: got nil, want an error")
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("second Run: got nil, want an error")
	}
}

func TestOnlyTCPIsAnswered(t *testing.T) {
	near, far := netstacktest.Pair(1500)
	s, err := netstack.New(netstack.Config{Device: far, Handler: func(*netstack.Flow) {}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for _, raw := range [][]byte{ping4, udp4, ping6, {0x45}, {}, {0x60, 0, 0}} {
		near.Send(raw)
	}
	eventually(t, "all six arrived", func() bool { return s.Stats().PacketsIn == 6 })
	stop()
	if err := receive(t, "end of Run", done); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Ignored != 6 || st.PacketsOut != 0 {
		t.Errorf("got %d ignored and %d answers, want 6 and none: the stack knows nothing about those hosts", st.Ignored, st.PacketsOut)
	}
}

var (
	ping4 = []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0xab, 0x73, 198, 18, 0, 1, 198, 18, 7, 1, 8, 0, 0xf7, 0xff, 0, 0, 0, 0}
	udp4  = []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0xab, 0x63, 198, 18, 0, 1, 198, 18, 7, 1, 0, 53, 0, 53, 0, 8, 0, 0}
	ping6 = append([]byte{0x60, 0, 0, 0, 0, 8, 58, 64, 0x20, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x20, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 1}, 128, 0, 0, 0, 0, 0, 0, 0)
)

func TestNewNeedsDeviceAndHandler(t *testing.T) {
	if _, err := netstack.New(netstack.Config{}); err == nil {
		t.Error("got nil, want an error")
	}
}
