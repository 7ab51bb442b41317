package anchor

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/session"
)

// cut resets the agent's link and waits until its session has none at the anchor.
func (w *world) cut() {
	w.t.Helper()
	w.l.(*net.TCPConn).SetLinger(0)
	w.l.Close()
	w.until("the session has no link", func() bool { return w.a.Stats().Links == 0 })
}

func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain until %s: %+v", what, w.a.Stats())
		}
	}
}

// resume makes a new set of links, of one.
func (w *world) resume() *session.Link {
	w.t.Helper()
	share := w.s.Resume()
	w.l, w.served, _ = w.link(share)
	select {
	case <-share.Confirmed():
	case <-time.After(patience):
		w.t.Fatalf("not resumed: %v, %+v", share.Err(), share.Refused())
	}
	return share
}

func wantBytes(t *testing.T, why string, r io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: got %.40q, %v, want %.40q", why, got, err, want)
	}
}

func TestStreamsOutliveTheirLink(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	up, down := make([]byte, 8<<20), make([]byte, 8<<20)
	fill := rand.NewChaCha8([32]byte{3})
	fill.Read(up)
	fill.Read(down)
	var atOrigin, atAgent []byte
	var wg sync.WaitGroup
	wg.Go(func() { st.Write(up); st.CloseWrite() })
	wg.Go(func() { origin.Write(down); origin.CloseWrite() })
	wg.Go(func() { atOrigin, _ = io.ReadAll(origin) })
	wg.Go(func() { atAgent, _ = io.ReadAll(st) })
	for range 5 {
		w.cut()
		w.resume()
	}
	wg.Wait()
	if sha256.Sum256(atOrigin) != sha256.Sum256(up) || sha256.Sum256(atAgent) != sha256.Sum256(down) {
		t.Errorf("%d and %d bytes arrived, want the same %d and %d", len(atOrigin), len(atAgent), len(up), len(down))
	}
	if s := w.a.Stats(); s.Resumed != 5 || s.Opened != 1 || s.Sessions != 1 {
		t.Errorf("got %+v, want 5 RESUMEs of one stream of one session", s)
	}
}

// Make before break: the new link is there before the old one is closed, and the agent's address is the new one's.
func TestResumeBesideALivingLink(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	before := w.l
	w.resume()
	st.Write([]byte("over the new link"))
	wantBytes(t, "new link", origin, []byte("over the new link"))
	if got := w.a.Sessions(); len(got) != 1 || got[0].Links != 2 {
		t.Errorf("got %+v, want a session with both links", got)
	}
	before.Close()
	w.until("the old link is gone", func() bool { return w.a.Stats().Links == 1 })
	origin.Write([]byte("still"))
	wantBytes(t, "old link closed", st, []byte("still"))
}

// ATTACH adds a link and takes nothing away: streams go on over it when the first is cut.
func TestAttachedLinkTakesOver(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	share := w.s.Attach()
	w.link(share)
	select {
	case <-share.Confirmed():
	case <-time.After(patience):
		t.Fatalf("not attached: %v", share.Err())
	}
	w.l.(*net.TCPConn).SetLinger(0)
	w.l.Close()
	w.until("one link is left", func() bool { return w.a.Stats().Links == 1 })
	st.Write([]byte("question"))
	wantBytes(t, "attached link", origin, []byte("question"))
	origin.Write([]byte("answer"))
	wantBytes(t, "attached link", st, []byte("answer"))
	if s := w.a.Stats(); s.Detached != 0 || s.Sessions != 1 {
		t.Errorf("got %+v, want a session with a link", s)
	}
}

func TestTheEndOfALinkEndsNoSession(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	why := errors.New("suspended")
	w.a.mu.Lock()
	for l := range w.a.links {
		l.cancel(why)
	}
	w.a.mu.Unlock()
	select {
	case err := <-w.served:
		if !errors.Is(err, why) {
			t.Errorf("got %v, want %v", err, why)
		}
	case <-time.After(patience):
		t.Fatal("the link is still there")
	}
	if s := w.a.Stats(); s.Links != 0 || s.Detached != 1 || s.Streams != 1 {
		t.Errorf("got %+v, want the session without a link", s)
	}
	w.resume()
	st.Write([]byte("moved"))
	wantBytes(t, "after its end", origin, []byte("moved"))
}

