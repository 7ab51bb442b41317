package informer

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"migrationsensor/proto"
)

// mailbox is an agent's control link: what it was told.
type mailbox struct {
	*Member
	mu  sync.Mutex
	got []*proto.Migrate
}

func connect(i *Informer, a proto.AgentID) (b *mailbox, leave func()) {
	b = &mailbox{}
	b.Member = &Member{Agent: a, Addr: client, Send: func(m proto.Message) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.got = append(b.got, m.(*proto.Migrate))
		return nil
	}}
	leave = i.Join(b.Member)
	i.Boot(b.Member, 1, true)
	return b, leave
}

// told is where it was sent, in order, as the first byte of the node.
func (b *mailbox) told() (out []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.got {
		out = append(out, m.Targets[0].Node[0])
	}
	return out
}

func (b *mailbox) last() *proto.Migrate {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.got[len(b.got)-1]
}

func want(t *testing.T, why string, got []byte, want ...byte) {
	t.Helper()
	if string(got) != string(want) {
		t.Fatalf("%s: told %v, want %v", why, got, want)
	}
}

func nowhere(proto.AgentID) bool { return false }

// F1, F2: a notification that is not acknowledged comes again, as the same one: the agent moves once.
func TestRemindsWithTheSameNotification(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newTest(&wire{}, 2)
		i.Begin(1)
		b, _ := connect(i, agent(1))
		i.Migrate(t.Context(), time.Minute)
		time.Sleep(remindAfter - 1)
		i.Migrate(t.Context(), time.Minute)
		want(t, "it may still be on its way", b.told(), 2)
		time.Sleep(time.Nanosecond)
		i.Migrate(t.Context(), time.Minute)
		want(t, "nothing was acknowledged", b.told(), 2, 2)
		if b.got[0].ID != b.got[1].ID {
			t.Errorf("a reminder is another notification: %v, %v", b.got[0].ID, b.got[1].ID)
		}
		i.Acknowledged(b.Member, b.last().ID)
		time.Sleep(stuckAfter - 1)
		i.Migrate(t.Context(), time.Minute)
		want(t, "it acknowledged and has time to go", b.told(), 2, 2)
		time.Sleep(time.Nanosecond)
		i.Migrate(t.Context(), time.Minute)
		want(t, "it did not go", b.told(), 2, 2, 2)
	})
}

// A reminder waits for those that were told to start later.
func TestRemindsAfterTheSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newTest(&wire{}, 2)
		i.cfg.Rate = 1
		i.Begin(1)
		var all []*mailbox
		for n := range 10 {
			b, _ := connect(i, agent(n))
			all = append(all, b)
		}
		i.Migrate(t.Context(), time.Minute)
		if s := all[0].last().StartAfter; s != 10*time.Second {
			t.Errorf("ten clients of a proxy that admits one a second: spread over %v, want 10s", s)
		}
		time.Sleep(10*time.Second + remindAfter - 1)
		i.Migrate(t.Context(), time.Minute)
		want(t, "its turn may not have come", all[0].told(), 2)
	})
}

// USERINFO tells the next proxy over what time its clients come, so that its door is open so long.
func TestUserInfoTellsTheSpread(t *testing.T) {
	w := &wire{}
	var spread []time.Duration
	w.answer = func(_ proto.NodeID, m proto.Message) (proto.Message, error) {
		u := m.(*proto.UserInfo)
		for _, c := range u.Clients {
			spread = append(spread, c.StartAfter)
		}
		return &proto.UserInfoOK{Round: u.Round}, nil
	}
	i := newTest(w, 2)
	i.cfg.Rate = 100
	for n := range 200 {
		connect(i, agent(n))
	}
	i.Begin(1)
	i.Migrate(t.Context(), time.Minute)
	if len(spread) != 200 || spread[0] != 2*time.Second || spread[199] != 2*time.Second {
		t.Errorf("%d clients announced, the first within %v; want 200 within 2s", len(spread), spread[0])
	}
}

