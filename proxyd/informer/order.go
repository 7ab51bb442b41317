package informer

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"time"

	"migrationsensor/proto"
)

// An Order says which clients move, and where. The zero one moves everybody, each to its own next proxy.
type Order struct {
	To       proto.NodeID // this neighbour only; zero: by each agent's own order
	Entries  bool         // to entries only
	Deadline time.Duration

	members map[*Member]bool // nil: all
}

func (o Order) wants(m *Member) bool { return o.members == nil || o.members[m] }

func (o Order) allows(n Neighbour) bool {
	return (o.To.IsZero() || n.Node == o.To) && (!o.Entries || n.Entry)
}

// Moving is a planned move under way: what the paper's migration is without an attack.
type Moving struct {
	i       *Informer
	order   Order
	members []*Member
}

// Progress is how far a planned move has come.
type Progress struct {
	Agents       int // that it is for
	Told         int
	Acknowledged int
	Gone         int // their control link here has ended or stands by, and what else the caller counts
	Nowhere      int // no next proxy for them
}

// Move tells the agents for which who is true where to go. It does not wait for them.
func (i *Informer) Move(ctx context.Context, o Order, who func(proto.AgentID) bool) *Moving {
	mv := &Moving{i: i, order: o}
	mv.order.members = map[*Member]bool{}
	i.mu.Lock()
	for m := range i.members {
		if m.current && who(m.Agent) {
			if i.countsLocked(m) {
				mv.members = append(mv.members, m)
			}
			mv.order.members[m] = true
			i.askLocked(m, proto.MigrateID{}, proto.NodeID{}) // what it was told before no longer counts
		}
	}
	i.mu.Unlock()
	mv.Again(ctx)
	return mv
}

// Again asks those again that were not told yet, or do not go.
func (mv *Moving) Again(ctx context.Context) { mv.i.move(ctx, mv.order) }

// Progress tells how far it is now. here says of an agent that is told nothing here any more whether it has other links.
func (mv *Moving) Progress(here func(proto.AgentID) bool) Progress {
	mv.i.mu.Lock()
	defer mv.i.mu.Unlock()
	p := Progress{Agents: len(mv.members)}
	for _, m := range mv.members {
		if !m.askedAt.IsZero() {
			p.Told++
		} else if m.current && !m.left {
			p.Nowhere++
		}
		if m.acked {
			p.Acknowledged++
		}
		if (m.left || !m.current) && !here(m.Agent) {
			p.Gone++
		}
	}
	return p
}

// MemberInfo is what is known of a connected agent.
type MemberInfo struct {
	Agent        proto.AgentID
	Addr         netip.AddrPort
	Since        time.Time
	Told         proto.NodeID // where it was sent; zero: nowhere
	Acknowledged bool
	StandsBy     bool // its current proxy is another one
}

// List returns the connected agents, by id and then by age.
func (i *Informer) List() []MemberInfo {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make([]MemberInfo, 0, len(i.members))
	for m := range i.members {
		info := MemberInfo{Agent: m.Agent, Addr: seen(m.Addr), Since: m.since, Acknowledged: m.acked, StandsBy: !m.current}
		if !m.askedAt.IsZero() {
			info.Told = m.to
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b MemberInfo) int {
		if c := bytes.Compare(a.Agent[:], b.Agent[:]); c != 0 {
			return c
		}
		return a.Since.Compare(b.Since)
	})
	return out
}
