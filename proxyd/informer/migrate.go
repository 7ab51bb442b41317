package informer

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"migrationsensor/proto"
)

// userInfoMax is how many clients one USERINFO names, so that it stays one frame.
const userInfoMax = 128

// Member is a connected agent: its control link ends here.
type Member struct {
	Agent proto.AgentID
	Addr  netip.AddrPort // as seen
	// Send hands one message to the control link. It must not wait for the network: one agent that
	// does not read would hold up the others.
	Send func(proto.Message) error
	// Session and Services describe what it uses, for the next proxy; both may be empty.
	Session  proto.SessionID
	Services []string

	// guarded by Informer.mu
	asked proto.MigrateID // the migration notification it was sent last
	acked bool
}

// Join adds a connected agent; leave takes it away again.
func (i *Informer) Join(m *Member) (leave func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.members[m] = struct{}{}
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.members, m)
	}
}

// Members returns how many agents are connected, and how many of them have not acknowledged a
// migration notification.
func (i *Informer) Members() (connected, waiting int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for m := range i.members {
		if !m.acked {
			waiting++
		}
	}
	return len(i.members), waiting
}

// Acknowledged notes an agent's MIGRATE_OK. One that answers no question of ours is ignored.
func (i *Informer) Acknowledged(m *Member, id proto.MigrateID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if m.asked == id && !m.acked {
		m.acked = true
		i.stats.MigrateOK++
	}
}

// Tell sends m to every connected agent.
func (i *Informer) Tell(m proto.Message) {
	i.mu.Lock()
	members := slices.Collect(maps.Keys(i.members))
	i.mu.Unlock()
	for _, to := range members {
		if err := to.Send(m); err != nil {
			i.log.Info("agent not told", "agent", to.Agent, "type", m.Type(), "err", err)
		}
	}
}

// Begin starts a round: what was acknowledged in an earlier one no longer counts.
func (i *Informer) Begin(round uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.round = round
	for m := range i.members {
		m.asked, m.acked = proto.MigrateID{}, false
	}
}

// Round returns the current round's number.
func (i *Informer) Round() uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.round
}

// Migrate moves every connected agent that was not yet asked in this round (paper section 4.2.3):
// first each next proxy learns which clients will come and acknowledges, for at most 150 ms, then
// each agent learns where to go. left is how many agents have no next proxy.
func (i *Informer) Migrate(ctx context.Context, deadline time.Duration) (left int) {
	for { // again for those whose next proxy was busy: it is not permitted any more
		plan, left := i.plan()
		if len(plan) == 0 {
			return left
		}
		var again atomic.Bool
		var wg sync.WaitGroup
		for node, moves := range plan {
			wg.Go(func() {
				if !i.announce(ctx, node, moves) {
					i.takeBack(moves)
					again.Store(true)
					return
				}
				for _, mv := range moves {
					wg.Go(func() { i.notify(mv, deadline) })
				}
			})
		}
		wg.Wait()
		if !again.Load() || ctx.Err() != nil {
			return left
		}
	}
}

// move is one agent's way in a round.
type move struct {
	member *Member
	target proto.Target
	id     proto.MigrateID
}

// plan gives each agent that was not asked yet its next proxy.
func (i *Informer) plan() (_ map[proto.NodeID][]move, left int) {
	now := i.cfg.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make(map[proto.NodeID][]move)
	for m := range i.members {
		if m.asked != (proto.MigrateID{}) {
			continue
		}
		n, ok := i.pickLocked(m.Agent, now)
		if !ok {
			left++
			continue
		}
		i.counter++
		m.asked = proto.MigrateID{Edge: i.cfg.Self, Counter: i.counter}
		out[n.Node] = append(out[n.Node], move{m, n.target(m.Agent), m.asked})
	}
	return out, left
}

// takeBack makes moves that were planned, but not notified, open again.
func (i *Informer) takeBack(moves []move) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, mv := range moves {
		mv.member.asked = proto.MigrateID{}
	}
}

// announce sends the current user connections' information to a next proxy; false if that is busy.
func (i *Informer) announce(ctx context.Context, node proto.NodeID, moves []move) bool {
	for len(moves) > 0 {
		n := min(len(moves), userInfoMax)
		msg := &proto.UserInfo{Round: i.Round()}
		for _, mv := range moves[:n] {
			msg.Clients = append(msg.Clients, proto.UserInfoClient{
				Agent: mv.member.Agent, Addr: seen(mv.member.Addr).Addr(), Session: mv.member.Session,
				Anchor: node, Services: mv.member.Services, Expiry: admitFor,
			})
		}
		moves = moves[n:]
		i.count(func(s *Stats) { s.UserInfo++ })
		switch err := i.ask(ctx, node, msg); {
		case err == nil:
			i.count(func(s *Stats) { s.UserInfoOK++ })
		case errors.Is(err, errBusy):
			i.refused(node)
			return false
		default:
			i.log.Warn("user-connection information not acknowledged; agents enter by their knock",
				"node", node, "clients", n+len(moves), "err", err)
			return true // a node that is silent is asked once, not once for each 128 clients
		}
	}
	return true
}

// notify sends one agent its migration notification.
func (i *Informer) notify(mv move, deadline time.Duration) {
	i.mu.Lock()
	i.stats.Migrate++
	i.tellLocked(mv.member.Agent, mv.target.Node)
	i.mu.Unlock()
	err := mv.member.Send(&proto.Migrate{
		ID: mv.id, Targets: []proto.Target{mv.target}, Deadline: deadline,
	})
	if err != nil {
		i.log.Info("migration notification not delivered", "agent", mv.member.Agent, "err", err)
	}
}
