package synchecker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"migrationsensor/proto"
)

var (
	wire4 = netip.MustParseAddr("198.18.2.1")
	wire6 = netip.MustParseAddr("2001:2::1")
)

// live is a fixture whose checker runs on a wire.
type live struct {
	*fixture
	w     *wire
	mu    sync.Mutex // guards admitted
	agent byte       // of the last transfer
}

func newLive(t testing.TB, mode Mode, change ...func(*Config)) *live {
	t.Helper()
	return newLiveBy(t, PathPacket, mode, change...)
}

// newLiveBy takes a path: what the checker does must not depend on it.
func newLiveBy(t testing.TB, path Path, mode Mode, change ...func(*Config)) *live {
	t.Helper()
	l := &live{w: newWire(t)}
	port := l.w.openBy(path, Filter{Addrs: []netip.Addr{wire4, wire6}, LinkPort: testPort})
	l.fixture = newFixture(t, mode, append([]func(*Config){func(c *Config) {
		c.Port, c.Addrs, c.Now = port, []netip.Addr{wire4, wire6}, time.Now
		c.Verified = func(Client) (proto.Reply, bool) { return proto.Reply{Kind: proto.ReplyRetry}, true }
		c.Admit = func(_ proto.Verified, a netip.Addr) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.admitted = append(l.admitted, a)
		}
	}}, change...)...)
	l.now = time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l
}

// dial connects from the client's namespace with an ordinary Go dialer.
func (l *live) dial(to netip.Addr, options ...[3]int) (c net.Conn, err error) {
	d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, rc syscall.RawConn) (err error) {
		cerr := rc.Control(func(fd uintptr) {
			for _, o := range options {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), o[0], o[1], o[2]))
			}
		})
		return errors.Join(err, cerr)
	}}
	d.SetMultipathTCP(false)
	err = l.w.client.do(func() error {
		c, err = d.Dial("tcp", netip.AddrPortFrom(to, testPort).String())
		return err
	})
	return c, err
}

var (
	noQuickACK  = [3]int{unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0}
	keyedSYN    = [3]int{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1}
	lateConnect = [3]int{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1}
)

// transfer is what an agent does: dial, one write, read to the end. Each is another agent's.
func (l *live) transfer(to netip.Addr, options ...[3]int) error {
	c, err := l.dial(to, options...)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	l.agent++
	preamble := l.preambleAt(proto.KindControl, l.agent, time.Now())
	if _, err := c.Write(append(preamble[:len(preamble):len(preamble)], hello...)); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return fmt.Errorf("after %d bytes: %w", len(b), err)
	}
	if r, err := proto.OpenReply(b, preamble, l.keys(l.agent)); err != nil || r.Kind != proto.ReplyRetry {
		return fmt.Errorf("%d bytes: %+v, %w", len(b), r, err)
	}
	return nil
}

// wait polls a condition that the checker's goroutine brings about.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("still not true after 10 s: %s", what)
		}
	}
}

func eachFamily(t *testing.T, f func(t *testing.T, to netip.Addr)) {
	t.Run("IPv4", func(t *testing.T) { f(t, wire4) })
	t.Run("IPv6", func(t *testing.T) { f(t, wire6) })
}

// eachPath runs a test by packet sockets alone and with the packet program in either place.
func eachPath(t *testing.T, f func(t *testing.T, path Path)) {
	for _, path := range []Path{PathPacket, PathGeneric, PathNative} {
		t.Run(string(path), func(t *testing.T) { f(t, path) })
	}
}

func eachPathAndFamily(t *testing.T, f func(t *testing.T, path Path, to netip.Addr)) {
	eachPath(t, func(t *testing.T, path Path) {
		eachFamily(t, func(t *testing.T, to netip.Addr) { f(t, path, to) })
	})
}

func TestKernelTransfers(t *testing.T) {
	eachPathAndFamily(t, func(t *testing.T, path Path, to netip.Addr) {
		const n = 50
		l := newLiveBy(t, path, Defend)
		for i := range n {
			options := [][3]int{noQuickACK}
			if i%5 == 0 { // other systems acknowledge the SYN-ACK at once
				options = nil
			}
			if err := l.transfer(to, options...); err != nil {
				t.Fatalf("transfer %d: %v, %+v", i, err, l.c.Stats())
			}
		}
		wait(t, "every client's FIN was reset, so no socket lingers", func() bool {
			return l.c.Stats().Resets >= n
		})
	})
}

// TestKernelKeyedSYN: where p leaves nobody in, the preamble in the SYN does.
func TestKernelKeyedSYN(t *testing.T) {
	eachPathAndFamily(t, func(t *testing.T, path Path, to netip.Addr) {
		l := newLiveBy(t, path, Defend, func(c *Config) { c.shares = &Shares{} })
		for i := range 20 {
			if err := l.transfer(to, noQuickACK, keyedSYN, lateConnect); err != nil {
				t.Fatalf("keyed transfer %d: %v, %+v", i, err, l.c.Stats())
			}
		}
		l.wantCounts("keyed SYNs", map[string]uint64{"keyed": 20, "transfers": 20, "syn_sampled_out": 0})
	})
}

