package agent

import (
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

// event reports whether there is an event that says so.
func (r *running) event(what, detail string) func() bool {
	return func() bool {
		return slices.ContainsFunc(r.Status().Events, func(e Event) bool {
			return e.What == what && strings.Contains(e.Detail, detail)
		})
	}
}

func (e *testEdge) migrate(r *running, counter uint64, to ...*testEdge) *proto.Migrate {
	m := &proto.Migrate{ID: proto.MigrateID{Edge: e.id, Counter: counter}, Deadline: time.Minute}
	for _, t := range to {
		m.Targets = append(m.Targets, t.target(r.Agent.enrolled().id.Agent))
	}
	e.say(m, true)
	return m
}

// TestMovesUnderLoad is a chain of migrations, each edge the next one's successor, under a transfer both ways.
func TestMovesUnderLoad(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2, p3 := f.edge(false), f.edge(true), f.edge(true)
	anchor := f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	x := r.transfer()
	x.flows(r, "by way of P1")
	x.stall()
	from := p1
	for i, to := range []*testEdge{p2, p3, p1, p2} {
		r.eventually("control link", func() bool { return from.links() == 1 })
		from.migrate(r, uint64(i+1), to)
		r.eventually("moved", r.at(to))
		r.eventually("the old links are closed", func() bool { return len(from.direct()) == 0 })
		x.flows(r, "after a move")
		t.Logf("move %d: longest gap %v", i+1, x.stall().Round(time.Millisecond))
		from = to
	}
	x.end()
	if s := r.Status(); s.Counts.Moves != 4 || anchor.opened() != 1 {
		t.Errorf("%d moves, %d OPENs at the anchor; want 4 and 1", s.Counts.Moves, anchor.opened())
	}
}

func TestF2SameMigrationTwiceMovesOnce(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(true)
	f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	r.eventually("control link", func() bool { return p1.links() == 1 })
	m := &proto.Migrate{ID: proto.MigrateID{Edge: p1.id, Counter: 1}, StartAfter: 200 * time.Millisecond, Targets: []proto.Target{p2.target(r.enrolled().id.Agent)}}
	p1.say(m, true)
	p1.say(m, true)
	r.eventually("said so", r.event("migration ignored", "under way already"))
	r.eventually("moved", r.at(p2))
	if s := r.Status(); s.Counts.Moves != 1 || s.Sessions[0].Epoch != 1 {
		t.Errorf("%d moves, epoch %d; want one of each", s.Counts.Moves, s.Sessions[0].Epoch)
	}
}

func TestF9TargetThatIsSomebodyElse(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2, p3 := f.edge(false), f.edge(true), f.edge(true)
	f.anchor()
	other := newFleet(t, "fleet")
	other.key = f.key // somebody who stole keys, but has no certificate
	stranger := other.edge(true)
	r := f.on(newWires(), func(*Agent) {})
	x := r.transfer()
	x.flows(r, "before")
	r.eventually("control link", func() bool { return p1.links() == 1 })
	// P3's address under P2's name, and a node outside the CA: neither gets the session.
	posing := p3.target(r.enrolled().id.Agent)
	posing.Node = p2.id
	posing.Keys = p2.target(r.enrolled().id.Agent).Keys
	p1.say(&proto.Migrate{ID: proto.MigrateID{Edge: p1.id, Counter: 1}, Targets: []proto.Target{posing, stranger.target(r.enrolled().id.Agent), p3.target(r.enrolled().id.Agent)}}, true)
	r.eventually("the third target is taken", r.at(p3))
	x.flows(r, "after")
	x.end()
}

// TestF13KilledEdge: the edge dies with a reset, in the middle of a transfer both ways; anchor and second entry live.
func TestF13KilledEdge(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(false)
	anchor := f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	x := r.transfer()
	x.flows(r, "by way of P1")
	r.eventually("second control link", func() bool { return r.Status().Second != nil })
	x.stall()
	p1.kill()
	r.eventually("resumed by way of P2", r.sessionVia(p2))
	x.flows(r, "after the kill")
	if gap := x.stall(); gap > time.Second {
		t.Errorf("nothing came for %v; a reset is no silence, and no second's patience is in its way", gap)
	}
	r.eventually("control link, too", r.at(p2))
	x.end()
	if anchor.opened() != 1 {
		t.Errorf("%d OPENs", anchor.opened())
	}
}

// TestResetOfALinkIsResumedAtTheSameEdge: an edge that closes a link, as when it is restarted, is asked first.
func TestResetOfALinkIsResumedAtTheSameEdge(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(false)
	f.anchor()
	w := newWires()
	r := f.on(w, func(*Agent) {})
	x := r.transfer()
	x.flows(r, "before")
	r.eventually("second control link", func() bool { return r.Status().Second != nil })
	dials := w.dialled(p2)
	for range 3 {
		was := r.lead().epochNow()
		p1.acc.CloseAll()
		r.eventually("resumed at P1", func() bool { return r.sessionVia(p1)() && r.lead().epochNow() > was })
		x.flows(r, "after a reset")
		r.eventually("control link", func() bool { return p1.links() == 1 })
	}
	x.end()
	if n := w.dialled(p2); n != dials {
		t.Errorf("P2 was dialled %d times; an edge that is back at once loses nobody", n-dials)
	}
}

func (t *tether) epochNow() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.epoch
}

