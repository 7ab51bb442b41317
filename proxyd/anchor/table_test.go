package anchor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/session"
)

var stranger = proto.Identity{Roles: []proto.Role{proto.RoleAgent}, Agent: proto.AgentID{0xB2}}

// say begins a link with m and returns the anchor's first message. The link must end cleanly after it where it is a refusal.
func say(t *testing.T, a *Anchor, id proto.Identity, m proto.Message, more ...byte) proto.Message {
	t.Helper()
	near, far := tcpPair(t)
	defer near.Close()
	near.SetDeadline(time.Now().Add(patience))
	served := make(chan error, 1)
	go func() { served <- a.Serve(t.Context(), far, id, agentAddr) }()
	if _, err := near.Write(append(proto.AppendMessage(nil, m, 0), more...)); err != nil {
		t.Fatal(err)
	}
	answer, err := proto.NewReader(near, 1<<20).Message()
	if err != nil {
		t.Fatalf("%T: no answer: %v", m, err)
	}
	if _, refused := answer.(*proto.ResumeFail); refused {
		if b, err := io.ReadAll(near); err != nil || len(b) > 0 {
			t.Errorf("%T: after the refusal got %d bytes, %v; want a clean end", m, len(b), err)
		}
		for range 10 { // what is still on its way is not met by a reset, which would destroy the answer
			if _, err := near.Write(more); err != nil {
				t.Errorf("%T: write after the refusal: %v", m, err)
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	near.Close()
	select {
	case <-served:
	case <-time.After(patience):
		t.Fatal("Serve did not end")
	}
	return answer
}

func wantRefused(t *testing.T, why string, got proto.Message, code proto.ResumeCode) {
	t.Helper()
	if f, ok := got.(*proto.ResumeFail); !ok || f.Code != code {
		t.Errorf("%s: got %+v, want RESUME_FAIL %s", why, got, code)
	}
}

func streams(n int) (out []proto.ResumeStream) {
	for i := range n {
		out = append(out, proto.ResumeStream{ID: uint32(i + 1), State: proto.StreamOpen})
	}
	return out
}

func TestUnknownSessionIsNotMadeAnew(t *testing.T) {
	a := run(t, Config{})
	wantRefused(t, "RESUME", say(t, a, agent, &proto.Resume{Session: proto.NewSessionID(), Epoch: 2}), proto.ResumeUnknown)
	wantRefused(t, "ATTACH", say(t, a, agent, &proto.Attach{Session: proto.NewSessionID(), Epoch: 1}), proto.ResumeUnknown)
	if s := a.Stats(); s.Sessions != 0 || s.NotResumed != 2 {
		t.Errorf("got %+v, want no session and 2 refusals", s)
	}
}

// A RESUME of every stream that a session may have spans frames; DATA follows it in the same flight, unread.
func TestLargestResumeIsAnswered(t *testing.T) {
	a := run(t, Config{})
	flight := make([]byte, 0, 1<<20)
	for len(flight) < 1<<20 {
		flight = proto.Header{Type: proto.TypeData, Length: proto.MaxPayload, Stream: 1}.Append(flight)
		flight = append(flight, make([]byte, proto.MaxPayload)...)
	}
	m := &proto.Resume{Session: proto.NewSessionID(), Epoch: 2, Streams: streams(defaultStreams)}
	wantRefused(t, "4,096 streams and a flight of DATA", say(t, a, agent, m, flight...), proto.ResumeUnknown)

	near, far := tcpPair(t)
	defer near.Close()
	m.Streams = streams(defaultStreams + 2)
	go proto.WriteMessage(near, m)
	if err := a.Serve(t.Context(), far, agent, agentAddr); !errors.Is(err, proto.ErrFrame) {
		t.Errorf("too many streams: got %v, want %v", err, proto.ErrFrame)
	}
}

// F45: a session is its agent's alone, whoever else knows its id.
func TestF45OnlyTheOwnerResumes(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	id := w.a.Sessions()[0].ID
	wantRefused(t, "RESUME", say(t, w.a, stranger, &proto.Resume{Session: id, Epoch: 9}), proto.ResumeNotOwner)
	wantRefused(t, "ATTACH", say(t, w.a, stranger, &proto.Attach{Session: id}), proto.ResumeNotOwner)
	st.Write([]byte("still here"))
	if _, err := io.ReadFull(origin, make([]byte, 10)); err != nil {
		t.Errorf("the session suffered: %v", err)
	}
}

func TestSlowFirstMessageIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		b := proto.AppendMessage(nil, &proto.Resume{Streams: streams(100)}, 0)
		go func() {
			for i := range b { // a byte a second
				if _, err := near.Write(b[i : i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		began := time.Now()
		err := New(Config{}).Serve(t.Context(), far, agent, agentAddr)
		if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took != askTimeout {
			t.Errorf("got %v after %v, want a deadline after %v", err, took, askTimeout)
		}
		time.Sleep(time.Second) // the writer ends
	})
}

// detach makes a session of an agent that has n streams and no link.
func detach(t *testing.T, a *Anchor, id proto.Identity, n int) *attached {
	t.Helper()
	l := &dataLink{}
	at, fail, err := a.find(l, &proto.Session{}, id, agentAddr)
	if fail != nil || err != nil {
		t.Fatal(fail, err)
	}
	if n > 0 {
		at.use("web", n)
	}
	at.share.Must(n * streamCost)
	a.leave(l, true)
	return at
}

func resume(a *Anchor, at *attached, id proto.Identity) (*dataLink, *proto.ResumeFail) {
	l := &dataLink{}
	_, fail, _ := a.find(l, &proto.Resume{Session: at.id, Epoch: 2}, id, agentAddr)
	return l, fail
}

func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Config{})
		at := detach(t, a, agent, 1)
		time.Sleep(defaultGrace - time.Second)
		l, fail := resume(a, at, agent)
		if fail != nil || at.sess.Err() != nil {
			t.Fatalf("within its grace: got %+v, %v", fail, at.sess.Err())
		}
		time.Sleep(2 * defaultGrace)
		if at.sess.Err() != nil {
			t.Fatal("a session with a link has ended")
		}
		a.leave(l, true)
		time.Sleep(defaultGrace - time.Second)
		if at.sess.Err() != nil {
			t.Error("the grace does not begin anew with each last link")
		}
		time.Sleep(2 * time.Second)
		if !errors.Is(at.sess.Err(), ErrExpired) {
			t.Errorf("after its grace: got %v, want %v", at.sess.Err(), ErrExpired)
		}
		if _, fail = resume(a, at, agent); fail == nil || fail.Code != proto.ResumeExpired {
			t.Errorf("its agent got %+v, want %s", fail, proto.ResumeExpired)
		}
		if _, fail = resume(a, at, stranger); fail == nil || fail.Code != proto.ResumeNotOwner {
			t.Errorf("another agent got %+v, want %s", fail, proto.ResumeNotOwner)
		}
		if s := a.Stats(); s.Expired != 1 || s.Sessions != 0 || s.Detached != 0 {
			t.Errorf("got %+v", s)
		}
	})
}

func TestRefusedLinkProlongsNoGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Config{})
		at := detach(t, a, agent, 1)
		for range 3 {
			time.Sleep(defaultGrace / 4)
			l, _ := resume(a, at, agent)
			a.leave(l, false)
		}
		time.Sleep(defaultGrace/4 + time.Second)
		if !errors.Is(at.sess.Err(), ErrExpired) {
			t.Errorf("got %v, want %v", at.sess.Err(), ErrExpired)
		}
	})
}

func TestExpiredAreForgottenInTheEnd(t *testing.T) {
	var r ring
	ids := make([]proto.SessionID, maxGone+10)
	for i := range ids {
		ids[i] = proto.NewSessionID()
		r.add(ids[i], agentID)
	}
	if len(r.owner) != maxGone || len(r.ids) != maxGone {
		t.Errorf("%d and %d are kept, want %d", len(r.owner), len(r.ids), maxGone)
	}
	if got := r.why(ids[9], agentID); got != proto.ResumeUnknown {
		t.Errorf("the oldest: got %s, want %s", got, proto.ResumeUnknown)
	}
	if got := r.why(ids[10], agentID); got != proto.ResumeExpired {
		t.Errorf("the oldest that is kept: got %s, want %s", got, proto.ResumeExpired)
	}
}