// answerTo begins a link with m and returns the answer and the link, which stays.
func answerTo(t *testing.T, a *Anchor, m proto.Message) (proto.Message, net.Conn) {
	t.Helper()
	near, far := tcpPair(t)
	over := make(chan struct{})
	go func() {
		defer close(over)
		a.Serve(t.Context(), far, agent, agentAddr)
	}()
	t.Cleanup(func() { near.Close(); <-over })
	near.SetDeadline(time.Now().Add(patience))
	if err := proto.WriteMessage(near, m); err != nil {
		t.Fatal(err)
	}
	answer, err := proto.NewReader(near, 1<<20).Message()
	if err != nil {
		t.Fatal(err)
	}
	return answer, near
}

// F18: of two RESUMEs with one epoch the first wins, the other's link ends; the session lives.
func TestF18EqualEpochFirstWins(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	id := w.a.Sessions()[0].ID
	table := []proto.ResumeStream{{ID: st.ID(), State: proto.StreamOpen, Credit: 64 << 10}}
	first, l := answerTo(t, w.a, &proto.Resume{Session: id, Epoch: 7, Streams: table})
	if ok, is := first.(*proto.ResumeOK); !is || ok.Epoch != 7 {
		t.Fatalf("the first: got %+v", first)
	}
	wantRefused(t, "the other with this epoch", say(t, w.a, agent, &proto.Resume{Session: id, Epoch: 7, Streams: table}), proto.ResumeStale)
	h := proto.Header{Type: proto.TypeData, Length: 5, Stream: st.ID()}
	l.Write(append(h.Append(nil), "first"...))
	wantBytes(t, "the first's link carries", origin, []byte("first"))
}

// F19: a RESUME that a newer one has overtaken ends its link, and no byte that follows it is applied.
func TestF19OvertakenResumeChangesNothing(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	id := w.a.Sessions()[0].ID
	table := []proto.ResumeStream{{ID: st.ID(), State: proto.StreamOpen, Credit: 64 << 10}}
	_, l := answerTo(t, w.a, &proto.Resume{Session: id, Epoch: 7, Streams: table})
	data := func(s string) []byte {
		return append(proto.Header{Type: proto.TypeData, Length: uint16(len(s)), Stream: st.ID()}.Append(nil), s...)
	}
	slow := &proto.Resume{Session: id, Epoch: 6}
	wantRefused(t, "the slow one", say(t, w.a, agent, slow, data("wrong")...), proto.ResumeStale)
	l.Write(data("right"))
	wantBytes(t, "only the newer link counts", origin, []byte("right"))
}

// F23: while the agent is away its origin sees a closed window, not an error, and everything arrives after it.
func TestF23OriginWaitsForADetachedAgent(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	w.cut()
	sent := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{4}).Read(sent)
	wrote := make(chan error, 1)
	go func() {
		_, err := origin.Write(sent)
		origin.CloseWrite()
		wrote <- err
	}()
	held := int64(-1)
	for same := 0; same < 20; time.Sleep(5 * time.Millisecond) { // until the anchor takes no more
		if m := int64(w.a.Stats().Out); m != held {
			held, same = m, 0
		} else {
			same++
		}
	}
	select {
	case err := <-wrote:
		t.Fatalf("the origin's write ended with %v while nobody read", err)
	default:
	}
	if held > 5<<20 {
		t.Errorf("%d bytes are kept for the agent, want a window", held)
	}
	w.resume()
	got, err := io.ReadAll(st)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes, %v, want the same %d", len(got), err, len(sent))
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// F25: what the origin said last while the agent was away comes first, then its end or its reset.
func TestF25OriginEndsWhileDetached(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	st2, origin2 := w.pair()
	w.cut()
	origin.Write([]byte("the rest"))
	origin.Close()
	origin2.Write([]byte("half"))
	w.until("both were read", func() bool { return w.a.Stats().Out == 12 })
	origin2.SetLinger(0)
	origin2.Close()
	w.resume()
	if b, err := io.ReadAll(st); err != nil || string(b) != "the rest" {
		t.Errorf("an end: got %q, %v", b, err)
	}
	b, err := io.ReadAll(st2)
	if !errors.Is(err, syscall.ECONNRESET) || string(b) != "half" {
		t.Errorf("a reset: got %q, %v, want %q and a reset", b, err, "half")
	}
}