func (t *tether) stallNow() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stall
}

// TestF14F66SilentEdge: no reset, no answer; F1: and no MIGRATE either. F15: the same for each way alone.
func TestF14F66SilentEdge(t *testing.T) {
	for name, way := range map[string]struct{ up, down bool }{
		"blackholed": {true, true}, "F15 inbound only": {true, false}, "F15 outbound only": {false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, "fleet")
			p1, p2 := f.edge(false), f.edge(false)
			f.anchor()
			w := newWires()
			r := f.on(w, func(*Agent) {})
			x := r.transfer()
			x.flows(r, "by way of P1")
			r.eventually("second control link", func() bool { return r.Status().Second != nil })
			x.stall()
			w.cut(p1, way.up, way.down)
			r.eventually("resumed by way of P2", r.sessionVia(p2))
			x.flows(r, "after the cut")
			if gap := x.stall(); gap > 4*time.Second {
				t.Errorf("nothing came for %v, want 2.25 s of silence and a few round trips", gap)
			} else {
				t.Logf("longest gap %v", gap.Round(time.Millisecond))
			}
			r.eventually("the control link follows", r.at(p2))
			x.end()
			if s := r.lead().stallNow(); s == 0 {
				t.Error("status knows of no stall")
			}
		})
	}
}

// TestF16NewEdgeDiesBeforeTheAnswer: RESUME is lost, or RESUME_OK is. The old link carries on, then the next target is asked.
func TestF16NewEdgeDiesBeforeTheAnswer(t *testing.T) {
	for name, late := range map[string]bool{"RESUME lost": false, "RESUME_OK lost": true} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, "fleet")
			p1, p2, p3 := f.edge(false), f.edge(true), f.edge(true)
			anchor := f.anchor()
			var lost atomic.Int32
			hook := func(l *link.Link) bool {
				if l.Via == p2.id {
					lost.Add(1)
					return true
				}
				return false
			}
			if late {
				anchor.lateAt = hook
			} else {
				anchor.resumed = func(_ *proto.Resume, l *link.Link) bool { return hook(l) }
			}
			r := f.on(newWires(), func(*Agent) {})
			x := r.transfer()
			x.flows(r, "before")
			r.eventually("control link", func() bool { return p1.links() == 1 })
			p1.migrate(r, 1, p2, p3)
			r.eventually("P3 has the session", r.sessionVia(p3))
			x.flows(r, "after")
			x.end()
			if lost.Load() == 0 {
				t.Error("P2 was never asked")
			}
			if e := r.lead().epochNow(); e < 3 {
				t.Errorf("epoch %d, want one for P2, one on the old link, one for P3", e)
			}
		})
	}
}

// TestF27F28AddressChange: all links are silent and dials fail as they do after a wake-up or a change of network; when
// the network is back the session goes on.
func TestF27F28AddressChange(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(false)
	anchor := f.anchor()
	w := newWires()
	r := f.on(w, func(*Agent) {})
	x := r.transfer()
	x.flows(r, "before")
	r.eventually("second control link", func() bool { return r.Status().Second != nil })
	w.fail(syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EPROTOTYPE, syscall.EADDRNOTAVAIL, syscall.ENETUNREACH)
	p1.acc.CloseAll()
	p2.acc.CloseAll()
	x.flows(r, "the network is back")
	x.end()
	if anchor.opened() != 1 {
		t.Errorf("%d OPENs", anchor.opened())
	}
	for _, err := range []error{syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EPROTOTYPE, syscall.EADDRNOTAVAIL} {
		if !noAnswer(&net.OpError{Op: "dial", Err: err}) {
			t.Errorf("%v is taken for an answer", err)
		}
	}
}

