package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"migrationsensor/proto"
)

// pair is two sessions joined by a pump in memory that carries whole frames.
type pair struct {
	agent, anchor *Session
	accepted      chan *Stream
	wg            sync.WaitGroup
	stop          chan struct{}
	errs          chan error
}

func newPair(t testing.TB, cfg Config, accept bool) *pair {
	t.Helper()
	p := &pair{accepted: make(chan *Stream, 64), stop: make(chan struct{}), errs: make(chan error, 2)}
	server := cfg
	server.Server = true
	server.Accept = func(st *Stream, _ string) {
		if accept {
			st.AcceptOK()
		}
		p.accepted <- st
	}
	p.agent, p.anchor = New(cfg), New(server)
	near, far := liveLink(p.agent), liveLink(p.anchor)
	p.wg.Go(func() { p.pump(near, far) })
	p.wg.Go(func() { p.pump(far, near) })
	t.Cleanup(p.close)
	return p
}

func (p *pair) close() {
	p.agent.Close(nil)
	p.anchor.Close(nil)
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	p.wg.Wait()
}

// pump carries frames until from ends, or to refuses one.
func (p *pair) pump(from, to *Link) {
	buf := make([]byte, 0, 2*(proto.HeaderLen+proto.MaxPayload))
	for {
		next := from.Advance(time.Now())
		frames := from.Next(buf)
		for b := frames; len(b) > 0; {
			h, err := proto.ParseHeader(b)
			if err == nil {
				n := proto.HeaderLen + int(h.Length)
				err = to.Handle(h, b[proto.HeaderLen:n], time.Now())
				b = b[n:]
			}
			if err != nil {
				p.errs <- err
				return
			}
		}
		if len(frames) > 0 {
			continue
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-from.Ready():
		case <-timer.C:
		case <-p.stop:
		}
		timer.Stop()
		if from.Err() != nil {
			return
		}
	}
}

// streams opens a stream and returns both its ends.
func (p *pair) streams(t testing.TB) (client, server *Stream) {
	t.Helper()
	client, err := p.agent.Open(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	return client, <-p.accepted
}

func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		p := newPair(t, Config{}, true)
		a, b := p.streams(t)
		return a, b, p.close, nil
	})
}

func TestBulkBothWays(t *testing.T) {
	for _, window := range []int{16 << 10, 256 << 10} {
		t.Run(fmt.Sprint(window), func(t *testing.T) {
			p := newPair(t, Config{Window: window, PeerWindow: window, MaxWindow: 4 * window}, true)
			const size = 8 << 20
			var wg sync.WaitGroup
			for i := range 4 {
				a, b := p.streams(t)
				for j, ends := range [][2]*Stream{{a, b}, {b, a}} {
					seed := uint64(2*i + j)
					want := make(chan [32]byte, 1)
					wg.Go(func() { want <- pour(t, ends[0], size, seed) })
					wg.Go(func() {
						h := sha256.New()
						n, err := io.Copy(h, ends[1])
						if err != nil || n != size {
							t.Errorf("read %d bytes (%v), want %d", n, err, size)
						}
						if w := <-want; !bytes.Equal(h.Sum(nil), w[:]) {
							t.Error("digests differ")
						}
					})
				}
			}
			wg.Wait()
		})
	}
}

// pour writes size random bytes in pieces of random length and ends the direction.
func pour(t *testing.T, w *Stream, size int, seed uint64) (sum [32]byte) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	h := sha256.New()
	for size > 0 {
		b := make([]byte, min(size, 1+rnd.IntN(100_000)))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		h.Write(b)
		if _, err := w.Write(b); err != nil {
			t.Errorf("write: %v", err)
			break
		}
		size -= len(b)
	}
	if err := w.CloseWrite(); err != nil {
		t.Errorf("half-close: %v", err)
	}
	h.Sum(sum[:0])
	return sum
}

