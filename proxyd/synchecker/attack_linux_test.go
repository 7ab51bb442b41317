package synchecker

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"migrationsensor/proto"
)

// sender writes frames from the client's end of the wire, as often as each is wanted.
func sender(w *wire) (send func(frame []byte, n int), done func()) {
	p := w.open(w.client, "eth0", Filter{Addrs: []netip.Addr{client4}, LinkPort: 1})
	return func(frame []byte, n int) {
		bufs := make([][]byte, batch)
		for i := range bufs {
			bufs[i] = frame
		}
		for n > 0 {
			sent, err := p.Write(bufs[:min(n, batch)])
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN) {
				w.client.t.Fatal(err)
			}
			n -= sent
		}
	}, func() { p.Close() }
}

// TestKernelRingsAreApart floods each ring while nobody reads; what comes after in the others is there.
func TestKernelRingsAreApart(t *testing.T) {
	f := newFixture(t, Off)
	preamble := f.preamble(proto.KindData, 1)
	forged := append(append([]byte(nil), preamble[:4]...), make([]byte, 72)...)
	kinds := map[string]packet{
		"keyed SYN":    {src: client4, dst: wire4, options: linuxOptions, payload: preamble},
		"first flight": {src: client4, dst: wire4, flags: flagACK | flagPSH, payload: append(preamble[:len(preamble):len(preamble)], hello...)},
		"knock":        {src: client4, dst: wire4, udp: true, payload: preamble},
		"plain SYN":    {src: client4, dst: wire4, options: linuxOptions},
	}
	for name, flood := range map[string]struct {
		p    packet
		ring class
		own  string // the kind that shares the ring
	}{
		"SYNs with 76 random bytes": {packet{src: client4, dst: wire4, options: linuxOptions, payload: append([]byte{1, 2, 3, 4}, forged[4:]...)}, plain, "plain SYN"},
		"SYNs with the magic":       {packet{src: client4, dst: wire4, options: linuxOptions, payload: forged}, keyed, "keyed SYN"},
		"replayed valid proofs":     {packet{src: client4, dst: wire4, options: linuxOptions, payload: preamble}, keyed, "keyed SYN"},
		"data with the magic":       {packet{src: client4, dst: wire4, flags: flagACK, payload: forged}, flights, "first flight"},
		"datagrams with the magic":  {packet{src: client4, dst: wire4, udp: true, payload: forged}, knocks, "knock"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			port := w.open(w.edge, "edge0", Filter{Addrs: []netip.Addr{wire4}, LinkPort: testPort})
			defer port.Close()
			if err := port.Arm(Defend); err != nil {
				t.Fatal(err)
			}
			send, done := sender(w)
			defer done()
			send(flood.p.frame(t), ringSizes[flood.ring].frames+1000)
			wait(t, "the flood fills its ring", func() bool { return port.Lost() > 0 })
			for kind, p := range kinds {
				if kind != flood.own {
					p.sport = 7777
					send(p.frame(t), 1)
				}
			}
			got, frames := 0, make([]Frame, batch)
			var s segment
			wait(t, "the other three kinds arrive", func() bool {
				n, err := port.Read(frames)
				if err != nil {
					t.Fatal(err)
				}
				for i := range frames[:n] {
					if s.parse(&frames[i]) && s.sport == 7777 {
						got++
					}
				}
				return got == len(kinds)-1
			})
		})
	}
}

// second gives the client's end a second address, a thief's.
func second(w *wire) netip.Addr {
	thief := netip.MustParseAddr("198.18.2.77")
	w.client.must("address", func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(thief.String() + "/24")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, a)
	})
	w.edge.must("neighbours", func() error { return neighbours("edge0", routerMAC, thief.String()) })
	return thief
}

// say connects from an address, writes b and reads to the end; the answer is nil if there is none in wait.
func (l *live) say(from netip.Addr, b []byte, wait time.Duration) (answer []byte, err error) {
	err = l.w.client.do(func() error {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
		d.SetMultipathTCP(false)
		c, err := d.Dial("tcp", netip.AddrPortFrom(wire4, testPort).String())
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.(*net.TCPConn).SetLinger(0); err != nil {
			return err
		}
		c.SetDeadline(time.Now().Add(wait))
		if _, err := c.Write(b); err != nil {
			return err
		}
		answer = make([]byte, sealedLen)
		n, err := c.Read(answer)
		if answer = answer[:n]; errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			return nil
		}
		return err
	})
	return answer, err
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// TestF7CapturedPreamble: a preamble that was captured is of no use from another address, in a SYN or
// behind one, and never draws more than it sent.
func TestF7CapturedPreamble(t *testing.T) { eachPath(t, testCapturedPreamble) }