// F26: a reset by the application while there is no link reaches the origin with the next one; and without one when the
// grace is over.
func TestF26ApplicationResetsWhileDetached(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	w.cut()
	st.Abort()
	w.resume()
	wantReset(t, "resumed", origin)

	w = start(t, func(cfg *Config, _ *Service) { cfg.Grace = 20 * time.Millisecond })
	st, origin = w.pair()
	w.cut()
	st.Abort()
	wantReset(t, "never resumed", origin)
}

// The agent that comes back too late hears so, and its streams end with a reset, never a clean end (F25, F64).
func TestF64GraceIsOver(t *testing.T) {
	w := start(t, func(cfg *Config, _ *Service) { cfg.Grace = 20 * time.Millisecond })
	st, origin := w.pair()
	origin.Write([]byte("half"))
	wantBytes(t, "before", st, []byte("half"))
	w.cut()
	wantReset(t, "origin", origin)
	share := w.s.Resume()
	w.link(share)
	wantReset(t, "application", st)
	if f := share.Refused(); f == nil || f.Code != proto.ResumeExpired {
		t.Errorf("got %+v, want %s", f, proto.ResumeExpired)
	}
}

// F60: the answer to an OPEN is lost with its link. It is sent again after RESUME, and the origin sees one connection.
func TestF60RepeatedOpenDialsOnce(t *testing.T) {
	w := start(t, nil)
	w.pair() // the session is known at both ends
	w.l.Close()
	w.until("the session has no link", func() bool { return w.a.Stats().Links == 0 })

	// A link on which the agent never hears anything after its OPEN.
	share := w.s.Resume()
	near, far := tcpPair(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		w.a.Serve(t.Context(), far, agent, agentAddr)
	}()
	st, err := w.s.Begin("web")
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 0, 64<<10)
	share.Advance(time.Now())
	for out := share.Next(buf); len(out) > 0; out = share.Next(buf) {
		near.Write(out)
	}
	w.origin.SetDeadline(time.Now().Add(patience))
	if _, err := w.origin.Accept(); err != nil {
		t.Fatal(err)
	}
	w.until("it is open at the anchor", func() bool { return w.a.Stats().Opened == 2 })
	near.Close()
	share.Close(nil)
	<-served
	select {
	case <-st.Opened():
		t.Fatal("the answer was not lost")
	default:
	}

	w.resume()
	select {
	case <-st.Opened():
	case <-time.After(patience):
		t.Fatal("no answer after RESUME")
	}
	if err := st.Answer(); err != nil {
		t.Error(err)
	}
	w.origin.SetDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := w.origin.Accept(); err == nil {
		t.Error("the origin was dialled twice")
	}
	if s := w.a.Stats(); s.Opened != 2 || s.Streams != 2 {
		t.Errorf("got %+v, want 2 streams", s)
	}
}

// Over the rate the agent is told to come again, and the session waits.
func TestRetryAfterEndsNoSession(t *testing.T) {
	w := start(t, func(cfg *Config, _ *Service) { cfg.ResumeRate = 1 })
	st, origin := w.pair()
	w.cut()
	w.resume()
	w.cut()
	share := w.s.Resume()
	w.link(share)
	select {
	case <-share.Done():
	case <-time.After(patience):
		t.Fatal("the second RESUME of a second was not refused")
	}
	f := share.Refused()
	if f == nil || f.Code != proto.ResumeRetry || f.After <= 0 {
		t.Fatalf("got %+v, want %s and a time", f, proto.ResumeRetry)
	}
	if w.s.Err() != nil {
		t.Fatalf("the session ended: %v", w.s.Err())
	}
	time.Sleep(f.After + time.Second) // what the answer asks for, and the bucket's second
	w.resume()
	st.Write([]byte("later"))
	wantBytes(t, "resumed in its turn", origin, []byte("later"))
}
