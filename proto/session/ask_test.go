package session

import (
	"errors"
	"testing"
	"time"

	"migrationsensor/proto"
)

func sessionOK() []byte {
	return proto.AppendMessage(nil, &proto.SessionOK{ID: proto.NewSessionID(), Credit: 1 << 10, MaxStreams: 1}, 0)
}

func newAsking(t *testing.T) *wireTest {
	w := &wireTest{t: t, s: New(Config{}), now: time.Unix(1_800_000_000, 0)}
	w.l = w.s.Ask()
	w.l.Advance(w.now)
	return w
}

func TestOpenGoesInTheFlightOfSession(t *testing.T) {
	w := newAsking(t)
	st, err := w.s.Begin("web")
	if err != nil {
		t.Fatal(err)
	}
	w.want("nobody waits for SESSION_OK", "SESSION", "OPEN 1")
	w.mustSend(sessionOK())
	w.mustSend(proto.AppendMessage(nil, &proto.OpenOK{Credit: 1 << 10}, 1))
	select {
	case <-st.Opened():
	default:
		t.Fatal("the stream is open")
	}
	if err := st.Answer(); err != nil {
		t.Error(err)
	}
	if _, err := w.s.Begin("web"); !isBusy(err) {
		t.Errorf("a stream over what SESSION_OK allows: %v", err)
	}
}

func isBusy(err error) bool {
	e, ok := errors.AsType[*OpenError](err)
	return ok && e.Code == proto.OpenBusy
}

func TestSessionIsAnsweredOnce(t *testing.T) {
	for _, ask := range []bool{false, true} {
		w := newWireTest(t, Config{})
		if ask {
			w.l = w.s.Ask()
			w.mustSend(sessionOK())
		}
		if err := w.send(sessionOK()); !errors.Is(err, ErrProtocol) {
			t.Errorf("asked %v: SESSION_OK that nobody asked for: %v", ask, err)
		}
	}
}

func TestSessionThatIsNotAnsweredEnds(t *testing.T) {
	w := newAsking(t)
	w.want("asked", "SESSION")
	w.now = w.now.Add(minSilent)
	w.want("the link is asked for a sign of life", "PING")
	w.now = w.now.Add(minDead + time.Millisecond)
	w.sent()
	if err := w.s.Err(); !errors.Is(err, ErrSilent) {
		t.Errorf("got %v, want %v", err, ErrSilent)
	}
}

func TestOpenOfASessionThatIsRefused(t *testing.T) {
	w := newAsking(t)
	st, err := w.s.Begin("web")
	if err != nil {
		t.Fatal(err)
	}
	w.s.Close(errors.New("the anchor hung up"))
	<-st.Opened()
	if st.Answer() == nil {
		t.Error("a stream of a session that never was is open")
	}
}