func testCapturedPreamble(t *testing.T, path Path) {
	l := newLiveBy(t, path, Defend)
	thief := second(l.w)
	preamble := l.preambleAt(proto.KindControl, 1, time.Now())
	if b, err := l.say(client4, preamble, 5*time.Second); err != nil || len(b) != sealedLen {
		t.Fatalf("its owner: %d bytes, %v", len(b), err)
	}
	for range 3 {
		if b, err := l.say(thief, preamble, 50*time.Millisecond); err != nil || len(b) > 0 {
			t.Errorf("the thief: %d bytes, %v; want silence", len(b), err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.c.Stats(); s.Replays < 3 || s.Transfers != 1 || len(l.admitted) != 0 {
		t.Errorf("%+v, admitted %v", s, l.admitted)
	}
}

// TestF48Insider: an enrolled agent that floods with keyed SYNs, new ones and replays, gets its rate
// as one; the rest are strangers' SYNs. Another agent gets in meanwhile.
func TestF48Insider(t *testing.T) { eachPath(t, testInsider) }

func testInsider(t *testing.T, path Path) {
	const flood = 20_000
	l := newLiveBy(t, path, Defend, func(c *Config) { c.shares = &Shares{} })
	send, done := sender(l.w)
	defer done()
	now := time.Now()
	for i := range flood / 100 {
		p := packet{src: netip.AddrFrom4([4]byte{198, 19, byte(i), 1}), dst: wire4, options: linuxOptions, payload: l.preambleAt(proto.KindData, 200, now)}
		send(p.frame(t), 100)
	}
	if err := l.transfer(wire4, noQuickACK, keyedSYN, lateConnect); err != nil { // agent 1
		t.Errorf("another agent: %v, %+v", err, l.c.Stats())
	}
	var s Stats
	wait(t, "each SYN is seen or lost", func() bool { s = l.c.Stats(); return s.SYNSeen+s.RingLost > flood })
	most := uint64(agentBurst + agentRate*time.Since(now).Seconds() + 2)
	if s.SYNAnswered > most || s.Keyed > most || s.KeyedLimited+s.RingLost+most < flood {
		t.Errorf("%d SYNs of the insider answered, want %d at most: %+v", s.SYNAnswered, most, s)
	}
}

// TestF62OpenToken: somebody read an open token and proves it as often as he can. From his address he
// gets his share, and newcomers with the same token still enrol.
func TestF62OpenToken(t *testing.T) { eachPath(t, testOpenToken) }

func testOpenToken(t *testing.T, path Path) {
	const proofs = 60
	l := newLiveBy(t, path, Defend)
	stranger := second(l.w)
	token := func() []byte { return l.preambleAt(proto.KindEnrol, 9, time.Now()) }
	began, got := time.Now(), 0
	for range proofs {
		b, err := l.say(stranger, token(), 5*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 0 {
			got++
		}
	}
	if most := enrolEachUp + int(time.Since(began).Seconds()*enrolEach) + 1; got > most {
		t.Errorf("the stranger was answered %d times, want %d at most", got, most)
	}
	if b, err := l.say(client4, token(), 5*time.Second); err != nil || len(b) != sealedLen {
		t.Errorf("a newcomer with the same token: %d bytes, %v, %+v", len(b), err, l.c.Stats())
	}
	if s := l.c.Stats(); s.EnrolLimited < proofs/2 {
		t.Errorf("%d of %d proofs limited", s.EnrolLimited, proofs)
	}
}

// TestKernelBudget: a flood that costs more than is granted. Answers and processor time are held,
// keyed SYNs come through, and when it is over everybody is answered again.
func TestKernelBudget(t *testing.T) {
	const answers = 5000
	l := newLive(t, Defend, func(c *Config) { c.Budget = BudgetConfig{Answers: answers, Processor: 0.5} })
	send, stop, ended := l.flooder(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				send(batch)
			}
		}
	}()
	began := time.Now()
	wait(t, "the shares fall", func() bool { return l.c.Sampling().Fresh < 0.5 })
	for i := range 10 {
		if err := l.transfer(wire4, noQuickACK, keyedSYN, lateConnect); err != nil {
			t.Errorf("keyed transfer %d in the flood: %v", i, err)
		}
	}
	took := time.Since(began)
	s, flood := l.c.Stats(), l.c.Sampling()
	close(stop)
	<-ended
	if most := uint64(answers * (took.Seconds() + 0.2)); s.SYNAnswered > most {
		t.Errorf("%d SYNs answered in %v, want %d at most", s.SYNAnswered, took, most)
	}
	t.Logf("%d SYNs seen in %v, %d answered, %d lost; %+v", s.SYNSeen, took, s.SYNAnswered, s.RingLost, flood)
	wait(t, "everybody is answered again", func() bool {
		if err := l.transfer(wire4, noQuickACK); err != nil {
			t.Logf("plain transfer: %v", err)
			return false
		}
		s := l.c.Sampling()
		return s.Fresh == 1 && s.Again == 1 && s.Intake == 1
	})
}

// TestKernelSample: the kernel leaves out plain SYNs by chance, and no keyed one.
func TestKernelSample(t *testing.T) {
	const n = 8000
	w := newWire(t)
	port := w.open(w.edge, "edge0", Filter{Addrs: []netip.Addr{wire4}, LinkPort: testPort})
	defer port.Close()
	if err := errors.Join(port.Arm(Defend), port.(Sampler).Sample(0.25)); err != nil {
		t.Fatal(err)
	}
	send, done := sender(w)
	defer done()
	f := newFixture(t, Off)
	send(packet{src: client4, dst: wire4, options: linuxOptions}.frame(t), n)
	send(packet{src: client4, dst: wire4, payload: f.preamble(proto.KindData, 1)}.frame(t), 100)
	var s segment
	frames, plain, keyed := make([]Frame, batch), 0, 0
	for {
		got, err := port.Read(frames)
		if err != nil {
			t.Fatal(err)
		}
		if got == 0 { // nothing more within a tick
			break
		}
		for i := range frames[:got] {
			if s.parse(&frames[i]) && s.length > 0 {
				keyed++
			} else {
				plain++
			}
		}
	}
	if share := float64(plain) / n; share < 0.2 || share > 0.3 || keyed != 100 { // 10 standard deviations
		t.Errorf("%.3f of the plain SYNs and %d of 100 keyed ones arrive, want 0.25 and all", share, keyed)
	}
	if err := port.(Sampler).Sample(1); err != nil {
		t.Fatal(err)
	}
	send(packet{src: client4, dst: wire4}.frame(t), 100)
	for plain = 0; plain < 100; {
		got, err := port.Read(frames)
		if err != nil {
			t.Fatal(err)
		}
		plain += got
	}
}