func TestSlowStreamStopsNoOther(t *testing.T) {
	p := newPair(t, Config{Window: 32 << 10, PeerWindow: 32 << 10, MaxWindow: 32 << 10}, true)
	slow, slowEnd := p.streams(t)
	go slow.Write(make([]byte, 1<<20)) // nobody reads it
	fast, fastEnd := p.streams(t)
	go func() {
		fast.Write(make([]byte, 1<<20))
		fast.CloseWrite()
	}()
	if n, err := io.Copy(io.Discard, fastEnd); n != 1<<20 || err != nil {
		t.Errorf("the other stream: %d bytes, %v", n, err)
	}
	p.anchor.mu.Lock()
	held := slowEnd.recv.n
	p.anchor.mu.Unlock()
	if held > 32<<10 {
		t.Errorf("%d bytes held for a reader that does not read, window is %d", held, 32<<10)
	}
}

func TestHalfCloseThenAnswer(t *testing.T) {
	p := newPair(t, Config{}, true)
	a, b := p.streams(t)
	a.Write([]byte("question"))
	a.CloseWrite()
	q, err := io.ReadAll(b)
	if string(q) != "question" || err != nil {
		t.Fatalf("got %q, %v", q, err)
	}
	b.Write([]byte("answer"))
	b.Close()
	r, err := io.ReadAll(a)
	if string(r) != "answer" || err != nil {
		t.Errorf("got %q, %v after the half-close", r, err)
	}
	<-b.Done()
	<-a.Done()
	if n, m := p.agent.Streams(), p.anchor.Streams(); n+m != 0 {
		t.Errorf("%d and %d streams left", n, m)
	}
}

func TestResetComesAfterBytes(t *testing.T) {
	p := newPair(t, Config{}, true)
	a, b := p.streams(t)
	a.Write([]byte("last words"))
	a.Abort()
	got, err := io.ReadAll(b)
	if string(got) != "last words" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %q, %v; want the bytes, then a reset", got, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("write after the reset: %v", err)
	}
}

func TestClosedReaderResets(t *testing.T) {
	p := newPair(t, Config{}, true)
	a, b := p.streams(t)
	b.Close()
	var err error
	for err == nil { // until the reset has come
		_, err = a.Write(make([]byte, 1000))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("writing to one who closed: %v, want a reset", err)
	}
}

func TestSessionEndIsAReset(t *testing.T) {
	p := newPair(t, Config{}, true)
	a, b := p.streams(t)
	a.Write([]byte("x"))
	io.ReadFull(b, make([]byte, 1))
	p.agent.Close(errors.New("link lost"))
	p.anchor.Close(errors.New("link lost"))
	for _, st := range []*Stream{a, b} {
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want a reset and never a clean end", err)
		}
	}
}

