package proxyd

import (
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proxyd/synchecker"
)

// TestRound walks a whole round between real nodes: a connected agent is migrated, a newcomer is
// transferred, P1 is suspended and comes back, and P2 is a spare again when it is empty.
func TestRound(t *testing.T) {
	w := newWorld(t)
	p1, p2 := w.hosts["p1"], w.hosts["p2"]
	if w.state("p1") != Active || w.state("p2") != Standby || p2.armed() != synchecker.Dark {
		t.Fatalf("at first: P1 %s, P2 %s armed %s; want active, standby, dark", w.state("p1"), w.state("p2"), p2.armed())
	}
	c := w.enrol()
	control, said := c.control(c.entry, false)
	old, endOld := c.session(c.entry, false)
	app := c.open(old)
	c.says(app, "peace")

	p1.attack(true)
	w.becomes("p1", Defending)
	m, ok := c.next(said).(*proto.Migrate)
	if !ok || len(m.Targets) != 1 || m.Targets[0].Node != w.node("p2").ID || m.ID.Edge != w.node("p1").ID {
		t.Fatalf("got %+v, want a MIGRATE of P1 to P2", m)
	}
	if _, defending, _, flows, _ := p1.fw.get(); !defending || flows < 2 || p1.armed() != synchecker.Defend {
		t.Errorf("P1's door: defending %v, %d live flows let in, armed %s; want the agent's two links in, SYN Checker on", defending, flows, p1.armed())
	}
	w.eventually("P2 opened its door because of USERINFO", func() bool { _, _, _, _, n := p2.fw.get(); return n == 1 })
	w.becomes("p2", Active)

	s2, endS2 := c.session(m.Targets[0], true)
	control2, said2 := c.control(m.Targets[0], true)
	app2 := c.open(s2)
	c.says(app2, "through P2")
	c.says(app, "old streams finish on P1")
	if err := proto.WriteMessage(control, &proto.MigrateOK{ID: m.ID}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the acknowledgement is counted", func() bool { return w.nodes["p1"].Status().Counts["migrated"] == 1 })
	if s := w.state("p1"); s != Defending {
		t.Errorf("P1 is %s with a stream left on it, want defending", s)
	}
	app.Close()
	endOld()
	control.Close()
	w.becomes("p1", Suspended)

	newcomer := w.transferred(c)
	fresh, endFresh := newcomer.session(newcomer.entry, false)
	newcomer.says(newcomer.open(fresh), "knows only P1, goes through P2")
	w.eventually("P1 hears from P2 that it serves", func() bool { return slices.Equal(w.nodes["p1"].Status().Frontends, []string{"p2"}) })
	st := w.nodes["p1"].Status()
	for _, n := range []string{"userinfo_ok", "migrate", "migrated", "transfer", "ratified", "suspensions"} {
		if st.Counts[n] == 0 {
			t.Errorf("P1 counts no %q: %v", n, st.Counts)
		}
	}
	if st.Serving || st.Disclosed["p2"] != 2 {
		t.Errorf("P1's status: serving %v, disclosed %v; want no, two agents know p2", st.Serving, st.Disclosed)
	}
	w.plain(false)

	p1.attack(false)
	w.becomes("p1", Active)
	w.eventually("a door as in peace, after one round", func() bool { // the state is seen before it is carried out
		_, defending, n, _, _ := p1.fw.get()
		return !defending && n == 1 && p1.armed() == synchecker.Off
	})
	w.plain(true)
	c.says(app2, "moved clients stay where they are")
	if s := w.state("p2"); s != Active {
		t.Errorf("P2 is %s with clients, want active", s)
	}
	back, _, err := c.Follow(t.Context(), c.entry, proto.KindControl)
	if err != nil || back.Target.Node != w.node("p1").ID {
		t.Errorf("after the attack P1 takes links itself, got %v, %v", back, err)
	} else {
		back.Close()
	}
	if r, err := c.Probe(t.Context(), c.entry); err != nil || r.Kind != proto.ReplyGo || w.nodes["p1"].Status().Counts["probes"] != 1 {
		t.Errorf("after the attack a probe of P1: %+v, %v, %d counted; want go ahead, once", r, err, w.nodes["p1"].Status().Counts["probes"])
	}

	endS2()
	endFresh()
	control2.Close()
	for range said2 { // until the link has ended
	}
	p2.fw.mu.Lock()
	p2.fw.expire = true
	p2.fw.mu.Unlock()
	w.becomes("p2", Standby)
}

// transferred sends the agent to P1 once more, as if it had forgotten P2, and returns a second agent,
// which joins while P1 is suspended.
func (w *world) transferred(c *client) *client {
	w.t.Helper()
	l, path, err := c.Follow(w.t.Context(), c.entry, proto.KindControl)
	if err != nil {
		w.t.Fatal(err)
	}
	l.Close()
	if len(path) != 2 || path[1].Node != w.node("p2").ID {
		w.t.Fatalf("a link to suspended P1 went by %v, want on to P2", path)
	}
	r, err := c.Probe(w.t.Context(), c.entry)
	if err != nil || r.Kind != proto.ReplyTransfer || r.Targets[0].Node != w.node("p2").ID {
		w.t.Errorf("a probe of suspended P1: %+v, %v; want a TRANSFER to P2", r, err)
	}
	w.eventually("P2 approves", func() bool { return w.nodes["p1"].Status().Counts["ratified"] > 0 })
	return w.enrol()
}

// plain is a client without an agent: served in peace, not while suspended.
func (w *world) plain(served bool) {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.public.String())
	if err != nil {
		if served {
			w.t.Errorf("plain client: %v", err)
		}
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 1)
	conn.Write([]byte("x"))
	if _, err := conn.Read(b); (err == nil) != served {
		w.t.Errorf("plain client served: %v (%v), want %v", err == nil, err, served)
	}
}

