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
	// End ends the control link; nil: nobody can.
	End func()
	// Session and Services describe what it uses, for the next proxy; both may be empty.
	Session  proto.SessionID
	Services []string

	// guarded by Informer.mu
	since   time.Time
	boot    uint64          // of the start of the agent that it belongs to
	current bool            // it says that this proxy is its current one; else it stands by, and is told no address
	asked   proto.MigrateID // the migration notification it was sent last
	acked   bool
	to      proto.NodeID  // where it sends it
	askedAt time.Time     // when it was sent last
	spread  time.Duration // its start_after
	left    bool
	counted tally // what it adds to the Informer's
}

// remindAfter and stuckAfter are when an agent that is still here is sent its notification again: it
// acknowledged nothing, or it did and did not go (ours). The same one, which an agent that is moving
// ignores.
const (
	remindAfter = 3 * time.Second
	stuckAfter  = 10 * time.Second
)

// askLocked makes a new notification, which nobody was sent yet.
func (i *Informer) askLocked(m *Member, id proto.MigrateID, to proto.NodeID) {
	m.asked, m.acked, m.to, m.askedAt = id, false, to, time.Time{}
	i.countLocked(m)
}

// due reports whether a notification that was sent needs sending again.
func (m *Member) due(now time.Time) bool {
	after := remindAfter
	if m.acked {
		after = stuckAfter
	}
	return !m.askedAt.IsZero() && now.Sub(m.askedAt) >= after+m.spread
}

// Acknowledged notes an agent's MIGRATE_OK. One that answers no question of ours is ignored.
func (i *Informer) Acknowledged(m *Member, id proto.MigrateID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if m.asked == id && !m.acked {
		m.acked = true
		i.countLocked(m)
		i.stats.MigrateOK++
	}
}

// Tell sends m to every connected agent, to those that stand by too.
func (i *Informer) Tell(m proto.Message) {
	i.mu.Lock()
	all := slices.Collect(maps.Keys(i.members))
	i.mu.Unlock()
	for _, to := range all {
		if err := to.Send(m); err != nil {
			i.log.Info("agent not told", "agent", to.Agent, "type", m.Type(), "err", err)
		}
	}
}

// Connected lists the agents whose current proxy this is.
func (i *Informer) Connected() (out []*Member) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for m := range i.members {
		if m.current {
			out = append(out, m)
		}
	}
	return out
}