// An agent that only stands by here is told nothing and counts nowhere; when this becomes its current proxy, it is.
func TestWhoStandsByIsToldNothing(t *testing.T) {
	i := newTest(&wire{}, 2)
	b, _ := connect(i, agent(1))
	i.Boot(b.Member, 1, false)
	i.Begin(1)
	left := i.Migrate(t.Context(), time.Minute)
	mv := i.Move(t.Context(), Order{}, func(proto.AgentID) bool { return true })
	connected, waiting := i.Members()
	if len(b.told()) != 0 || left != 0 || connected != 0 || waiting != 0 || len(i.Disclosed()) != 0 || mv.Progress(nowhere).Agents != 0 {
		t.Errorf("told %v, %d left, %d connected, %d waiting, disclosed %v, moved %+v", b.told(), left, connected, waiting, i.Disclosed(), mv.Progress(nowhere))
	}
	if l := i.List(); len(l) != 1 || !l[0].StandsBy {
		t.Errorf("listed as %+v", l)
	}
	i.Boot(b.Member, 1, true)
	i.Migrate(t.Context(), time.Minute)
	want(t, "now it is the current one", b.told(), 2)
}

// The newest control link of an agent ends the older ones of the same start: it may be that nobody hears of their end.
// One of another start is another machine.
func TestNewestControlLinkReplaces(t *testing.T) {
	i := newTest(&wire{}, 2)
	var ended []string
	connect := func(name string, a proto.AgentID, boot uint64, current bool) {
		var leave func()
		m := &Member{Agent: a, Addr: client, Send: func(proto.Message) error { return nil }, End: func() { ended = append(ended, name); leave() }}
		leave = i.Join(m)
		i.Boot(m, boot, current)
	}
	connect("first", agent(1), 1, true)
	mv := i.Move(t.Context(), Order{}, func(proto.AgentID) bool { return true })
	connect("other agent", agent(2), 1, true)
	connect("other start", agent(1), 2, true)
	if len(ended) != 0 || mv.Progress(nowhere).Gone != 0 {
		t.Fatalf("ended %v, %+v", ended, mv.Progress(nowhere))
	}
	connect("stands by", agent(1), 1, false) // its current one is elsewhere now
	if p := mv.Progress(nowhere); !slices.Equal(ended, []string{"first"}) || p.Gone != 1 {
		t.Errorf("ended %v, %+v: what was replaced is still here", ended, p)
	}
	ended = nil
	connect("newest", agent(1), 1, true)
	if !slices.Equal(ended, []string{"stands by"}) {
		t.Errorf("ended %v", ended)
	}
}

// An agent that comes back on a new control link is told again.
func TestWhoComesBackIsToldAgain(t *testing.T) {
	i := newTest(&wire{}, 2)
	i.Begin(1)
	_, leave := connect(i, agent(1))
	i.Migrate(t.Context(), time.Minute)
	leave()
	b, _ := connect(i, agent(1))
	i.Migrate(t.Context(), time.Minute)
	want(t, "came back", b.told(), 2)
}

// F41: P2 is attacked while its clients are on their way: who is still here goes to P3, with a newer
// notification; who is on P3 stays there.
func TestNextProxyIsAttackedMeanwhile(t *testing.T) {
	i := newTest(&wire{}, 2, 3)
	i.Begin(1)
	var all []*mailbox
	for n := range 40 {
		b, _ := connect(i, agent(n))
		all = append(all, b)
	}
	i.Migrate(t.Context(), time.Minute)
	i.Heard(proto.NodeID{2}, true, true)
	i.Migrate(t.Context(), time.Minute)
	chained := 0
	for _, b := range all {
		switch got := b.told(); string(got) {
		case "\x03":
		case "\x02\x03":
			chained++
			if b.got[1].ID.Counter <= b.got[0].ID.Counter {
				t.Errorf("the second notification is not newer: %v after %v", b.got[1].ID, b.got[0].ID)
			}
		default:
			t.Errorf("told %v, want P3, or P2 and then P3", got)
		}
	}
	if chained == 0 || chained == len(all) {
		t.Errorf("%d of %d were on their way to P2; the test means nothing", chained, len(all))
	}
	i.Migrate(t.Context(), time.Minute)
	if n := len(all[0].told()); n > 2 {
		t.Errorf("told again without a reason: %v", all[0].told())
	}
}

