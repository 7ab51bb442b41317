package session

import (
	"errors"
	"testing"
	"time"

	"migrationsensor/proto"
)

// asked is an anchor's session that waits for an ACK on a link, and has just asked for a sign of life.
func asked(t *testing.T) *wireTest {
	t.Helper()
	w, st := serverWith(t, Config{})
	if _, err := st.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	w.want("a byte that is outstanding", "DATA 1 at 0, 1")
	w.askedNow(minSilent)
	return w
}

func (w *wireTest) askedNow(after time.Duration) {
	w.t.Helper()
	w.now = w.now.Add(after)
	w.want("a silent link is asked", "PING")
	w.sent() // its time is told
}

func (w *wireTest) wantLife(why string, lives bool) {
	w.t.Helper()
	w.l.Advance(w.now)
	if got := w.l.Err(); (got == nil) != lives || got != nil && !errors.Is(got, ErrSilent) {
		w.t.Errorf("%s: the link's error is %v, want that it lives: %v", why, got, lives)
	}
}

func TestOwnStandstillIsNoSilence(t *testing.T) {
	w := asked(t)
	w.now = w.now.Add(minDead + 5*time.Second)
	w.wantLife("called 5 s late: the peer may have answered, and nobody read it", true)
	w.now = w.now.Add(maxLate)
	w.wantLife("time to read what lay there, and nothing did", false)
}

func TestALittleLateIsNoStandstill(t *testing.T) {
	w := asked(t)
	w.now = w.now.Add(minDead + maxLate)
	w.wantLife("as late as timers are", false)
}

func TestStandstillBeforeTheQuestion(t *testing.T) {
	w, st := serverWith(t, Config{})
	if _, err := st.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	w.want("a byte that is outstanding", "DATA 1 at 0, 1")
	w.now = w.now.Add(minSilent + time.Minute)
	w.want("a minute in which we stood still is not the peer's: it is asked, not given up", "PING")
	w.now = w.now.Add(minDead)
	w.wantLife("its answer did not come", false)
}

func TestUnreadBytesAreNoSilence(t *testing.T) {
	w := asked(t)
	unread := true
	w.l.Unread(func() bool { return unread })
	w.now = w.now.Add(minDead)
	w.wantLife("the peer's bytes lie in the socket", true)
	unread = false
	w.askedNow(minSilent)
	w.now = w.now.Add(minDead)
	w.wantLife("nothing lies there", false)
}

// silence lets a new link of the session fall silent and returns how long it was waited for after it was asked.
func (w *wireTest) silence() time.Duration {
	w.t.Helper()
	w.l = liveLink(w.s)
	w.sent()
	w.now = w.now.Add(minSilent)
	w.l.Advance(w.now)
	w.sent() // PING
	for waited := time.Duration(0); waited < time.Minute; waited += 100 * time.Millisecond {
		if w.l.Advance(w.now); w.l.Err() != nil {
			return waited
		}
		w.now = w.now.Add(100 * time.Millisecond)
	}
	w.t.Fatal("a silent link lives for ever")
	return 0
}

func TestPatienceGrows(t *testing.T) {
	w, st := serverWith(t, Config{})
	if _, err := st.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	w.l.Close(nil)
	for _, want := range []time.Duration{minDead, minDead, 2 * minDead, 4 * minDead, 8 * minDead, 8 * minDead} {
		if got := w.silence(); got != want {
			t.Errorf("a silent link was given up %v after it was asked, want %v", got, want)
		}
	}
	w.l = liveLink(w.s)
	w.sent()
	w.now = w.now.Add(calmAfter)
	w.mustSend(proto.AppendMessage(nil, &proto.Ping{Token: 7}, 0))
	w.l.Close(nil)
	if got := w.silence(); got != minDead {
		t.Errorf("after a link that worked for %v a silent one was given up %v after it was asked, want %v", calmAfter, got, minDead)
	}
}

// TestParkedLinkIsNotSilent: an agent goes back to a link that a RESUME elsewhere had replaced. That nobody answered its
// PING meanwhile, as nothing is answered there, says nothing of its path.
func TestParkedLinkIsNotSilent(t *testing.T) {
	w := newWireTest(t, Config{ID: proto.NewSessionID()})
	if _, err := w.s.Begin("web"); err != nil {
		t.Fatal(err)
	}
	w.sent()
	w.askedNow(minSilent)
	newer := w.s.Resume()
	w.now = w.now.Add(minDead + minSilent)
	w.l.Advance(w.now)
	newer.Close(nil)
	w.l.Resume()
	w.wantLife("its RESUME has just gone out", true)
	w.sent()
	w.now = w.now.Add(minSilent)
	w.want("it is asked anew", "PING")
	w.sent()
	w.now = w.now.Add(minDead)
	w.wantLife("and did not answer", false)
}
