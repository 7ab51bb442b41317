package proxyd

import (
	"context"
	"time"

	"migrationsensor/proto"
)

// leaveLook is how often a stop looks whether its agents are gone.
const leaveLook = 20 * time.Millisecond

// leave sends the agents on before a stop: those that have a next proxy by a migration notification,
// the others by GOAWAY to an entry that they know. It returns when no data link runs through this
// proxy and each agent has acknowledged, when `stop_wait` is over, or when ctx is done. Meanwhile no
// new link is taken.
//
// What it cannot save are connections of clients without an agent, and streams whose anchor is this node.
func (e *edge) leave(ctx context.Context) {
	wait := e.p.cfg.StopWait.Duration
	e.stopping.Store(true)
	e.announce()
	agents, _ := e.informer.Members()
	if wait <= 0 || agents == 0 && e.acceptor.DataLinks() == 0 {
		return
	}
	if !e.informer.Replacement() && !e.otherEntry() {
		e.log.Warn("stopping: its agents have nowhere to go", "agents", agents, "links", e.acceptor.DataLinks())
		return
	}
	began := e.host.Now()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	e.informer.Prefer(proto.NodeID{})
	e.begin()
	e.informer.Migrate(ctx, wait) // before GOAWAY, which sends an agent to look for a proxy by itself
	e.informer.Tell(&proto.GoAway{Reason: "this proxy is being stopped"})
	tick := time.NewTicker(leaveLook)
	defer tick.Stop()
	for !e.left() && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			e.informer.Migrate(ctx, wait) // who came back meanwhile
		}
	}
	now, _ := e.informer.Members()
	e.log.Info("stopping: agents were sent on", "agents", agents, "left", now, "links", e.acceptor.DataLinks(), "streams", e.anchor.Streams(), "took", e.host.Now().Sub(began))
}

// left reports whether nothing that could move is here any more.
func (e *edge) left() bool {
	_, waiting := e.informer.Members()
	return waiting == 0 && e.acceptor.DataLinks() == 0
}
