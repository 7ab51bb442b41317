package session

import (
	"slices"
	"strings"
	"testing"
	"time"

	"migrationsensor/proto"
)

// resumed returns the anchor's answer to a RESUME on a new link of w.
func (w *wireTest) resume(epoch uint32, streams ...proto.ResumeStream) *proto.ResumeOK {
	w.t.Helper()
	l, fail := w.s.Serve(&proto.Resume{Session: w.s.ID(), Epoch: epoch, Streams: streams}, w.now)
	if fail != nil {
		w.t.Fatalf("refused: %v", fail.Code)
	}
	w.l = l
	w.l.Advance(w.now)
	return w.answer()
}

// answer reads the RESUME_OK that the link begins with; the frames after it are lost.
func (w *wireTest) answer() *proto.ResumeOK {
	w.t.Helper()
	var b []byte
	for {
		more := w.l.Next(make([]byte, 0, proto.HeaderLen+proto.MaxPayload))
		if b = append(b, more...); len(more) == 0 {
			break
		}
	}
	var payload []byte
	for len(b) > 0 {
		h, err := proto.ParseHeader(b)
		if err != nil || h.Type != proto.TypeResumeOK {
			w.t.Fatalf("frame type %#x (%v), want RESUME_OK first", uint8(h.Type), err)
		}
		n := proto.HeaderLen + int(h.Length)
		payload, b = append(payload, b[proto.HeaderLen:n]...), b[n:]
		if h.Flags&proto.FlagMore == 0 {
			break
		}
	}
	m, err := proto.ParseMessage(proto.TypeResumeOK, payload)
	if err != nil {
		w.t.Fatal(err)
	}
	return m.(*proto.ResumeOK)
}

// TestForgedOffsets: a stream that can't be resumed from where the agent says is reset; the session, and the other streams,
// live (F29).
func TestForgedOffsets(t *testing.T) {
	for name, tc := range map[string]struct {
		at   proto.ResumeStream
		want proto.StreamState
	}{
		"in the middle":               {proto.ResumeStream{State: proto.StreamOpen, Received: 600, Credit: 70_000}, proto.StreamOpen},
		"all of it":                   {proto.ResumeStream{State: proto.StreamOpen, Received: 1000, Credit: 70_000}, proto.StreamOpen},
		"beyond what was sent":        {proto.ResumeStream{State: proto.StreamOpen, Received: 1001, Credit: 70_000}, proto.StreamBadOffset},
		"before what was forgotten":   {proto.ResumeStream{State: proto.StreamOpen, Received: 399, Credit: 70_000}, proto.StreamBadOffset},
		"far beyond":                  {proto.ResumeStream{State: proto.StreamOpen, Received: 1 << 63, Credit: 1<<64 - 1}, proto.StreamBadOffset},
		"credit before the offset":    {proto.ResumeStream{State: proto.StreamOpen, Received: 600, Credit: 599}, proto.StreamBadOffset},
		"an end that was not sent":    {proto.ResumeStream{State: proto.StreamEnded, Received: 1000, Credit: 70_000}, proto.StreamBadOffset},
		"a state for the anchor only": {proto.ResumeStream{State: proto.StreamFinished}, proto.StreamBadOffset},
	} {
		t.Run(name, func(t *testing.T) {
			w, st := serverWith(t, Config{})
			st.Write(make([]byte, 1000))
			w.sent()
			w.mustSend(appendAck(nil, 1, 0, 400, 70_000))
			tc.at.ID = 1
			got := w.resume(1, tc.at)
			if len(got.Streams) != 1 || got.Streams[0].State != tc.want {
				t.Fatalf("got %+v, want state %d", got.Streams, tc.want)
			}
			if alive := w.s.Streams() == 1; alive != (tc.want == proto.StreamOpen) || w.s.Err() != nil {
				t.Errorf("stream lives: %v, session: %v", alive, w.s.Err())
			}
		})
	}
}

