package agent

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"migrationsensor/proto"
)

// TestTethersAreRetiredWithoutTheAgentsLock: a tether that is busy asks the agent for names, so who waits for a tether
// must not hold what it asks for.
func TestTethersAreRetiredWithoutTheAgentsLock(t *testing.T) {
	for name, retire := range map[string]func(*Agent){
		"letGo":    (*Agent).letGo,
		"rechoose": func(a *Agent) { a.rechoose(proto.NodeID{}) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, "fleet")
			p1 := f.edge(false)
			f.anchor()
			r := f.on(newWires(), func(*Agent) {})
			r.eventually("control link", func() bool { return p1.links() == 1 })
			old := r.lead()
			other := &tether{Agent: r.Agent, anchor: proto.NewNodeID(), sess: old.sess, wake: make(chan struct{}, 1)}
			r.mu.Lock()
			r.warm[other.anchor] = other // that no service wants
			r.mu.Unlock()
			other.mu.Lock() // it is busy
			done := make(chan struct{})
			go func() { defer close(done); retire(r.Agent) }()
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				for listed := true; listed; time.Sleep(time.Millisecond) {
					r.mu.Lock()
					_, listed = r.warm[other.anchor]
					r.mu.Unlock()
				}
			}()
			select {
			case <-gone:
			case <-time.After(testWait):
				t.Error("the agent's lock is held while a tether is waited for")
			}
			other.mu.Unlock()
			<-done
			<-gone
			if !other.retired {
				t.Error("it was not retired")
			}
		})
	}
}

// TestDroppedOrderIsFinished: whoever waits for a move that is given up learns it.
func TestDroppedOrderIsFinished(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(true)
	f.anchor()
	w := newWires()
	r := f.on(w, func(*Agent) {})
	r.eventually("control link", func() bool { return p1.links() == 1 })
	r.eventually("live", r.sessionVia(p1))
	w.cut(p2, true, true)
	dials := w.dialled(p2)
	o := r.lead().moveTo(plan{
		cands: told([]proto.Target{p2.target(r.enrolled().id.Agent)}), until: time.Now().Add(300 * time.Millisecond),
	})
	r.eventually("its dial is under way", func() bool { return w.dialled(p2) > dials })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // sooner than a dial gives up
	defer cancel()
	if err := o.wait(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("got %v, want that the time is over, said when it is", err)
	}
	r.eventually("said so", r.event("not moved", errLate.Error()))
	r.eventually("and it stays where it is", r.sessionVia(p1))
}