// TestF64RefusedSession: an anchor that does not know the session any more, in the middle of a transfer.
func TestF64RefusedSession(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, _ := f.edge(false), f.edge(false)
	anchor := f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	c := r.mustDial()
	echo(t, c, "before")
	anchor.restart()
	p1.acc.CloseAll()
	c.SetDeadline(time.Now().Add(testWait))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset and never a clean end", err)
	}
	r.eventually("said so", r.event("session ended", "unknown session"))
	c = r.mustDial() // a new session
	echo(t, c, "after")
	c.Close()
}

// TestF65NobodyAnswers: every edge dies; within the budget the streams are reset, and it goes on when one is back.
func TestF65NobodyAnswers(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(false)
	f.anchor()
	w := newWires()
	r := f.on(w, func(a *Agent) { a.budget = 3 * time.Second })
	c := r.mustDial()
	echo(t, c, "before")
	down := make([]error, 10_000)
	for i := range down {
		down[i] = syscall.ECONNREFUSED
	}
	w.fail(down...)
	began := time.Now()
	p1.acc.CloseAll()
	p2.acc.CloseAll()
	r.eventually("the session waits, and status says so", func() bool {
		s := r.Status()
		return len(s.Sessions) > 0 && s.Sessions[0].State == "waiting" && !s.Sessions[0].Waiting.IsZero()
	})
	c.SetDeadline(time.Now().Add(testWait))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	if took := time.Since(began); took < 2*time.Second || took > 5*time.Second {
		t.Errorf("the streams were reset after %v, want the budget of 3 s", took)
	}
	r.eventually("said so", r.event("streams ended", "1 streams were reset"))
	w.fail()
	r.eventually("connected again by itself", func() bool { return r.at(p1)() || r.at(p2)() })
	c = r.mustDial()
	echo(t, c, "after")
	c.Close()
}

// TestControlLinkAloneMovesNoData: its loss is no reason to touch sessions (F38's thinking).
func TestControlLinkAloneMovesNoData(t *testing.T) {
	f := newFleet(t, "fleet")
	p1 := f.edge(false)
	f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	x := r.transfer()
	x.flows(r, "before")
	r.eventually("control link", func() bool { return p1.links() == 1 })
	p1.mu.Lock()
	for l := range p1.controls {
		l.Abort()
	}
	p1.mu.Unlock()
	r.eventually("said so", r.event("lost", "control link ended"))
	r.eventually("control link again", func() bool { return r.at(p1)() && p1.links() == 1 })
	x.flows(r, "after")
	x.end()
	if e := r.lead().epochNow(); e != 0 {
		t.Errorf("epoch %d: the session was resumed for nothing", e)
	}
}

func TestSecondControlLink(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2, p3 := f.edge(false), f.edge(false), f.edge(true)
	f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	r.eventually("a control link to each entry", func() bool { return p1.links() == 1 && p2.links() == 1 && r.Status().Second != nil })
	s := r.Status()
	if s.Edge == nil || s.Edge.Node != p1.id.String() || s.Second == nil || s.Second.Node != p2.id.String() {
		t.Fatalf("edge %+v, second %+v; want the first entry and the other", s.Edge, s.Second)
	}
	p2.migrate(r, 1, p3)
	r.eventually("it is not the current edge: said so", r.event("migration ignored", "not the current edge"))
	p2.say(&proto.CatalogueMsg{Doc: f.newCatalogue(5, protected)}, false)
	r.eventually("its catalogue counts", r.event("catalogue", "version 5"))
	if !r.at(p1)() || p3.links() > 0 {
		t.Error("moved by an edge that is not the current one")
	}
	if p2.isCurrent() || p2.standBy() != 1 {
		t.Error("the second entry was not told that its link stands by")
	}
	p1.kill()
	r.eventually("the warm link is the current one, and says so", func() bool { return r.at(p2)() && p2.isCurrent() && p2.standBy() == 0 })
	if n := p2.links(); n != 1 {
		t.Errorf("%d control links", n)
	}
}

// TestDeadWarmControlLinkIsNotTaken: a warm link that died unseen is not made the current one. A new one is.
func TestDeadWarmControlLinkIsNotTaken(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(false)
	f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	r.eventually("a warm link", func() bool { return p2.standBy() == 1 && r.Status().Second != nil })
	p2.deafen()
	began := time.Now()
	p1.kill()
	r.eventually("at P2, on a link that lives", func() bool { return r.at(p2)() && p2.isCurrent() })
	if took := time.Since(began); took > controlDead/2 {
		t.Errorf("it took %v", took)
	}
	r.eventually("the dead one is dropped", func() bool { return p2.links() == 1 })
}