// wantEnded compares which sessions have ended.
func wantEnded(t *testing.T, why string, all []*attached, ended ...int) {
	t.Helper()
	var got []int
	for i, at := range all {
		if at.sess.Err() != nil {
			got = append(got, i)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(ended) {
		t.Errorf("%s: ended %v, want %v", why, got, ended)
	}
}

// F47: what one agent leaves behind is bounded, and is no other agent's loss.
func TestF47DetachedSessionsOfAnAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Config{})
		other := detach(t, a, stranger, 1)
		var all []*attached
		for _, n := range []int{1, 1, 0, 1, 1} {
			all = append(all, detach(t, a, agent, n))
		}
		wantEnded(t, "a fifth: one without streams goes first", all, 2)
		all = append(all, detach(t, a, agent, 1))
		wantEnded(t, "then the oldest", all, 0, 2)
		if other.sess.Err() != nil {
			t.Error("another agent's session ended")
		}
		a.CloseAll(nil)
	})
}

func TestF47SessionsOfAnAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Config{MaxSessionsOfOne: 2})
		other := detach(t, a, stranger, 1)
		old := detach(t, a, agent, 1)
		for range 2 {
			if _, _, err := a.find(&dataLink{}, &proto.Session{}, agent, agentAddr); err != nil {
				t.Fatal(err)
			}
		}
		wantEnded(t, "its own detached one makes room", []*attached{other, old}, 1)
		if _, _, err := a.find(&dataLink{}, &proto.Session{}, agent, agentAddr); !errors.Is(err, ErrFull) {
			t.Errorf("got %v, want %v", err, ErrFull)
		}
		a.CloseAll(nil)
	})
}

// Detached sessions hold half of the memory at most; the one that waits longest goes.
func TestDetachedSessionsHoldHalfOfTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Config{Memory: 8 * streamCost})
		var all []*attached
		for i := range 4 {
			all = append(all, detach(t, a, proto.Identity{Agent: proto.AgentID{byte(i)}}, 1))
		}
		wantEnded(t, "half is used", all)
		l, _ := resume(a, all[0], all[0].agent)
		a.leave(l, true) // the second waits longest now
		all = append(all, detach(t, a, agent, 1))
		wantEnded(t, "more than half", all, 1)
		a.CloseAll(nil)
	})
}

func TestShareMovesWithItsSession(t *testing.T) {
	b := &budget{total: 1000}
	s := &share{budget: b, owner: &account{memory: 1000}}
	s.Must(300)
	s.setDetached(true)
	s.Must(100)
	s.setDetached(true)
	if !s.Take(100) || s.Take(1) {
		t.Error("Take does not stop at half")
	}
	if got := b.detached.Load(); got != 500 {
		t.Errorf("detached hold %d, want 500", got)
	}
	s.Must(401)
	if !b.full() {
		t.Error("901 of 1,000: not full")
	}
	s.setDetached(false)
	s.Give(901)
	if b.detached.Load() != 0 || b.used.Load() != 0 || b.full() {
		t.Errorf("left: %d used, %d detached", b.used.Load(), b.detached.Load())
	}
}