// TestNobodyToTakeOver: attacked without a free neighbour P1 serves on, and says so.
func TestNobodyToTakeOver(t *testing.T) {
	w := newWorld(t)
	c := w.enrol()
	s, _ := c.session(c.entry, false)
	app := c.open(s)
	w.hosts["p2"].attack(true)
	w.eventually("P1 heard that P2 is attacked", func() bool { return !w.nodes["p1"].edge.informer.Replacement() })
	w.hosts["p1"].attack(true)
	w.becomes("p1", Defending)
	c.says(app, "still served")
	l, path, err := c.Follow(t.Context(), c.entry, proto.KindControl)
	if err != nil || len(path) != 1 {
		t.Fatalf("a verified client is served here: by %v, %v", path, err)
	}
	l.Close()
	w.hosts["p1"].attack(false)
	w.becomes("p1", Active)
	c.says(app, "after it")
}

// TestRoles: the certificate says who may be what.
func TestRoles(t *testing.T) {
	w := newWorld(t)
	c := w.enrol()
	edge := &link.Dialer{Creds: c.Creds}
	edge.Creds.Cert = w.nodes["p2"].state.Certificate()
	l, _, err := edge.Follow(t.Context(), c.entry, proto.KindControl)
	if err == nil {
		if _, err = proto.NewReader(l, 1<<20).Message(); err == nil {
			t.Error("an edge's certificate was taken for an agent's")
		}
	}
	stranger := &link.Dialer{Creds: c.Creds}
	stranger.Creds.Fleet = "other"
	if l, _, err := stranger.Follow(t.Context(), c.entry, proto.KindControl); err == nil {
		l.Close()
		t.Error("a proxy of another fleet was trusted")
	}
	wrong := c.entry
	wrong.Keys.K[0] ^= 1
	c.Timeout = 300 * time.Millisecond
	if _, _, err := c.Follow(t.Context(), wrong, proto.KindControl); !errors.Is(err, link.ErrSilent) {
		t.Errorf("a wrong key: got %v, want silence", err)
	}
}

// TestAgentsAreToldOfANewFleet: a connected agent need not come again to learn of a new service.
func TestAgentsAreToldOfANewFleet(t *testing.T) {
	w := newWorld(t)
	c := w.enrol()
	_, said := c.control(c.entry, false)
	e := w.nodes["p1"].edge
	w.eventually("the agent is a member", func() bool { n, _ := e.informer.Members(); return n == 1 })
	e.FleetChanged(e.p.state.Doc(), nil)
	if m := c.next(said); m.Type() != proto.TypeCatalogue {
		t.Errorf("got %T, want the new catalogue", m)
	}
}

// TestAgentThatDoesNotRead costs its link, and nobody else's time.
func TestAgentThatDoesNotRead(t *testing.T) {
	w := newWorld(t)
	c := w.enrol()
	if err := proto.WriteMessage(c.link(c.entry, proto.KindControl, false), &proto.Boot{Current: true}); err != nil {
		t.Fatal(err)
	}
	e := w.nodes["p1"].edge
	w.eventually("the agent is a member", func() bool { n, _ := e.informer.Members(); return n == 1 })
	w.eventually("it lost its link", func() bool {
		began := time.Now()
		e.informer.Tell(&proto.CatalogueMsg{Doc: make([]byte, 1<<20)})
		if d := time.Since(began); d > time.Second {
			t.Fatalf("telling it took %v", d)
		}
		n, _ := e.informer.Members()
		return n == 0
	})
}