// TestReplayFromTheQuotedOffset: the anchor writes on from what the agent says it has, whatever ACKs were lost.
func TestReplayFromTheQuotedOffset(t *testing.T) {
	w, st := serverWith(t, Config{})
	st.Write(make([]byte, 1000))
	w.mustSend(data(1, 0, []byte("hello")))
	w.sent()
	got := w.resume(1, proto.ResumeStream{ID: 1, State: proto.StreamOpen, Received: 600, Credit: 70_000})
	if want := (proto.ResumeStream{ID: 1, State: proto.StreamOpen, Received: 5, Credit: 65536}); got.Streams[0] != want {
		t.Errorf("quoted %+v, want %+v", got.Streams[0], want)
	}
	got = w.resume(2, proto.ResumeStream{ID: 1, State: proto.StreamOpen, Received: 600, Credit: 70_000})
	w.l.Next(nil)
	st.Write([]byte("more"))
	w.mustSend(appendAck(nil, 1, 0, 1000, 70_000)) // came on the link before
	w.want("what the other link has delivered is not sent again", "DATA 1 at 1000, 4")
	_ = got
}

// TestParkedLinkCarriesNothing: what still comes on a link that was replaced changes nothing (F19, F20).
func TestParkedLinkCarriesNothing(t *testing.T) {
	w, st := serverWith(t, Config{})
	parked := w.l
	w.resume(1, proto.ResumeStream{ID: 1, State: proto.StreamOpen, Received: 0, Credit: 70_000})
	for name, frame := range map[string][]byte{
		"DATA": data(1, 0, []byte("late")), "a gap": data(1, 100, []byte("late")), "FIN": header(nil, proto.TypeFin, 0, 1, 0),
		"RST": header(nil, proto.TypeRst, 0, 1, 0), "OPEN": proto.AppendMessage(nil, &proto.Open{Service: "web"}, 2),
	} {
		h, err := proto.ParseHeader(frame)
		if err != nil {
			t.Fatal(err)
		}
		if err := parked.Handle(h, frame[proto.HeaderLen:], w.now); err != nil {
			t.Errorf("%s on the parked link: %v", name, err)
		}
	}
	w.s.mu.Lock()
	if st.recvNext != 0 || st.finAt >= 0 || st.state != open || w.s.lastID != 1 {
		t.Errorf("received %d, end %d, state %d, last stream %d: want nothing of it applied", st.recvNext, st.finAt, st.state, w.s.lastID)
	}
	w.s.mu.Unlock()
	if b := parked.Next(make([]byte, 0, 64<<10)); len(b) > 0 {
		t.Errorf("%d bytes on the parked link", len(b))
	}
	if next := parked.Advance(w.now); next.Sub(w.now) != parkedFor {
		t.Errorf("open for %v, want %v", next.Sub(w.now), parkedFor)
	}
	parked.Advance(w.now.Add(parkedFor))
	if parked.Err() != ErrParked {
		t.Errorf("ended with %v, want %v", parked.Err(), ErrParked)
	}
}

