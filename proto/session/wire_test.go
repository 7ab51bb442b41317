package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"migrationsensor/proto"
)

// wireTest is one session whose other end is the test, frame by frame, with a clock of its own.
type wireTest struct {
	t   *testing.T
	s   *Session
	l   *Link
	now time.Time
}

// liveLink is a link that is taken in already.
func liveLink(s *Session) *Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.newLinkLocked(live)
	l.confirmLocked()
	<-l.ready
	return l
}

func newWireTest(t *testing.T, cfg Config) *wireTest {
	w := &wireTest{t: t, s: New(cfg), now: time.Unix(1_800_000_000, 0)}
	w.l = liveLink(w.s)
	w.l.Advance(w.now)
	return w
}

// serverWith returns an anchor's session with stream 1 open.
func serverWith(t *testing.T, cfg Config) (*wireTest, *Stream) {
	t.Helper()
	var st *Stream
	cfg.Server = true
	cfg.Accept = func(s *Stream, _ string) { st = s }
	w := newWireTest(t, cfg)
	w.mustSend(proto.AppendMessage(nil, &proto.Open{Credit: 64 << 10, Service: "web"}, 1))
	st.AcceptOK()
	w.want("OPEN is answered first", "OPEN_OK 1")
	return w, st
}

func (w *wireTest) send(b []byte) error {
	h, err := proto.ParseHeader(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.l.Handle(h, b[proto.HeaderLen:], w.now)
}

func (w *wireTest) mustSend(b []byte) {
	w.t.Helper()
	if err := w.send(b); err != nil {
		w.t.Fatal(err)
	}
}

func data(stream uint32, off uint64, b []byte) []byte {
	h := proto.Header{Type: proto.TypeData, Length: uint16(len(b)), Stream: stream, Offset: off}
	return append(h.Append(nil), b...)
}

// sent returns what the session has to send now, a line for each frame.
func (w *wireTest) sent() (out []string) {
	w.l.Advance(w.now)
	for {
		b := w.l.Next(make([]byte, 0, proto.HeaderLen+proto.MaxPayload))
		if len(b) == 0 {
			return out
		}
		for len(b) > 0 {
			h, err := proto.ParseHeader(b)
			if err != nil {
				w.t.Fatal(err)
			}
			out = append(out, describe(h, b[proto.HeaderLen:]))
			b = b[proto.HeaderLen+int(h.Length):]
		}
	}
}

func describe(h proto.Header, payload []byte) string {
	switch h.Type {
	case proto.TypeOpen:
		return fmt.Sprintf("OPEN %d", h.Stream)
	case proto.TypeOpenOK:
		return fmt.Sprintf("OPEN_OK %d", h.Stream)
	case proto.TypeOpenFail:
		return fmt.Sprintf("OPEN_FAIL %d %s", h.Stream, proto.OpenCode(payload[0]))
	case proto.TypeData:
		return fmt.Sprintf("DATA %d at %d, %d", h.Stream, h.Offset, h.Length)
	case proto.TypeAck:
		return fmt.Sprintf("ACK %d at %d, credit %d", h.Stream, h.Offset, binary.BigEndian.Uint64(payload))
	case proto.TypeFin:
		return fmt.Sprintf("FIN %d at %d", h.Stream, h.Offset)
	case proto.TypeRst:
		if h.Flags != 0 {
			return fmt.Sprintf("RST %d answered", h.Stream)
		}
		return fmt.Sprintf("RST %d at %d", h.Stream, h.Offset)
	case proto.TypeSession:
		return "SESSION"
	case proto.TypePing:
		return "PING"
	case proto.TypePong:
		return "PONG"
	case proto.TypePad:
		return fmt.Sprintf("PAD of %d, asks for %d", h.Length, h.Offset)
	}
	return fmt.Sprintf("type %#x", uint8(h.Type))
}

func (w *wireTest) want(why string, frames ...string) {
	w.t.Helper()
	if got := w.sent(); !slices.Equal(got, frames) {
		w.t.Errorf("%s: sent [%s], want [%s]", why, strings.Join(got, "; "), strings.Join(frames, "; "))
	}
}

func TestAcks(t *testing.T) {
	w, st := serverWith(t, Config{Window: 64 << 10})
	w.mustSend(data(1, 0, make([]byte, 100)))
	w.mustSend(data(1, 100, make([]byte, 100)))
	w.want("a little is not acknowledged at once")
	if next := w.l.Advance(w.now); next.Sub(w.now) > ackDelay {
		t.Errorf("wants to be called in %v, an ACK is due in %v", next.Sub(w.now), ackDelay)
	}
	w.now = w.now.Add(ackDelay)
	w.want("one ACK for both after 25 ms; unread bytes give no credit", "ACK 1 at 200, credit 65536")
	w.now = w.now.Add(time.Second)
	w.want("and none again")

	w.mustSend(data(1, 200, make([]byte, 16_000)))
	w.mustSend(data(1, 16_200, make([]byte, 384)))
	w.want("a quarter of the window at once", "ACK 1 at 16584, credit 65536")
	if _, err := io.ReadFull(st, make([]byte, 16_584)); err != nil {
		t.Fatal(err)
	}
	w.want("bytes that were read give credit at once, if many", "ACK 1 at 16584, credit 82120")

	w.mustSend(data(1, 16_584, []byte("x")))
	st.Write([]byte("answer"))
	w.want("an ACK goes with what goes anyway", "ACK 1 at 16585, credit 82120", "DATA 1 at 0, 6")
	w.mustSend(proto.Header{Type: proto.TypeFin, Stream: 1, Offset: 16_585}.Append(nil))
	w.want("an end is acknowledged at once", "ACK 1 at 16585, credit 82120")
}

func TestTurns(t *testing.T) {
	w, first := serverWith(t, Config{})
	var second *Stream
	w.s.cfg.Accept = func(s *Stream, _ string) { second = s }
	first.Write(make([]byte, 40_000))
	w.mustSend(proto.AppendMessage(nil, &proto.Open{Credit: 1000, Service: "web"}, 2))
	second.AcceptOK()
	second.Write(make([]byte, 2000))
	w.s.Ping()
	w.want("control frames first, then each stream in turn, none beyond its credit",
		"OPEN_OK 2", "PING", "DATA 1 at 0, 16324", "DATA 2 at 0, 1000", "DATA 1 at 16324, 15352", "DATA 1 at 31676, 8324")
}

// TestOpenAnsweredWhileGivenUp: the OPEN's answer, and bytes after it, cross the reset.
func TestOpenAnsweredWhileGivenUp(t *testing.T) {
	w := newWireTest(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := w.s.Open(ctx, "web")
		failed <- err
	}()
	<-w.l.Ready()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the context's error", err)
	}
	w.mustSend(proto.AppendMessage(nil, &proto.OpenOK{Credit: 1000}, 1))
	w.mustSend(data(1, 0, []byte("too late")))
	w.mustSend(proto.Header{Type: proto.TypeFin, Stream: 1, Offset: 8}.Append(nil))
	w.want("the stream is reset and nothing else", "OPEN 1", "RST 1 at 0")
	if n := w.s.Streams(); n != 0 {
		t.Errorf("%d streams left", n)
	}
	w.mustSend(data(1, 8, []byte("still under way")))
}