func TestKernelKnockAtDarkEdge(t *testing.T) {
	eachPathAndFamily(t, func(t *testing.T, path Path, to netip.Addr) {
		l := newLiveBy(t, path, Dark)
		l.w.client.must("knock", func() error {
			c, err := net.Dial("udp", netip.AddrPortFrom(to, testPort).String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(l.preambleAt(proto.KindKnock, 1, time.Now()))
			return err
		})
		wait(t, "the knock admitted the client", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.admitted) == 1
		})
		b := packet{src: client4, dst: wire4}.frame(t)
		p := l.w.open(l.w.client, "eth0", Filter{Addrs: []netip.Addr{client4}, LinkPort: 1})
		defer p.Close()
		if _, err := p.Write([][]byte{b}); err != nil {
			t.Fatal(err)
		}
		l.wantCounts("a plain SYN does not even get past the filter", map[string]uint64{"syn_seen": 0, "syn_answered": 0})
	})
}

// flooder sends SYNs from the client's end of the wire.
func (l *live) flooder(payload ...byte) func(frames int) {
	p := l.w.open(l.w.client, "eth0", Filter{Addrs: []netip.Addr{client4}, LinkPort: 1})
	l.t.Cleanup(func() { p.Close() })
	r := rand.New(rand.NewPCG(8, 9))
	bufs := make([][]byte, batch)
	for i := range bufs {
		bufs[i] = packet{src: client4, dst: wire4, options: linuxOptions, payload: payload}.frame(l.t)
	}
	return func(n int) {
		for n > 0 {
			k := min(n, batch)
			for _, b := range bufs[:k] {
				flood(b, r)
			}
			sent, err := p.Write(bufs[:k])
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN) {
				l.t.Error(err)
				return
			}
			n -= sent
		}
	}
}

// TestKernelFlood: every SYN is seen or counted as lost, a quarter is answered, no memory is spent.
func TestKernelFlood(t *testing.T) { eachPath(t, testKernelFlood) }

