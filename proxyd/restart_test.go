package proxyd

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/session"
)

// tether is what an agent has: a session at a1, a control link, and data links by way of one edge.
type tether struct {
	*client
	sess    *session.Session
	control io.Closer
	said    <-chan proto.Message
	end     func() // of the data link
}

// tethered connects an agent by way of P1.
func (w *world) tethered() *tether {
	w.t.Helper()
	c := w.enrol()
	l, err := c.via(c.entry, "a1", false)
	if err != nil {
		w.t.Fatal(err)
	}
	h := &tether{client: c, sess: session.New(session.Config{}), end: l.Abort}
	w.t.Cleanup(func() { h.sess.Close(nil) })
	c.pump(l, h.sess.Ask())
	ctl, said := c.control(c.entry, false)
	h.control, h.said = ctl, said
	return h
}

// follow goes where the edge says, as an agent does: the data link first, then the control link; the old ones
// end when the session goes on over the new one.
func (h *tether) follow() error {
	m, ok := (<-h.said).(*proto.Migrate)
	if !ok {
		return errors.New("the edge does not say where to go")
	}
	ctl, is := h.control.(io.Writer)
	if !is {
		return errors.New("no control link")
	}
	if err := proto.WriteMessage(ctl, &proto.MigrateOK{ID: m.ID}); err != nil {
		return err
	}
	l, err := h.via(m.Targets[0], "a1", true)
	if err != nil {
		return err
	}
	share := h.sess.Resume()
	h.pump(l, share)
	select {
	case <-share.Confirmed():
	case <-time.After(20 * time.Second):
		return errors.New("the session is not resumed")
	}
	h.end()
	h.control.Close()
	h.end = l.Abort
	next, said := h.client.control(m.Targets[0], true)
	h.control, h.said = next, said
	return nil
}

// F52: P1 is stopped while its agents transfer, runs again, and they come home: no session is lost, no
// byte either.
func TestRestartUnderLoad(t *testing.T) {
	w := newWorld(t, withAnchor(t))
	w.relays("p1", "a1")
	w.relays("p2", "a1")
	h := w.tethered()
	app := h.open(h.sess)

	const size = 8 << 20
	sent := make([]byte, size)
	rand.NewChaCha8([32]byte{52}).Read(sent)
	half := make(chan struct{}) // the first half came back: the stop is in the middle
	rest := make(chan struct{}) // closed when the second half may be sent
	wrote, got := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := app.Write(sent[:size/2+size/4]) // a quarter is on its way during the stop
		<-rest
		if err == nil {
			_, err = app.Write(sent[size/2+size/4:])
		}
		wrote <- err
	}()
	sum := sha256.New()
	go func() {
		_, err := io.CopyN(sum, app, size/2)
		close(half)
		if err == nil {
			_, err = io.CopyN(sum, app, size/2)
		}
		got <- err
	}()

	<-half
	w.nodes["p1"].Stop()
	if err := h.follow(); err != nil {
		t.Fatal(err)
	}
	w.stopped("p1")
	old := w.nodes["p1"]
	close(rest)
	w.run("p1", old.cfg)
	w.eventually("P1 takes links again", func() bool { return w.listens("p1") })
	w.eventually("P2 may send clients to it", func() bool { return w.nodes["p2"].edge.informer.Refusal(w.node("p1").ID) == "" })
	w.relays("p1", "a1")
	_, done := w.ask("p2", MoveRequest{All: true, Entries: true, Wait: Duration{20 * time.Second}})
	if err := h.follow(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, c := range []chan error{wrote, got} {
		select {
		case err := <-c:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the transfer stands still")
		}
	}
	if want := sha256.Sum256(sent); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("what came back is not what was sent")
	}
	if st := w.nodes["a1"].Status(); st.Sessions != 1 || st.Via["p1"] != 1 {
		t.Errorf("the anchor holds %d sessions, by way of %v; want the one, by P1", st.Sessions, st.Via)
	}
}

// withRelayPorts declares relay ports for the edges: without a node of kind anchor they are each other's.
func withRelayPorts(t *testing.T) func(*Config) {
	return func(cfg *Config) {
		for i := range cfg.Nodes {
			if cfg.Nodes[i].Kind != "signer" {
				cfg.Nodes[i].RelayPorts = []uint16{freeAddr(t).Port()}
			}
		}
	}
}

// TestSessionOfASuspendedEdge: a session that P1 holds itself goes on over P2, also when P1 is off the path.
func TestSessionOfASuspendedEdge(t *testing.T) {
	w := newWorld(t, withRelayPorts(t), func(c *Config) { c.Attack.SuspendAfter.Duration = time.Second })
	w.relays("p2", "p1")
	c := w.enrol()
	_, said := c.control(c.entry, false)
	l := c.link(c.entry, proto.KindData, false)
	s := session.New(session.Config{})
	t.Cleanup(func() { s.Close(nil) })
	c.pump(l, s.Ask())
	app := c.open(s)
	c.says(app, "through P1, at P1")
	w.hosts["p1"].attack(true)
	m, ok := c.next(said).(*proto.Migrate)
	if !ok {
		t.Fatalf("got %+v, want a MIGRATE", m)
	}
	w.becomes("p1", Suspended)
	w.eventually("its link has ended", func() bool { return s.Links() == 0 })
	l2, err := c.via(m.Targets[0], "p1", true)
	if err != nil {
		t.Fatal(err)
	}
	c.pump(l2, s.Resume())
	c.says(app, "through P2, at P1")
	if st := w.nodes["p1"].Status(); st.State != Suspended || st.Via["p2"] != 1 || st.Links != 0 {
		t.Errorf("P1 is %s, links by way of %v and %d its own; want suspended, one by P2", st.State, st.Via, st.Links)
	}
}