// Begin starts a round: what was acknowledged in an earlier one no longer counts.
func (i *Informer) Begin(round uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.round = round
	for m := range i.members {
		i.askLocked(m, proto.MigrateID{}, proto.NodeID{})
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
// each agent learns where to go. Who came back is asked anew, who does not go is asked again, and who
// is on its way to a proxy that is attacked meanwhile is sent elsewhere. left is how many agents have
// no next proxy.
func (i *Informer) Migrate(ctx context.Context, deadline time.Duration) (left int) {
	return i.move(ctx, Order{Deadline: deadline})
}

func (i *Informer) move(ctx context.Context, o Order) (left int) {
	for { // again for those whose next proxy was busy: it is not permitted any more
		plan, left := i.plan(o)
		if len(plan) == 0 {
			return left
		}
		var again atomic.Bool
		var wg sync.WaitGroup
		for _, moves := range plan {
			wg.Go(func() {
				if !i.announce(ctx, moves) {
					i.takeBack(moves)
					again.Store(true)
					return
				}
				for _, mv := range moves {
					wg.Go(func() { i.notify(mv, o.Deadline) })
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
	next   Neighbour
	id     proto.MigrateID
	spread time.Duration // the same for all that go to one proxy
}

// plan gives each agent that is to be asked its next proxy. Agents count, not links: one with many delays no others.
func (i *Informer) plan(o Order) (_ map[proto.NodeID][]move, left int) {
	now := i.cfg.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make(map[proto.NodeID][]move)
	agents := make(map[proto.NodeID]int)
	free := slices.ContainsFunc(i.neighbours, func(n Neighbour) bool { return o.allows(n) && i.refusalLocked(n, now) == "" })
	for m := range i.members {
		if !m.current || !o.wants(m) {
			continue
		}
		counts := 0
		if i.countsLocked(m) {
			counts = 1
		}
		if n, ok := i.boundLocked(m, now); ok {
			if m.due(now) {
				agents[n.Node] += counts
				out[n.Node] = append(out[n.Node], move{member: m, next: n, id: m.asked})
			}
			continue
		}
		if !free { // ranking them for each of ten thousand agents would find that out slowly
			left += counts
			continue
		}
		n, ok := i.pickLocked(m.Agent, now, o)
		if !ok {
			left += counts
			continue
		}
		agents[n.Node] += counts
		i.counter++
		i.askLocked(m, proto.MigrateID{Edge: i.cfg.Self, Counter: i.counter}, n.Node)
		out[n.Node] = append(out[n.Node], move{member: m, next: n, id: m.asked})
	}
	for node, moves := range out {
		spread := i.spread(agents[node])
		if o.Deadline == 0 { // nobody is in a hurry: what they all do at once is felt by each
			spread = max(spread, min(time.Duration(agents[node])*calmStep, calmMax))
		}
		for k := range moves {
			moves[k].spread = spread
		}
	}
	return out, left
}

// Over how long clients come that move without an attack: one each calmStep, all within calmMax (ours).
const (
	calmStep = 10 * time.Millisecond
	calmMax  = 5 * time.Second
)

// spread is the time over which clients of one next proxy are to come, so that it admits each at once.
func (i *Informer) spread(clients int) time.Duration {
	if i.cfg.Rate <= 0 {
		return 0
	}
	return time.Duration(clients) * time.Second / time.Duration(i.cfg.Rate)
}

// boundLocked is where an agent was sent, if that is still good. A proxy that filled up took it before.
func (i *Informer) boundLocked(m *Member, now time.Time) (Neighbour, bool) {
	if m.asked == (proto.MigrateID{}) || i.conditions[m.to].lost(now) != "" {
		return Neighbour{}, false
	}
	at := slices.IndexFunc(i.neighbours, func(n Neighbour) bool { return n.Node == m.to && n.HasKey })
	if at < 0 {
		return Neighbour{}, false
	}
	return i.neighbours[at], true
}

// takeBack makes moves that were planned, but not notified, open again.
func (i *Informer) takeBack(moves []move) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, mv := range moves {
		i.askLocked(mv.member, proto.MigrateID{}, proto.NodeID{})
	}
}

// announce sends the current user connections' information to a next proxy; false if that is busy.
func (i *Informer) announce(ctx context.Context, moves []move) bool {
	node := moves[0].next.Node
	for len(moves) > 0 {
		n := min(len(moves), userInfoMax)
		msg := &proto.UserInfo{Round: i.Round()}
		for _, mv := range moves[:n] {
			anchor := node
			if mv.member.Session != (proto.SessionID{}) { // it is held here
				anchor = i.cfg.Self
			}
			msg.Clients = append(msg.Clients, proto.UserInfoClient{
				Agent: mv.member.Agent, Addr: seen(mv.member.Addr).Addr(), Session: mv.member.Session,
				Anchor: anchor, Services: mv.member.Services, StartAfter: mv.spread, Expiry: admitFor,
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
	m := mv.member
	i.mu.Lock()
	i.stats.Migrate++
	i.tellLocked(m.Agent, mv.next)
	m.askedAt, m.spread = i.cfg.Now(), mv.spread
	i.mu.Unlock()
	err := m.Send(&proto.Migrate{
		ID: mv.id, Targets: []proto.Target{mv.next.target(m.Agent)}, StartAfter: mv.spread, Deadline: deadline,
	})
	if err != nil {
		i.log.Info("migration notification not delivered", "agent", m.Agent, "err", err)
	}
}