func TestAnswerAfterGivingUp(t *testing.T) {
	var st *Stream
	w := newWireTest(t, Config{Server: true, Accept: func(s *Stream, _ string) { st = s }})
	w.mustSend(proto.AppendMessage(nil, &proto.Open{Service: "web"}, 1))
	st.Close()
	st.AcceptOK()
	st.Fail(proto.OpenRefused, "")
	w.want("closed before it was answered", "RST 1 at 0")
}

// TestHugeCreditKeepsLittle: what we keep for a peer is our decision, not its.
func TestHugeCreditKeepsLittle(t *testing.T) {
	w, st := serverWith(t, Config{MaxWindow: 128 << 10})
	ack := appendAck(nil, 1, 0, 0, 1<<63)
	w.mustSend(ack)
	st.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	n, err := st.Write(make([]byte, 1<<20))
	if n != 128<<10 || err == nil {
		t.Errorf("took %d bytes (%v) that nobody acknowledges, want %d", n, err, 128<<10)
	}
}

func TestSessionKeepsItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const share = 256 << 10
		p := newPair(t, Config{Window: 64 << 10, MaxSession: share}, true)
		for i := range 20 { // each full, none read
			a, _ := p.streams(t)
			a.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
			if n, _ := a.Write(make([]byte, 1<<20)); n < tightWindow {
				t.Errorf("stream %d took %d bytes, every one has at least %d", i, n, tightWindow)
			}
		}
		p.agent.mu.Lock()
		held, granted := p.agent.held, p.agent.granted
		p.agent.mu.Unlock()
		if limit := share + 20*tightWindow; held > limit || granted > limit/2+20*tightWindow {
			t.Errorf("holds %d bytes and granted %d, want at most about %d", held, granted, limit)
		}
		a, b := p.streams(t)
		done := make(chan error, 1)
		go func() {
			_, err := a.Write(make([]byte, 1<<20))
			done <- errors.Join(err, a.CloseWrite())
		}()
		if n, err := io.Copy(io.Discard, b); n != 1<<20 || err != nil {
			t.Errorf("beside streams that stand still: %d bytes, %v", n, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestMemoryIsGivenBack(t *testing.T) {
	p := newPair(t, Config{}, true)
	for range 20 {
		a, b := p.streams(t)
		go func() {
			a.Write(make([]byte, 1<<20))
			a.Close()
		}()
		if n, err := io.Copy(io.Discard, b); n != 1<<20 || err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		b.Close()
		<-a.Done()
		<-b.Done()
	}
	for name, s := range map[string]*Session{"agent": p.agent, "anchor": p.anchor} {
		s.mu.Lock()
		if s.granted != 0 || s.grown != 0 || s.held != 0 || len(s.streams) != 0 {
			t.Errorf("%s: granted %d, grown %d, held %d, %d streams; want nothing left", name, s.granted, s.grown, s.held, len(s.streams))
		}
		s.mu.Unlock()
	}
}

func TestWindowGrowsForAReaderWhoKeepsUp(t *testing.T) {
	p := newPair(t, Config{Window: 16 << 10, MaxWindow: 1 << 20}, true)
	a, b := p.streams(t)
	go func() {
		a.Write(make([]byte, 4<<20))
		a.CloseWrite()
	}()
	if _, err := io.CopyN(io.Discard, b, 3<<20); err != nil {
		t.Fatal(err)
	}
	p.anchor.mu.Lock()
	defer p.anchor.mu.Unlock()
	if b.window < 256<<10 {
		t.Errorf("window of %d bytes after 3 MiB read at once", b.window)
	}
}

func TestCloseEndsStreams(t *testing.T) {
	w, st := serverWith(t, Config{})
	w.mustSend(data(1, 0, []byte("all")))
	w.mustSend(proto.Header{Type: proto.TypeFin, Stream: 1, Offset: 3}.Append(nil))
	w.s.Close(nil)
	select {
	case <-st.Done():
	default:
		t.Error("Done is not closed with the session")
	}
	if got, err := io.ReadAll(st); string(got) != "all" || err != nil {
		t.Errorf("got %q, %v: the peer's end was whole", got, err)
	}
	if _, err := st.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("write: %v, want a reset", err)
	}
	st.Abort()
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := w.l.Handle(proto.Header{Type: proto.TypePing}, nil, w.now); !errors.Is(err, ErrClosed) {
		t.Errorf("a frame after the end: %v", err)
	}
}

// TestAnswersThatNobodyReads: OPENs beyond the caps are answered, but not without bound.
func TestAnswersThatNobodyReads(t *testing.T) {
	w := newWireTest(t, Config{Server: true, Accept: func(st *Stream, _ string) { st.Fail(proto.OpenRefused, strings.Repeat("x", 1000)) }})
	for id := uint32(1); id < 1<<20; id++ {
		if err := w.send(proto.AppendMessage(nil, &proto.Open{Service: "web"}, id)); err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("got %v, want a violation", err)
			}
			if w.s.mu.Lock(); len(w.l.control) > maxControl+1024 {
				t.Errorf("%d bytes kept", len(w.l.control))
			}
			w.s.mu.Unlock()
			return
		}
	}
	t.Error("a million unread answers are kept")
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	w, st := serverWith(t, Config{})
	buf := make([]byte, 0, proto.HeaderLen+proto.MaxPayload)
	in, read := data(1, 0, make([]byte, 1000)), make([]byte, 4096)
	var off uint64
	ack := appendAck(nil, 1, 0, 0, 0)
	round := func() {
		binary.BigEndian.PutUint64(in[8:], off)
		w.mustSend(in)
		n, _ := st.Read(read)
		st.Write(read[:n])
		w.l.Next(buf)
		off += uint64(n)
		binary.BigEndian.PutUint64(ack[8:], off)
		binary.BigEndian.PutUint64(ack[16:], off+64<<10)
		w.mustSend(ack)
	}
	for range 100 {
		round()
	}
	if n := testing.AllocsPerRun(1000, round); n > 4 { // the chunk lists'; the chunks are pooled
		t.Errorf("%v allocations for 1,000 bytes in and out", n)
	}
}

func BenchmarkTransfer(b *testing.B) {
	p := newPair(b, Config{}, true)
	client, err := p.agent.Open(b.Context(), "web")
	if err != nil {
		b.Fatal(err)
	}
	server := <-p.accepted
	go io.Copy(io.Discard, server)
	buf := make([]byte, 32<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}