// TestLargeTable: a resume table spans frames, in both directions.
func TestLargeTable(t *testing.T) {
	const n = 3000
	var opened []*Stream
	anchor := New(Config{Server: true, Accept: func(st *Stream, _ string) { st.AcceptOK(); opened = append(opened, st) }})
	agent := New(Config{})
	carry := func(from, to *Link) {
		t.Helper()
		for b := from.Next(make([]byte, 0, 64<<10)); len(b) > 0; b = from.Next(make([]byte, 0, 64<<10)) {
			for len(b) > 0 {
				h, _ := proto.ParseHeader(b)
				size := proto.HeaderLen + int(h.Length)
				if err := to.Handle(h, b[proto.HeaderLen:size], time.Unix(1_800_000_000, 0)); err != nil {
					t.Fatal(err)
				}
				b = b[size:]
			}
		}
	}
	now := time.Unix(1_800_000_000, 0)
	near := agent.Ask()
	far, _ := anchor.Serve(&proto.Session{Credit: 1000}, now)
	far.Next(nil)
	carry(far, near)
	near.Next(make([]byte, 0, 64<<10)) // SESSION, which Serve has seen
	for range n {
		if _, err := agent.Begin("web"); err != nil {
			t.Fatal(err)
		}
		anchor.mu.Lock()
		anchor.tokens = openBurst
		anchor.mu.Unlock()
		carry(near, far)
	}
	carry(far, near)
	parked := far
	next := agent.Resume()
	carry(next, parked) // a RESUME may come on any link of the session
	carry(parked, next)
	select {
	case <-next.Confirmed():
	default:
		t.Fatal("not confirmed")
	}
	if len(opened) != n || agent.Streams() != n || anchor.Streams() != n || next.Streams() != n {
		t.Errorf("%d opened, %d and %d streams, %d on the new link, want %d", len(opened), agent.Streams(), anchor.Streams(), next.Streams(), n)
	}
}

// TestOpensOvertake: OPENs on two links come in any order, and each opens one connection.
func TestOpensOvertake(t *testing.T) {
	var got []uint32
	w := newWireTest(t, Config{Server: true, Accept: func(st *Stream, _ string) { got = append(got, st.ID()); st.AcceptOK() }})
	for _, id := range []uint32{3, 1, 3, 5, 1, 2} {
		w.mustSend(proto.AppendMessage(nil, &proto.Open{Service: "web"}, id))
	}
	w.mustSend(header(nil, proto.TypeRst, 0, 4, 0)) // given up before its OPEN came
	w.mustSend(proto.AppendMessage(nil, &proto.Open{Service: "web"}, 4))
	if want := []uint32{3, 1, 5, 2}; !slices.Equal(got, want) {
		t.Errorf("opened %v, want %v", got, want)
	}
	if err := w.send(proto.AppendMessage(nil, &proto.Open{Service: "web"}, 1<<20)); err == nil {
		t.Error("a million streams were skipped")
	}
}

// TestRefusalIsKept until the agent has said that it knows, and is said again when it asks again (F60).
func TestRefusalIsKept(t *testing.T) {
	dials := 0
	w := newWireTest(t, Config{Server: true, Accept: func(st *Stream, _ string) { dials++; st.Fail(proto.OpenRefused, "") }})
	open := proto.AppendMessage(nil, &proto.Open{Service: "web"}, 1)
	w.mustSend(open)
	w.mustSend(open)
	w.want("the known result", "OPEN_FAIL 1 refused", "OPEN_FAIL 1 refused")
	if w.s.Streams() != 0 || dials != 1 {
		t.Errorf("%d streams, %d connections", w.s.Streams(), dials)
	}
	w.mustSend(header(nil, proto.TypeRst, flagFin, 1, 0))
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if len(w.s.streams) != 0 || w.s.dead != 0 {
		t.Errorf("%d kept after the agent knows", len(w.s.streams))
	}
}

// TestFollowToTheOtherLink: an agent that finds a link silent writes on another one, and the anchor follows.
func TestFollowToTheOtherLink(t *testing.T) {
	w, st := serverWith(t, Config{})
	silent := w.l
	l, fail := w.s.Serve(&proto.Attach{Session: w.s.ID()}, w.now)
	if fail != nil {
		t.Fatal(fail.Code)
	}
	st.Write([]byte("lost"))
	silent.Next(make([]byte, 0, 64<<10))
	w.l = l
	w.want("attached", "type 0x4")
	w.mustSend(appendAck(nil, 1, flagHere, 0, 70_000))
	w.want("all that was not acknowledged, and where we stand", "ACK 1 at 0, credit 65536", "DATA 1 at 0, 4")
}

