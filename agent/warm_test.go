package agent

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

// TestPlannedMoveIsWarmed: a session that carries something joins its new link to the old one, warms it and only then moves.
// Where that comes to nothing, or an attack hurries, it moves at once.
func TestPlannedMoveIsWarmed(t *testing.T) {
	for _, tc := range []struct {
		name     string
		deadline time.Duration // of the MIGRATE; 0: it is planned
		lost     bool          // ATTACH is not answered, the link ends
		attaches int
	}{
		{"planned", 0, false, 1},
		{"planned, and the link ends", 0, true, 1},
		{"attacked", time.Minute, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFleet(t, "fleet")
			p1, p2 := f.edge(false), f.edge(true)
			anchor := f.anchor()
			anchor.attached = func(*link.Link) bool { return tc.lost }
			r := f.on(newWires(), func(a *Agent) { a.warmFrom = 1 })
			x := r.transfer()
			x.flows(r, "by way of P1")
			r.eventually("control link", func() bool { return p1.links() == 1 })
			p1.say(&proto.Migrate{
				ID: proto.MigrateID{Edge: p1.id, Counter: 1}, Deadline: tc.deadline, Targets: []proto.Target{p2.target(r.enrolled().id.Agent)},
			}, true)
			r.eventually("moved", r.sessionVia(p2))
			r.eventually("the control link, too", r.at(p2))
			r.eventually("the old links are closed", func() bool { return len(p1.direct()) == 0 })
			x.flows(r, "by way of P2")
			x.end()
			anchor.mu.Lock()
			attaches := anchor.attaches
			anchor.mu.Unlock()
			if s := r.Status(); attaches != tc.attaches || s.Counts.Moves != 1 || s.Sessions[0].Epoch != 1 || anchor.opened() != 1 {
				t.Errorf("%d ATTACHes, %d moves, epoch %d, %d OPENs; want %d, 1, 1, 1", attaches, s.Counts.Moves, s.Sessions[0].Epoch, anchor.opened(), tc.attaches)
			}
		})
	}
}

// TestAttackCutsWarmingShort: a planned move whose new link is not taken in yet is replaced by one that hurries, elsewhere.
func TestAttackCutsWarmingShort(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2, p3 := f.edge(false), f.edge(true), f.edge(true)
	anchor := f.anchor()
	var held atomic.Int32
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	anchor.attached = func(*link.Link) bool {
		held.Add(1)
		<-stop
		return true
	}
	r := f.on(newWires(), func(a *Agent) { a.warmFrom = 1 })
	x := r.transfer()
	x.flows(r, "by way of P1")
	r.eventually("control link", func() bool { return p1.links() == 1 })
	p1.say(&proto.Migrate{ID: proto.MigrateID{Edge: p1.id, Counter: 1}, Targets: []proto.Target{p2.target(r.enrolled().id.Agent)}}, true)
	r.eventually("the new link asks", func() bool { return held.Load() == 1 })
	began := time.Now()
	p1.migrate(r, 2, p3)
	r.eventually("the session is at P3", r.sessionVia(p3))
	if took := time.Since(began); took > warmLimit+2*time.Second {
		t.Errorf("after %v", took)
	}
	x.flows(r, "by way of P3")
	x.end()
}

// TestLastLinkIsNotChilled: where the old link has died, the one that is being warmed carries the session, and another move
// leaves it until its own link is there.
func TestLastLinkIsNotChilled(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2, p3 := f.edge(false), f.edge(true), f.edge(true)
	f.anchor()
	w := newWires()
	r := f.on(w, func(*Agent) {})
	x := r.transfer()
	x.flows(r, "by way of P1")
	tt := r.lead()
	tt.mu.Lock()
	d := tt.firstLocked()
	d.warming = true // as if it had been the new one
	tt.mu.Unlock()
	w.cut(p3, true, true) // the move takes its time
	tt.moveTo(plan{cands: told([]proto.Target{p3.target(r.enrolled().id.Agent)}), until: time.Now().Add(500 * time.Millisecond), planned: true})
	tt.mu.Lock()
	err, warming := d.share.Err(), d.warming
	tt.mu.Unlock()
	if err != nil || warming {
		t.Errorf("the only link: ended with %v, warming %v; want neither", err, warming)
	}
	x.flows(r, "meanwhile")
	r.eventually("given up", r.event("not moved", ""))
	p1.say(&proto.Migrate{ID: proto.MigrateID{Edge: p1.id, Counter: 1}, Targets: []proto.Target{p2.target(r.enrolled().id.Agent)}}, true)
	r.eventually("moved", r.sessionVia(p2))
	x.flows(r, "by way of P2")
	x.end()
}