// F39: a spare that is full when the clients of a second proxy come refuses them; they go to the next in
// their order and stay with it when the first is free again.
func TestFullSpareIsNotTriedAgainByTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		full := true
		w.answer = func(to proto.NodeID, m proto.Message) (proto.Message, error) {
			if full && to[0] == 2 {
				return &proto.Busy{Reason: "full"}, nil
			}
			return &proto.UserInfoOK{}, nil
		}
		i := newTest(w, 2, 3)
		n := 0
		for i.order(agent(n))[0] != 2 {
			n++
		}
		i.Begin(1)
		b, _ := connect(i, agent(n))
		i.Migrate(t.Context(), time.Minute)
		want(t, "P2 is full", b.told(), 3)
		full = false
		time.Sleep(busyFor)
		if why := i.Refusal(proto.NodeID{2}); why != "" {
			t.Fatalf("P2 %s", why)
		}
		i.Migrate(t.Context(), time.Minute)
		r, ok := i.Transfer(proto.Verified{Agent: agent(n)}, client)
		if !ok || r.Targets[0].Node[0] != 3 {
			t.Errorf("asked again it is sent to %v: ping-pong, and another address disclosed", r.Targets)
		}
		for _, to := range b.told() {
			if to != 3 {
				t.Errorf("told %v: ping-pong", b.told())
			}
		}
	})
}

// order is an agent's own order of the neighbours.
func (i *Informer) order(a proto.AgentID) (out []byte) {
	for _, n := range rank(a, i.neighbours) {
		out = append(out, n.Node[0])
	}
	return out
}

// A proxy that fills up later took the clients that are on their way: they are not sent elsewhere.
func TestFullLaterKeepsWhoIsOnTheWay(t *testing.T) {
	i := newTest(&wire{}, 2, 3)
	i.Begin(1)
	b, _ := connect(i, agent(1))
	i.Migrate(t.Context(), time.Minute)
	i.refused(proto.NodeID{b.told()[0]})
	i.Migrate(t.Context(), time.Minute)
	if len(b.told()) != 1 {
		t.Errorf("told %v", b.told())
	}
}

// F38: a peer link that is cut is no death: the node comes last, and is still used if it is the only one.
func TestCutPeerLinkIsNoDeath(t *testing.T) {
	i := newTest(&wire{}, 2, 3)
	i.Begin(1)
	b, _ := connect(i, agent(1))
	i.Migrate(t.Context(), time.Minute)
	at := b.told()[0]
	i.Heard(proto.NodeID{at}, false, false)
	i.Migrate(t.Context(), time.Minute)
	if len(b.told()) != 1 {
		t.Errorf("the peer link of its next proxy is cut, and it was sent to %v", b.told())
	}
	i.Heard(proto.NodeID{5 - at}, true, true)
	if tgt, ok := i.Target(agent(1)); !ok || tgt.Node[0] != at {
		t.Errorf("the other is attacked: got %v, %v, want the one whose peer link is cut", tgt.Node, ok)
	}
}

// F40: two proxies that are each other's neighbours, both attacked: neither sends anybody to the other.
func TestNoLoopBetweenAttackedProxies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p1, p2 := newTest(&wire{}, 2), newTest(&wire{}, 1)
		p1.Heard(proto.NodeID{2}, true, true)
		p2.Heard(proto.NodeID{1}, true, true)
		for _, i := range []*Informer{p1, p2} {
			i.Begin(1)
			b, _ := connect(i, agent(1))
			if left := i.Migrate(t.Context(), time.Minute); left != 1 || len(b.told()) != 0 {
				t.Errorf("sent to a proxy under attack: %v", b.told())
			}
		}
		p2.Heard(proto.NodeID{1}, true, false) // the attack moved on a moment ago
		if p2.Replacement() {
			t.Error("P1 was attacked a moment ago and is permitted")
		}
		time.Sleep(attackMemory)
		if !p2.Replacement() {
			t.Error("P1 was attacked long ago and is not permitted")
		}
	})
}

// A neighbour that drains, stops or is suspended takes nobody; who is on the way is sent elsewhere.
func TestNeighbourThatIsAway(t *testing.T) {
	i := newTest(&wire{}, 2)
	i.Begin(1)
	b, _ := connect(i, agent(1))
	i.Migrate(t.Context(), time.Minute)
	i.Away(proto.NodeID{2}, "draining")
	if why := i.Refusal(proto.NodeID{2}); !strings.Contains(why, "is draining") || i.Replacement() {
		t.Errorf("refusal %q, replacement %v", why, i.Replacement())
	}
	if left := i.Migrate(t.Context(), time.Minute); left != 1 {
		t.Errorf("%d have nowhere to go, want 1", left)
	}
	i.Away(proto.NodeID{2}, "")
	i.Migrate(t.Context(), time.Minute)
	if len(b.told()) != 1 || b.last().ID.Counter == 0 {
		t.Errorf("told %v", b.told())
	}
}

