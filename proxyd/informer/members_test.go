package informer

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"migrationsensor/proto"
)

// F47: an agent with many control links, each of another start, delays nobody's move, and counts once.
func TestF47ControlLinksOfAnAgent(t *testing.T) {
	w := &wire{}
	i := New(Config{Self: proto.NodeID{1}, Peers: w, Rate: 2})
	i.SetNeighbours([]Neighbour{neighbour(2)})
	i.Heard(proto.NodeID{2}, true, false)
	honest, _ := connect(i, agent(1))
	ended := 0
	const links = 1000
	var leaves []func()
	for k := range links {
		m := &Member{Agent: agent(2), Addr: client, Send: func(proto.Message) error { return nil }, End: func() { ended++ }}
		leaves = append(leaves, i.Join(m))
		i.Boot(m, uint64(k), true)
	}
	if ended != links-maxMembers || len(i.List()) != 1+maxMembers {
		t.Errorf("%d of %d links ended, %d members; want all but %d", ended, links, len(i.List()), maxMembers)
	}
	if connected, waiting := i.Members(); connected != 2 || waiting != 2 {
		t.Errorf("%d agents, %d waiting; want 2 of 2", connected, waiting)
	}
	i.Begin(1)
	i.Migrate(t.Context(), time.Minute)
	want(t, "the other agent", honest.told(), 2)
	if after := honest.last().StartAfter; after != time.Second {
		t.Errorf("it is to start within %v, want 1s: two agents at 2 a second", after)
	}
	if n := w.count("*proto.UserInfo to 2"); n != 1 {
		t.Errorf("%d USERINFO, want 1", n)
	}
	if p := i.Move(t.Context(), Order{}, func(proto.AgentID) bool { return true }).Progress(nowhere); p.Agents != 2 {
		t.Errorf("a move of %d agents, want 2", p.Agents)
	}
	for _, leave := range leaves {
		leave()
	}
	if connected, _ := i.Members(); connected != 1 || len(i.agents) != 1 || len(i.members) != 1 {
		t.Errorf("left: %d agents, %d members", len(i.agents), len(i.members))
	}
}

// Two machines with one identity are both told where to go; they are one agent, which the newer stands for as long as it
// is here.
func TestTwoMachinesOfOneAgentBothMove(t *testing.T) {
	i := newTest(&wire{}, 2)
	first, _ := connect(i, agent(1))
	second := &mailbox{}
	second.Member = &Member{Agent: agent(1), Addr: client, Send: func(m proto.Message) error {
		second.got = append(second.got, m.(*proto.Migrate))
		return nil
	}}
	leave := i.Join(second.Member)
	i.Boot(second.Member, 2, true)
	i.Begin(1)
	i.Migrate(t.Context(), time.Minute)
	want(t, "the first", first.told(), 2)
	want(t, "the second", second.told(), 2)
	i.Acknowledged(first.Member, first.last().ID)
	if connected, waiting := i.Members(); connected != 1 || waiting != 1 {
		t.Errorf("%d agents, %d waiting; want one, for the newer", connected, waiting)
	}
	leave()
	if connected, waiting := i.Members(); connected != 1 || waiting != 0 {
		t.Errorf("%d agents, %d waiting; want one, for the older, which has acknowledged", connected, waiting)
	}
}

// The tally is what counting all would find, whatever happens to the members.
func TestTallyIsTheCount(t *testing.T) {
	i := newTest(&wire{}, 2)
	r := rand.New(rand.NewPCG(1, 2))
	type joined struct {
		m     *Member
		leave func()
	}
	var all []joined
	for range 20000 {
		if len(all) == 0 || r.IntN(4) == 0 {
			m := &Member{Agent: proto.AgentID{byte(r.IntN(5))}, Send: func(proto.Message) error { return nil }}
			all = append(all, joined{m, i.Join(m)})
			continue
		}
		at := r.IntN(len(all))
		switch j := all[at]; r.IntN(5) {
		case 0:
			j.leave()
			all = slices.Delete(all, at, at+1)
		case 1, 2:
			i.Boot(j.m, uint64(r.IntN(3)), r.IntN(3) > 0)
		case 3:
			i.mu.Lock()
			i.counter++
			i.askLocked(j.m, proto.MigrateID{Edge: i.cfg.Self, Counter: i.counter}, proto.NodeID{})
			i.mu.Unlock()
		default:
			i.Acknowledged(j.m, j.m.asked)
		}
		connected, waiting := 0, 0
		for m := range i.members {
			if i.countsLocked(m) {
				connected++
				if !m.acked {
					waiting++
				}
			}
		}
		if c, w := i.Members(); c != connected || w != waiting {
			t.Fatalf("the tally is %d and %d, there are %d and %d", c, w, connected, waiting)
		}
	}
}