// A herd is admitted at the rate; the rest is told a time that grows with how many wait, each another.
func TestResumesAreAdmittedAtARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Config{ResumeRate: 100})
		at := detach(t, a, agent, 1)
		var told []time.Duration
		for i := range 600 {
			l, fail := resume(a, at, agent)
			switch {
			case i < 100 && fail != nil:
				t.Fatalf("RESUME %d of a burst of 100: got %+v", i, fail)
			case i >= 100 && (fail == nil || fail.Code != proto.ResumeRetry):
				t.Fatalf("RESUME %d: got %+v, want %s", i, fail, proto.ResumeRetry)
			case fail != nil:
				told = append(told, fail.After)
				continue
			}
			a.leave(l, false)
		}
		mean := func(d []time.Duration) (sum time.Duration) {
			for _, d := range d {
				sum += d
			}
			return sum / time.Duration(len(d))
		}
		if first, last := mean(told[:50]), mean(told[450:]); last < 5*first || last < 3*time.Second || last > 7*time.Second {
			t.Errorf("the first 50 were told %v, the last %v; want the last about 4.75 s", first, last)
		}
		seen := map[time.Duration]bool{}
		for _, d := range told {
			seen[d] = true
		}
		if len(seen) < len(told)*9/10 {
			t.Errorf("%d different times for %d agents", len(seen), len(told))
		}
		time.Sleep(500 * time.Millisecond)
		n := 0
		for range 100 {
			if l, fail := resume(a, at, agent); fail == nil {
				n++
				a.leave(l, false)
			}
		}
		if n != 50 {
			t.Errorf("after half a second %d were admitted, want 50", n)
		}
		a.CloseAll(nil)
	})
}

// The whole herd of 10,000, each coming again when it was told, is through in time.
func TestHerdIsThroughInTime(t *testing.T) {
	now := time.Unix(0, 0)
	b := newBucket(defaultResumes)
	due := make([]time.Duration, 10000)
	var last time.Duration
	var asked int
	for step := time.Duration(0); step < 30*time.Second; step += time.Millisecond {
		for i, d := range due {
			if d < 0 || d > step {
				continue
			}
			asked++
			if after, ok := b.take(now.Add(step)); ok {
				due[i], last = -1, step
			} else {
				due[i] = step + after
			}
		}
	}
	for _, d := range due {
		if d >= 0 {
			t.Fatal("one is not through after 30 s")
		}
	}
	if last > 10*time.Second || asked > 3*len(due) {
		t.Errorf("the last after %v and %d questions, want 10 s and %d", last, asked, 3*len(due))
	}
}

// One agent's greed is its own loss.
func TestF47StreamsBeyondTheMemoryAreBusy(t *testing.T) {
	w := start(t, func(cfg *Config, _ *Service) { cfg.Memory = 20 * streamCost })
	var open []*session.Stream
	var err error
	for len(open) < 30 && err == nil {
		var st *session.Stream
		if st, err = w.open("web"); err == nil {
			open = append(open, st)
		}
	}
	wantCode(t, "over nine tenths of the memory", err, proto.OpenBusy)
	if len(open) == 0 || !strings.Contains(fmt.Sprint(err), "memory") {
		t.Errorf("after %d streams: %v", len(open), err)
	}
	for _, st := range open {
		st.Abort()
	}
	for end := time.Now().Add(patience); w.a.Streams() > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if _, err := w.open("web"); err != nil {
		t.Errorf("when they are gone: %v", err)
	}
}

// Windows and what is kept for agents are charged to one budget: above half of it a new stream gets a small window, and
// the anchor reads no more than that ahead of an agent that does not take it.
func TestWindowsAreCharged(t *testing.T) {
	const window, small = 64 << 10, 16 << 10
	w := start(t, func(cfg *Config, _ *Service) { cfg.Memory = 400 << 10 })
	want := int64(0)
	for i, first := range []int64{window, window, small, small} {
		_, origin := w.pair()
		want += first + streamCost
		if got := w.a.Stats().Memory; got != want {
			t.Errorf("stream %d: %d bytes are charged, want %d", i+1, got, want)
		}
		if i < 3 {
			continue
		}
		w.cut()
		go origin.Write(make([]byte, 1<<20))
		w.until("the agent's share is read ahead", func() bool { return w.a.Stats().Memory >= want+small+bufferSize })
		if got := w.a.Stats().Memory; got != want+small+bufferSize {
			t.Errorf("%d bytes are read ahead, want %d and a buffer of %d", got-want-bufferSize, small, bufferSize)
		}
	}
}
