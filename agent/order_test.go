package agent

import (
	"context"
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
	o := r.lead().moveTo(told([]proto.Target{p2.target(r.enrolled().id.Agent)}), time.Now().Add(300*time.Millisecond))
	r.eventually("its dial is under way", func() bool { return w.dialled(p2) > dials })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // sooner than a dial gives up
	defer cancel()
	if err := o.wait(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("got %v, want that the time is over, said when it is", err)
	}
	r.eventually("said so", r.event("not moved", errLate.Error()))
	r.eventually("and it stays where it is", r.sessionVia(p1))
}