// TestSilentEdgeIsAvoidedForAWhile, and no longer: whoever names it then knows that it is back.
func TestSilentEdgeIsAvoidedForAWhile(t *testing.T) {
	at := candidate{Target: proto.Target{Node: proto.NodeID{1}}}
	for _, tc := range []struct {
		lost     *loss
		failures int
		node     proto.NodeID
		avoided  bool
	}{
		{nil, 0, proto.NodeID{}, false},
		{&loss{at, false}, 0, proto.NodeID{}, false},
		{&loss{at, true}, 0, at.Node, true},
		{&loss{at, true}, avoidTries - 1, at.Node, true},
		{&loss{at, true}, avoidTries, at.Node, false},
	} {
		tt := &tether{lost: tc.lost, failures: backoff{failures: tc.failures}}
		if node, avoided := tt.silentLocked(); node != tc.node || avoided != tc.avoided {
			t.Errorf("%+v after %d failures: %v, %v; want %v, %v", tc.lost, tc.failures, node, avoided, tc.node, tc.avoided)
		}
	}
}

// TestWarmedMovesInABadYear: moves that are planned or hurry, one over the other, to edges that reset their links or fall
// silent meanwhile; every byte arrives, and in the end the session moves as it is told.
func TestWarmedMovesInABadYear(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 7))
			f := newFleet(t, "fleet")
			var edges []*testEdge
			for range 4 {
				edges = append(edges, f.edge(false))
			}
			anchor := f.anchor()
			w := newWires()
			r := f.on(w, func(a *Agent) { a.warmFrom = 1 })
			x := r.transfer()
			x.flows(r, "at first")
			move := func(to *testEdge, planned bool) {
				r.lead().moveTo(plan{cands: told([]proto.Target{to.target(r.enrolled().id.Agent)}), until: time.Now().Add(5 * time.Second), planned: planned})
			}
			var silent *testEdge
			for range 60 {
				e := edges[rnd.IntN(len(edges))]
				switch rnd.IntN(8) {
				case 0, 1, 2:
					move(e, true)
				case 3:
					move(e, false)
				case 4:
					e.acc.CloseNode(anchor.id)
				case 5:
					if silent != nil {
						w.cut(silent, false, false)
					}
					silent = e
					w.cut(e, rnd.IntN(3) > 0, rnd.IntN(3) > 0)
				default:
					if silent != nil {
						w.cut(silent, false, false)
						silent = nil
					}
				}
				time.Sleep(time.Duration(rnd.IntN(80)) * time.Millisecond) // as fate has it
			}
			for _, e := range edges {
				w.cut(e, false, false)
			}
			x.flows(r, "after all")
			for _, to := range []int{0, 1} {
				move(edges[to], true)
				r.eventually("moved", r.sessionVia(edges[to]))
				x.flows(r, "after a move")
			}
			x.end()
			if n := anchor.opened(); n != 1 {
				t.Errorf("%d OPENs at the anchor, want 1", n)
			}
			tt := r.lead()
			tt.mu.Lock()
			defer tt.mu.Unlock()
			for _, d := range tt.links {
				if d.warming {
					t.Errorf("the link by way of %v is still being warmed", d.cand.Node)
				}
			}
			if tt.order != nil || tt.dialing != nil {
				t.Errorf("a move is under way: %+v", tt.order)
			}
		})
	}
}

// TestNextEdgeFallsSilentWhileWarming: the session has not moved to it and does not, and its streams feel nothing.
func TestNextEdgeFallsSilentWhileWarming(t *testing.T) {
	t.Parallel() // it waits for silence most of the time
	f := newFleet(t, "fleet")
	f.edge(false)
	p2 := f.edge(true)
	anchor := f.anchor()
	w := newWires()
	anchor.attached = func(*link.Link) bool {
		w.cut(p2, true, false) // ATTACH_OK comes, and no PAD goes
		return false
	}
	r := f.on(w, func(a *Agent) { a.warmFrom = 1 })
	x := r.transfer()
	x.flows(r, "by way of P1")
	tt := r.lead()
	x.stall()
	began := time.Now()
	o := tt.moveTo(plan{cands: told([]proto.Target{p2.target(r.enrolled().id.Agent)}), until: began.Add(5 * time.Second), planned: true})
	r.eventually("it is taken in", func() bool { tt.mu.Lock(); defer tt.mu.Unlock(); return tt.joiningLocked() != nil })
	r.eventually("it is given up", func() bool { tt.mu.Lock(); defer tt.mu.Unlock(); return o.cold })
	x.flows(r, "by way of P1")
	r.eventually("given up", r.event("not moved", ""))
	if n := tt.epochNow(); n != 0 {
		t.Errorf("%d RESUMEs were sent, want none: the session has not moved", n)
	}
	t.Logf("nothing came for %v", x.stall())
	x.end()
}