// TestPlannedMoveToADeadProxy: a move that nobody's attack asks for, to a proxy that is silent, keeps nobody from a new
// session where the agent is, and is given up.
func TestPlannedMoveToADeadProxy(t *testing.T) {
	t.Parallel() // it waits for silence most of the time
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(true)
	f.anchor()
	w := newWires()
	r := f.on(w, func(*Agent) {})
	echo(t, r.mustDial(), "before")
	r.eventually("control link", func() bool { return p1.links() == 1 })
	w.cut(p2, true, true)
	dials := w.dialled(p2)
	m := &proto.Migrate{ID: proto.MigrateID{Edge: p1.id, Counter: 1}, Targets: []proto.Target{p2.target(r.enrolled().id.Agent)}}
	p1.say(m, true)
	r.eventually("the move is under way", func() bool { return w.dialled(p2) > dials })
	r.lead().sess.Close(errAnchorGone)
	r.eventually("the session has ended", func() bool { t := r.lead(); return t == nil || !t.ended() })
	began := time.Now()
	echo(t, r.mustDial(), "by way of P1")
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("a new session took %v, want one soon after P2 was silent for %v", took, stagger)
	}
	if !r.sessionVia(p1)() && r.lead().state() != "moving" {
		t.Error("the new session is not by way of P1")
	}
	began = time.Now()
	for !r.event("not moved", "this client stays at entry")() {
		if time.Since(began) > plannedWait {
			t.Fatalf("the move is not given up\n%+v", r.Status())
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.eventually("connected", r.at(p1))
	if n := r.Status().Counts.Moves; n != 0 {
		t.Errorf("%d moves are counted", n)
	}
	echo(t, r.mustDial(), "after")
}

// TestMoveOfTheControlLinkAloneIsNone: the new edge answers, but leads to no anchor for now. What people wait for has moved
// only when its links have.
func TestMoveOfTheControlLinkAloneIsNone(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(true)
	anchor := f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	c := r.mustDial()
	echo(t, c, "before")
	r.eventually("control link", func() bool { return p1.links() == 1 })
	p2.loses(anchor, &proto.Reply{Kind: proto.ReplyRetry})
	p1.migrate(r, 1, p2)
	r.eventually("said so", r.event("connected", "the data links have not moved yet"))
	if n := r.Status().Counts.Moves; n != 0 || r.event("moved", "")() {
		t.Errorf("%d moves are counted, and no data link has moved", n)
	}
	p2.loses(anchor, nil)
	r.eventually("moved", r.event("moved", "now at "+p2.id.String()))
	r.eventually("all of it", func() bool { return r.sessionVia(p2)() && r.at(p2)() })
	if n := r.Status().Counts.Moves; n != 1 {
		t.Errorf("%d moves are counted, want 1", n)
	}
	echo(t, c, "after")
}

// TestSessionThatIsNotAnsweredYetIsKept: a slow answer to SESSION is no reason to give it up for a fresh link, or a move.
func TestSessionThatIsNotAnsweredYetIsKept(t *testing.T) {
	f := newFleet(t, "fleet")
	_, p2 := f.edge(false), f.edge(true)
	anchor := f.anchor()
	anchor.mu.Lock() // it takes links, and answers no SESSION
	r := f.on(newWires(), func(*Agent) {})
	s := r.lead()
	fresh := make(chan error, 1)
	go func() { fresh <- s.freshen(t.Context()) }()
	o := s.moveTo(plan{cands: told([]proto.Target{p2.target(r.enrolled().id.Agent)}), until: time.Now().Add(testWait)})
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end) && !s.ended(); {
		time.Sleep(time.Millisecond)
	}
	anchor.mu.Unlock()
	if s.ended() {
		t.Fatal("the session was given up: ", s.sess.Err())
	}
	if err := o.wait(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-fresh; err != nil {
		t.Error(err)
	}
	if r.lead() != s || s.epochNow() != 1 {
		t.Errorf("epoch %d, want one for the move", s.epochNow())
	}
	r.eventually("the control link follows", func() bool { return r.sessionVia(p2)() && r.at(p2)() })
}

// TestEveryEdgeIsACandidate: whatever ended the last link and whatever move is asked for, a tether without a link tries each
// edge that it knows once, and one that fell silent after the others.
func TestEveryEdgeIsACandidate(t *testing.T) {
	f := newFleet(t, "fleet")
	entries := []*testEdge{f.edge(false), f.edge(false), f.edge(false)}
	hidden := []*testEdge{f.edge(true), f.edge(true)}
	f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	r.eventually("connected", func() bool { return r.lead() != nil && r.lead().up() })
	id := r.enrolled().id.Agent
	at := func(e *testEdge) candidate { return told([]proto.Target{e.target(id)})[0] }
	edges := append(slices.Clone(entries), hidden...)
	r.mu.Lock()
	r.standby = []proto.Target{hidden[1].target(id)}
	r.mu.Unlock()
	r.eventually("a second edge", func() bool { _, ok := r.secondEdge(); return ok })
	for _, from := range append(slices.Clone(edges), nil) {
		for _, to := range [][]*testEdge{nil, {entries[1]}, {hidden[0]}, {hidden[0], hidden[1]}, {hidden[1], entries[0]}} {
			for _, silent := range []bool{false, true} {
				tt := &tether{Agent: r.Agent, sess: r.lead().sess}
				want := map[proto.NodeID]bool{}
				for _, e := range entries {
					want[e.id] = true
				}
				if from != nil {
					tt.lost = &loss{at(from), silent}
					want[from.id] = true
				}
				if to != nil {
					tt.order = &order{}
					for _, e := range to {
						tt.order.cands = append(tt.order.cands, at(e))
						want[e.id] = true
					}
				}
				got, _ := tt.candidatesLocked()
				what := fmt.Sprintf("from %v, silent %v, to %d: %v", from != nil, silent, len(to), got)
				for i, c := range got {
					if slices.ContainsFunc(got[:i], func(o candidate) bool { return o.Node == c.Node }) {
						t.Errorf("twice: %s", what)
					}
					delete(want, c.Node)
				}
				if len(want) > 0 {
					t.Errorf("%d are never tried: %s", len(want), what)
				}
				if from != nil && silent && got[len(got)-1].Node != from.id {
					t.Errorf("the silent one is not the last: %s", what)
				}
			}
		}
	}
}
