package agent

import (
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