func TestPlannedMove(t *testing.T) {
	i := newTest(&wire{}, 2, 3)
	a, leave := connect(i, agent(1))
	other, _ := connect(i, agent(2))
	mv := i.Move(t.Context(), Order{To: proto.NodeID{3}}, func(id proto.AgentID) bool { return id == agent(1) })
	want(t, "the one that was named goes where it was said", a.told(), 3)
	want(t, "the other stays", other.told())
	if m := a.last(); m.Deadline != 0 {
		t.Errorf("a planned move has a deadline of %v", m.Deadline)
	}
	if p := mv.Progress(nowhere); p != (Progress{Agents: 1, Told: 1}) {
		t.Errorf("told: %+v", p)
	}
	i.Acknowledged(a.Member, a.last().ID)
	if p := mv.Progress(nowhere); p.Acknowledged != 1 || p.Gone != 0 {
		t.Errorf("acknowledged: %+v", p)
	}
	list := i.List()
	if len(list) != 2 || list[0].Agent != agent(1) || list[0].Told[0] != 3 || !list[0].Acknowledged || !list[1].Told.IsZero() {
		t.Errorf("list: %+v", list)
	}
	leave()
	if p := mv.Progress(func(proto.AgentID) bool { return true }); p.Gone != 0 {
		t.Errorf("a data link of it is here: %+v", p)
	}
	if p := mv.Progress(nowhere); p.Gone != 1 || p.Nowhere != 0 {
		t.Errorf("gone: %+v", p)
	}
	i.Move(t.Context(), Order{}, func(id proto.AgentID) bool { return id == agent(2) })
	if got := other.told(); len(got) != 1 {
		t.Errorf("without a node each goes its own way: told %v", got)
	}
}

// An operator moves an agent a second time: that is another notification, to another place.
func TestPlannedMoveAgainElsewhere(t *testing.T) {
	i := newTest(&wire{}, 2, 3)
	a, _ := connect(i, agent(1))
	one := func(proto.AgentID) bool { return true }
	i.Move(t.Context(), Order{To: proto.NodeID{2}}, one)
	i.Acknowledged(a.Member, a.last().ID)
	first := a.last().ID.Counter
	mv := i.Move(t.Context(), Order{To: proto.NodeID{3}}, one)
	want(t, "both", a.told(), 2, 3)
	if a.last().ID.Counter <= first || mv.Progress(nowhere).Acknowledged != 0 {
		t.Errorf("counter %d after %d, %+v", a.last().ID.Counter, first, mv.Progress(nowhere))
	}
}

func TestHome(t *testing.T) {
	i := New(Config{Self: proto.NodeID{9}, Peers: &wire{}})
	entry := neighbour(1)
	entry.Entry = true
	i.SetNeighbours([]Neighbour{neighbour(2), entry, neighbour(3)})
	for _, n := range []byte{1, 2, 3} {
		i.Heard(proto.NodeID{n}, true, false)
	}
	var all []*mailbox
	for n := range 10 {
		b, _ := connect(i, agent(n))
		all = append(all, b)
	}
	everybody := func(proto.AgentID) bool { return true }
	i.Move(t.Context(), Order{Entries: true}, everybody)
	for _, b := range all {
		want(t, "home is the entry", b.told(), 1)
	}
	if d := i.Disclosed(); len(d) != 0 {
		t.Errorf("an entry's address is no secret, disclosed %v", d)
	}
	i.Heard(proto.NodeID{1}, true, true)
	if mv := i.Move(t.Context(), Order{Entries: true}, everybody); mv.Progress(nowhere).Nowhere != 10 {
		t.Errorf("the entry is attacked: %+v", mv.Progress(nowhere))
	}
}

func TestPrefer(t *testing.T) {
	i := newTest(&wire{}, 2, 3, 4)
	i.Prefer(proto.NodeID{4})
	for n := range 20 {
		if tgt, ok := i.Target(agent(n)); !ok || tgt.Node[0] != 4 {
			t.Fatalf("agent %d to %v, want the one that the operator prefers", n, tgt.Node)
		}
	}
	i.Heard(proto.NodeID{4}, true, true)
	if tgt, ok := i.Target(agent(1)); !ok || tgt.Node[0] == 4 {
		t.Errorf("to %v, which is attacked", tgt.Node)
	}
	i.Prefer(proto.NodeID{})
	i.Heard(proto.NodeID{4}, false, false)
	seen := map[byte]bool{}
	for n := range 100 {
		tgt, _ := i.Target(agent(n))
		seen[tgt.Node[0]] = true
	}
	if len(seen) != 2 {
		t.Errorf("without a preference each goes its own way, got %v", seen)
	}
}