func testKernelFlood(t *testing.T, path Path) {
	const n = 20_000
	l := newLiveBy(t, path, Defend, func(c *Config) { c.Budget.Probability = 0.25 })
	send := l.flooder()
	send(100)
	wait(t, "the flood arrives", func() bool { return l.c.Stats().SYNSeen == 100 })
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	send(n - 100)
	var s Stats
	wait(t, "each SYN is seen or lost", func() bool {
		s = l.c.Stats()
		return s.SYNSeen+s.RingLost >= n
	})
	runtime.ReadMemStats(&after)
	if s.SYNSeen+s.RingLost != n {
		t.Errorf("%d seen, %d lost, want %d together", s.SYNSeen, s.RingLost, n)
	}
	if share := float64(s.SYNAnswered) / float64(s.SYNSeen); share < 0.22 || share > 0.28 {
		t.Errorf("answered %.3f of the SYNs, want 0.25", share)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
}

// TestKernelOthersFrames: what a switch floods to everybody is not ours, though the address is.
func TestKernelOthersFrames(t *testing.T) { eachPath(t, testKernelOthersFrames) }

func testKernelOthersFrames(t *testing.T, path Path) {
	l := newLiveBy(t, path, Defend)
	p := l.w.open(l.w.client, "eth0", Filter{Addrs: []netip.Addr{client4}, LinkPort: 1})
	defer p.Close()
	other := packet{src: client4, dst: wire4}.frame(t)
	other[5] = 0x77
	ours := packet{src: client4, dst: wire4, sport: 5}.frame(t)
	if _, err := p.Write([][]byte{other, other, ours}); err != nil {
		t.Fatal(err)
	}
	wait(t, "our own frame arrives", func() bool { return l.c.Stats().SYNSeen > 0 })
	l.wantCounts("frames for another station", map[string]uint64{"syn_seen": 1, "malformed": 0, "foreign": 0})
}

func TestKernelLinkDownAndUp(t *testing.T) { eachPath(t, testKernelLinkDownAndUp) }

func testKernelLinkDownAndUp(t *testing.T, path Path) {
	l := newLiveBy(t, path, Defend)
	l.w.edge.must("down and up", func() error {
		e, err := netlink.LinkByName("edge0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetDown(e); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(e); err != nil {
			return err
		}
		return neighbours("edge0", routerMAC, "198.18.2.2")
	})
	l.w.client.must("neighbours", func() error { return neighbours("eth0", edgeMAC, "198.18.2.1") })
	if err := l.transfer(wire4, noQuickACK); err != nil {
		t.Errorf("after the interface was down: %v, %+v", err, l.c.Stats())
	}
}

func TestKernelInterfaceRemoved(t *testing.T) { eachPath(t, testKernelInterfaceRemoved) }

func testKernelInterfaceRemoved(t *testing.T, path Path) {
	w := newWire(t)
	f := newFixture(t, Off, func(c *Config) {
		c.Port = w.openBy(path, Filter{Addrs: []netip.Addr{wire4}, LinkPort: testPort})
	})
	done := make(chan error)
	go func() { done <- f.c.Run(context.Background()) }()
	w.edge.must("remove", func() error {
		e, err := netlink.LinkByName("edge0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(e)
	})
	select {
	case err := <-done:
		if err == nil {
			t.Error("Run ended without an error though its interface is gone")
		}
	case <-time.After(10 * time.Second):
		t.Error("Run does not notice that its interface is gone")
	}
}

func TestOpenPortSays(t *testing.T) {
	if _, err := OpenPort("no-such-if0", Filter{Addrs: []netip.Addr{wire4}}); err == nil {
		t.Error("opened an interface that is not there")
	}
	if _, err := OpenPort("lo", Filter{Addrs: []netip.Addr{wire4}}); err == nil {
		t.Error("opened loopback")
	}
	if os.Geteuid() == 0 {
		w := newWire(t)
		p := w.open(w.edge, "edge0", Filter{Addrs: []netip.Addr{wire4}})
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
		if _, err := p.Read(make([]Frame, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read of a closed port: %v, want net.ErrClosed", err)
		}
		if err := p.Arm(Defend); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Arm of a closed port: %v, want net.ErrClosed", err)
		}
	}
}

// BenchmarkKernelFlood reports what one checker answers of all that one thread can send.
func BenchmarkKernelFlood(b *testing.B) {
	for name, cfg := range map[string]BudgetConfig{
		"p=1": {Probability: 1}, "p=0.1": {Probability: 0.1}, "budget": {Answers: 100_000, Processor: 0.5},
		"budget of a tenth": {Answers: 100_000, Processor: 0.1},
	} {
		b.Run(name, func(b *testing.B) {
			l := newLive(b, Defend, func(c *Config) { c.Budget = cfg })
			send := l.flooder()
			total := 0
			start := time.Now()
			for b.Loop() {
				send(1000)
				total += 1000
			}
			sec := time.Since(start).Seconds()
			now := l.c.Sampling()
			var s Stats
			wait(b, "all seen or lost", func() bool {
				s = l.c.Stats()
				return now.Intake < 1 || s.SYNSeen+s.RingLost >= uint64(total)
			})
			b.ReportMetric(float64(total)/sec, "sent/s")
			b.ReportMetric(float64(s.SYNSeen)/sec, "seen/s")
			b.ReportMetric(float64(s.SYNAnswered-s.SendLost)/sec, "answered/s")
			b.ReportMetric(100*float64(s.RingLost)/float64(total), "%lost")
			b.ReportMetric(now.Fresh, "fresh")
			b.ReportMetric(now.Intake, "intake")
		})
	}
}

// BenchmarkKernelTransferUnderFlood is a newcomer's whole transfer while another thread floods: with
// plain SYNs, or with forged keyed ones.
func BenchmarkKernelTransferUnderFlood(b *testing.B) {
	magic := append(preambleMagic[:], make([]byte, preambleLen-len(preambleMagic))...)
	for name, row := range map[string]struct {
		options [][3]int
		flood   []byte
		budget  BudgetConfig
	}{
		"plain":                            {[][3]int{noQuickACK}, nil, BudgetConfig{Probability: 1}},
		"keyed":                            {[][3]int{noQuickACK, keyedSYN, lateConnect}, nil, BudgetConfig{Answers: 1}},
		"keyed, budget":                    {[][3]int{noQuickACK, keyedSYN, lateConnect}, nil, BudgetConfig{Answers: 100_000, Processor: 0.5}},
		"keyed, budget, forged keyed SYNs": {[][3]int{noQuickACK, keyedSYN, lateConnect}, magic, BudgetConfig{Answers: 100_000, Processor: 0.5}},
	} {
		b.Run(name, func(b *testing.B) {
			l := newLive(b, Defend, func(c *Config) {
				if c.Budget = row.budget; name == "keyed" {
					c.shares = &Shares{}
				}
			})
			send, stop := l.flooder(row.flood...), make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						send(1000)
					}
				}
			})
			start := time.Now()
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if l.transfer(wire4, row.options...) == nil {
					took = append(took, time.Since(began))
				}
			}
			close(stop)
			wg.Wait()
			b.ReportMetric(100*float64(len(took))/float64(b.N), "%ok")
			if slices.Sort(took); len(took) > 0 {
				b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
				b.ReportMetric(took[len(took)*95/100].Seconds()*1e3, "p95-ms")
			}
			s := l.c.Stats()
			b.ReportMetric(float64(s.SYNSeen)/time.Since(start).Seconds(), "flood/s")
			b.ReportMetric(100*float64(s.RingLost)/float64(s.SYNSeen+s.RingLost), "%lost")
		})
	}
}