func TestOpenTellsTheTruth(t *testing.T) {
	p := newPair(t, Config{}, false)
	go func() { (<-p.accepted).Fail(proto.OpenRefused, "nobody listens") }()
	_, err := p.agent.Open(t.Context(), "web")
	if e, ok := errors.AsType[*OpenError](err); !ok || e.Code != proto.OpenRefused {
		t.Errorf("got %v, want refused", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		st := <-p.accepted
		cancel()
		<-st.Done() // the anchor learns that nobody waits any more
		st.AcceptOK()
	}()
	if _, err := p.agent.Open(ctx, "web"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestViolations(t *testing.T) {
	data := func(off uint64, n int) func(*Link) error {
		return func(s *Link) error {
			return s.Handle(proto.Header{Type: proto.TypeData, Stream: 1, Offset: off, Length: uint16(n)}, make([]byte, n), time.Now())
		}
	}
	frame := func(h proto.Header, b ...byte) func(*Link) error {
		return func(s *Link) error { return s.Handle(h, b, time.Now()) }
	}
	for _, tc := range []struct {
		rule string
		do   func(*Link) error
		ok   bool
	}{
		{"data in order", data(0, 100), true},
		{"overlap is trimmed", func(s *Link) error { return errors.Join(data(0, 100)(s), data(50, 100)(s)) }, true},
		{"a gap", data(1, 100), false},
		{"beyond the credit", func(s *Link) error {
			for off := uint64(0); ; off += 10_000 {
				if err := data(off, 10_000)(s); err != nil {
					if off < 50_000 {
						t.Errorf("refused at %d, within the credit", off)
					}
					return err
				}
			}
		}, false},
		{"an offset that wraps", data(^uint64(0)-10, 100), false},
		{"a stream that was never opened", frame(proto.Header{Type: proto.TypeFin, Stream: 9}), false},
		{"stream 0", frame(proto.Header{Type: proto.TypeFin}), false},
		{"ACK of bytes that were not sent", frame(proto.Header{Type: proto.TypeAck, Stream: 1, Offset: 5, Length: 8}, 0, 0, 0, 0, 0, 0, 1, 0), false},
		{"ACK without credit", frame(proto.Header{Type: proto.TypeAck, Stream: 1}), false},
		{"ACK of a FIN that was not sent", frame(proto.Header{Type: proto.TypeAck, Flags: flagFin, Stream: 1, Length: 8}, 0, 0, 0, 0, 0, 0, 1, 0), false},
		{"FIN before its bytes", frame(proto.Header{Type: proto.TypeFin, Stream: 1, Offset: 7}), false},
		{"RST before its bytes", frame(proto.Header{Type: proto.TypeRst, Stream: 1, Offset: 7}), false},
		{"data after the end", func(s *Link) error {
			return errors.Join(frame(proto.Header{Type: proto.TypeFin, Stream: 1})(s), data(0, 1)(s))
		}, false},
		{"FIN with bytes", frame(proto.Header{Type: proto.TypeFin, Stream: 1, Length: 1}, 'x'), false},
		{"an unknown flag", frame(proto.Header{Type: proto.TypeFin, Flags: 0x80, Stream: 1}), false},
		{"a second end elsewhere", func(s *Link) error {
			return errors.Join(frame(proto.Header{Type: proto.TypeFin, Stream: 1})(s), frame(proto.Header{Type: proto.TypeFin, Stream: 1, Offset: 1})(s))
		}, false},
		{"the same end again", func(s *Link) error {
			return errors.Join(frame(proto.Header{Type: proto.TypeFin, Stream: 1})(s), frame(proto.Header{Type: proto.TypeFin, Stream: 1})(s))
		}, true},
		{"a PAD", frame(proto.Header{Type: proto.TypePad, Offset: warmMost + 1}), true},
		{"a PAD that asks for too much", frame(proto.Header{Type: proto.TypePad, Offset: warmMost + 2}), false},
		{"a PAD of a stream", frame(proto.Header{Type: proto.TypePad, Stream: 1}), false},
		{"a PAD with a flag", frame(proto.Header{Type: proto.TypePad, Flags: 1}), false},
		{"a control frame", frame(proto.Header{Type: proto.TypeMigrate}), false},
		{"answer to an OPEN from an agent", frame(proto.Header{Type: proto.TypeOpenOK, Stream: 1}), false},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			s := liveLink(New(Config{Server: true, Window: 64 << 10, Accept: func(st *Stream, _ string) { st.AcceptOK() }}))
			open := proto.AppendMessage(nil, &proto.Open{Service: "web"}, 1)
			h, _ := proto.ParseHeader(open)
			if err := s.Handle(h, open[proto.HeaderLen:], time.Now()); err != nil {
				t.Fatal(err)
			}
			err := tc.do(s)
			if tc.ok != (err == nil) || err != nil && !errors.Is(err, ErrProtocol) {
				t.Errorf("got %v, accepted should be %v", err, tc.ok)
			}
		})
	}
}

func TestOpenAgainDialsOnce(t *testing.T) {
	dials := 0
	s := liveLink(New(Config{Server: true, Accept: func(st *Stream, _ string) { dials++; st.AcceptOK() }}))
	open := proto.AppendMessage(nil, &proto.Open{Service: "web"}, 1)
	h, _ := proto.ParseHeader(open)
	for range 3 {
		if err := s.Handle(h, open[proto.HeaderLen:], time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if dials != 1 {
		t.Errorf("%d connections for one stream", dials)
	}
}

func TestOpensAreLimited(t *testing.T) {
	accepted := 0
	s := liveLink(New(Config{Server: true, MaxStreams: 1 << 20, Accept: func(st *Stream, _ string) { accepted++; st.AcceptOK() }}))
	now := time.Now()
	for i := range uint32(openBurst + 500) {
		open := proto.AppendMessage(nil, &proto.Open{Service: "web"}, i+1)
		h, _ := proto.ParseHeader(open)
		if err := s.Handle(h, open[proto.HeaderLen:], now); err != nil {
			t.Fatal(err)
		}
	}
	if accepted != openBurst {
		t.Errorf("%d accepted at once, want the burst of %d", accepted, openBurst)
	}
}

func TestSilentLinkIsGivenUp(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, tc := range []struct {
		why         string
		outstanding bool
		dead        time.Duration
	}{
		{"with an OPEN outstanding", true, minSilent + minDead},
		{"idle", false, idlePing + idleDead},
	} {
		t.Run(tc.why, func(t *testing.T) {
			s := New(Config{})
			l := liveLink(s)
			now := now
			l.Advance(now)
			if tc.outstanding {
				go s.Open(t.Context(), "web")
				<-l.Ready()
			}
			buf := make([]byte, 0, 64<<10)
			pinged := false
			start := now
			for s.Err() == nil && now.Sub(start) < time.Minute {
				next := l.Advance(now)
				for b := l.Next(buf); len(b) > 0; {
					h, _ := proto.ParseHeader(b)
					pinged = pinged || h.Type == proto.TypePing
					b = b[proto.HeaderLen+int(h.Length):]
				}
				if !next.After(now) {
					next = now.Add(time.Millisecond)
				}
				now = next
			}
			if took := now.Sub(start); !pinged || !errors.Is(s.Err(), ErrSilent) || took < tc.dead || took > tc.dead+idlePing+time.Second {
				t.Errorf("ended with %v after %v (asked: %v), want silence noticed after %v", s.Err(), took, pinged, tc.dead)
			}
		})
	}
}

func TestLivelyLinkLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, Config{}, true)
		a, b := p.streams(t)
		time.Sleep(10 * time.Minute)
		a.Write([]byte("x"))
		if n, err := b.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("after ten idle minutes: %d, %v", n, err)
		}
		if p.agent.SRTT() < 0 || p.agent.Err() != nil {
			t.Errorf("agent's session: %v", p.agent.Err())
		}
		p.close()
	})
}

func TestResetWaitsForCreditAtMostFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, Config{Window: 16 << 10, PeerWindow: 16 << 10, MaxWindow: 16 << 10}, true)
		a, b := p.streams(t)
		a.Write(make([]byte, 40<<10)) // more than the credit; nobody reads
		a.Abort()
		start := time.Now()
		<-b.Done()
		if d := time.Since(start); d < rstDelay || d > rstDelay+time.Second {
			t.Errorf("reset after %v, want %v", d, rstDelay)
		}
		p.close()
	})
}

func TestDescribe(t *testing.T) {
	w, st := serverWith(t, Config{})
	st.Write([]byte("secret"))
	w.sent()
	got := w.s.Describe()
	for _, want := range []string{"1 streams", "link 1: state", "stream 1: ", "acked 0, next 6, credit to 65536, 6 held"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "secret") {
		t.Error("what was carried is in it")
	}
}