// TestNothingOvertakesATable: a RESUME that spans frames comes whole and first, whatever else there is to send; its answer
// comes before what follows it.
func TestNothingOvertakesATable(t *testing.T) {
	w := &wireTest{t: t, s: New(Config{}), now: time.Unix(1_800_000_000, 0)}
	w.l = w.s.Ask()
	w.mustSend(sessionOK())
	w.sent()
	w.s.mu.Lock()
	w.s.cfg.MaxStreams = 2000
	w.s.mu.Unlock()
	for range 1000 {
		st, err := w.s.Begin("web")
		if err != nil {
			t.Fatal(err)
		}
		w.mustSend(proto.AppendMessage(nil, &proto.OpenOK{Credit: 1000}, st.ID()))
		st.Write([]byte("hello"))
	}
	w.l = w.s.Resume()
	w.l.Ping()
	got := w.sent()
	if first := slices.IndexFunc(got, func(f string) bool { return f != "type 0x5" }); first < 2 || got[first] != "PING" {
		t.Errorf("sent [%s …], want the whole RESUME first", strings.Join(got[:min(4, len(got))], "; "))
	}
}

// TestOpenOKIsRepeatedOnTheNextLink, before bytes that the agent would not understand without it.
func TestOpenOKIsRepeatedOnTheNextLink(t *testing.T) {
	w, st := serverWith(t, Config{})
	l, fail := w.s.Serve(&proto.Attach{Session: w.s.ID()}, w.now)
	if fail != nil {
		t.Fatal(fail.Code)
	}
	w.l.Close(nil) // with the answer to OPEN
	w.l = l
	st.Write([]byte("banner"))
	w.want("the answer first", "type 0x4", "OPEN_OK 1", "ACK 1 at 0, credit 65536", "DATA 1 at 0, 6")
}

// TestParkedLinkIsNotWritten, neither with a stream that the agent takes for unanswered.
func TestParkedLinkIsNotWritten(t *testing.T) {
	w, st := serverWith(t, Config{})
	parked := w.l
	w.resume(1, proto.ResumeStream{ID: 1, State: proto.StreamOpening})
	st.Write([]byte("banner"))
	if b := parked.Next(make([]byte, 0, 64<<10)); len(b) > 0 {
		t.Errorf("%d bytes on the parked link", len(b))
	}
	w.want("on the new one", "DATA 1 at 0, 6")
}

// TestStaleResumeIsAnswered on a link that is in use, which ends then; the session lives (F19).
func TestStaleResumeIsAnswered(t *testing.T) {
	w, _ := serverWith(t, Config{})
	w.mustSend(proto.AppendMessage(nil, &proto.Resume{Session: w.s.ID(), Epoch: 0}, 0))
	w.want("why", "type 0x7")
	if w.l.Err() == nil || w.s.Err() != nil || w.s.Links() != 0 {
		t.Errorf("link %v, session %v, %d links", w.l.Err(), w.s.Err(), w.s.Links())
	}
}

// TestWhatIsWrittenEarlyIsSent when OPEN is answered.
func TestWhatIsWrittenEarlyIsSent(t *testing.T) {
	w := newAsking(t)
	st, err := w.s.Begin("web")
	if err != nil {
		t.Fatal(err)
	}
	st.Write([]byte("early"))
	w.want("not yet", "SESSION", "OPEN 1")
	w.mustSend(sessionOK())
	w.mustSend(proto.AppendMessage(nil, &proto.OpenOK{Credit: 1000}, 1))
	w.want("now", "DATA 1 at 0, 5")
}

// TestEndSurvivesAMove: an END that was not written goes on the next link.
func TestEndSurvivesAMove(t *testing.T) {
	w := newAsking(t)
	w.mustSend(sessionOK())
	w.sent()
	w.s.End()
	w.l = w.s.Resume()
	w.want("after the RESUME", "type 0x5", "type 0x8")
	if w.s.Err() == nil {
		t.Error("the session lives on")
	}
}