func TestGoAwayMovesAtOnce(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(false)
	f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	x := r.transfer()
	x.flows(r, "before")
	r.eventually("control link", func() bool { return p1.links() == 1 })
	r.eventually("a warm control link to the other entry", func() bool { return r.Status().Second != nil })
	before := time.Now()
	p1.say(&proto.GoAway{Reason: "maintenance"}, false)
	r.eventually("moved", func() bool { return r.at(p2)() && r.sessionVia(p2)() })
	if s := r.Status().Edge.Since; s.Before(before) {
		t.Errorf("P2 is the edge since %v, before the move at %v: that is when the warm link was made", s, before)
	}
	r.eventually("nothing is left at P1", func() bool {
		return !slices.ContainsFunc(p1.direct(), func(l link.Live) bool { return l.Kind == proto.KindData })
	})
	x.flows(r, "after")
	x.end()
}

// TestSingleSessionsMove: with probe = "each" a connection that was sent to another proxy has a session of its own.
func TestSingleSessionsMove(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2, p3 := f.edge(false), f.edge(true), f.edge(true)
	f.anchor()
	r := joined2(t, f, ProbeEach)
	r.eventually("at P1", func() bool { return r.at(p1)() && p1.links() == 1 })
	p1.transferTo(p2, r.enrolled().id.Agent)
	c := r.mustDial()
	echo(t, c, "by way of P2")
	if s := r.Status(); len(s.Sessions) != 2 || !s.Sessions[1].Single {
		t.Fatalf("sessions %+v, want one for this connection", s.Sessions)
	}
	p1.transferTo(nil, r.enrolled().id.Agent)
	p1.migrate(r, 1, p3)
	r.eventually("at P3", r.at(p3))
	r.eventually("P2 has nothing left", func() bool { return len(p2.direct()) == 0 })
	echo(t, c, "by way of P3")
	c.Close()
	r.eventually("it ends with its stream", func() bool { return len(r.Status().Sessions) == 1 })
}

// TestSilentLinkOpensOneStream: the OPEN that a dead link swallowed is asked for again by the session.
func TestSilentLinkOpensOneStream(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, _ := f.edge(false), f.edge(false)
	anchor := f.anchor()
	w := newWires()
	r := f.on(w, func(*Agent) {})
	echo(t, r.mustDial(), "before")
	r.eventually("second control link", func() bool { return r.Status().Second != nil })
	w.cut(p1, false, true) // OPEN comes through, its answer does not
	began := time.Now()
	c := r.mustDial()
	if took := time.Since(began); took > 1500*time.Millisecond {
		t.Errorf("took %v; want a patience of 300 ms and a fresh link by another entry", took)
	}
	echo(t, c, "after")
	if n := anchor.opened(); n != 2 {
		t.Errorf("%d OPENs at the anchor for 2 connections", n)
	}
	c.Close()
}

func TestPoolGrowsWithStreamsAndIsMadeAgainAfterAMove(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(true)
	anchor := f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	for range 2*poolStreams + 1 {
		echo(t, r.mustDial(), "x")
	}
	links := func() int {
		t := r.lead()
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.carryingLocked()
	}
	r.eventually("three links for 65 streams", func() bool { return links() == 3 })
	r.eventually("control link", func() bool { return p1.links() == 1 })
	p1.migrate(r, 1, p2)
	r.eventually("moved", r.at(p2))
	r.eventually("three again, all by way of P2", func() bool { return links() == 3 && len(p1.direct()) == 0 && len(p2.direct()) == 4 })
	anchor.mu.Lock()
	defer anchor.mu.Unlock()
	if len(anchor.sessions) != 1 || anchor.attaches != 4 {
		t.Errorf("%d sessions, %d ATTACHes at the anchor; want 1 and 4", len(anchor.sessions), anchor.attaches)
	}
}

// TestRescueByAStandbyGivenAhead: with one entry only, its sudden death loses nothing if the fleet chose so.
func TestRescueByAStandbyGivenAhead(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(true)
	f.anchor()
	cfg := testConfig(t)
	cfg.Token = f.token().String()
	r := start(t, cfg, newWires().system())
	x := r.transfer()
	x.flows(r, "by way of P1")
	r.eventually("control link", func() bool { return p1.links() == 1 })
	if len(r.rescues()) > 0 {
		t.Error("an address is held that nobody has told")
	}
	p1.say(&proto.Standby{Targets: []proto.Target{p2.target(r.enrolled().id.Agent)}}, false)
	r.eventually("it is known", func() bool { return len(r.rescues()) == 1 })
	p1.kill()
	r.eventually("resumed by way of P2", r.sessionVia(p2))
	x.flows(r, "after the kill")
	r.eventually("control link, too", r.at(p2))
	x.end()
}
