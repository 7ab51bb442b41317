package informer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"migrationsensor/proto"
)

var client = netip.MustParseAddrPort("198.18.1.2:40000")

// wire is a fake backplane: it records what was sent to whom and answers as told.
type wire struct {
	mu     sync.Mutex
	sent   []string
	answer func(to proto.NodeID, m proto.Message) (proto.Message, error)
}

func (w *wire) Request(ctx context.Context, to proto.NodeID, m proto.Message) (proto.Message, error) {
	w.mu.Lock()
	w.sent = append(w.sent, fmt.Sprintf("%T to %d", m, to[0]))
	w.mu.Unlock()
	if w.answer != nil {
		return w.answer(to, m)
	}
	switch m := m.(type) {
	case *proto.Ratify:
		return &proto.RatifyOK{Attempt: m.Attempt}, nil
	case *proto.UserInfo:
		return &proto.UserInfoOK{Round: m.Round}, nil
	}
	return nil, errors.New("unexpected message")
}

func (w *wire) count(s string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.sent {
		if x == s {
			n++
		}
	}
	return n
}

func neighbour(n byte) Neighbour {
	return Neighbour{
		Node: proto.NodeID{n}, Name: fmt.Sprintf("p%d", n), Port: 7443, HasKey: true, Gen: 1, Issuer: n,
		Addr4: netip.AddrFrom4([4]byte{198, 18, 72, n}), H: proto.Secret{n},
	}
}

func newTest(w *wire, ns ...byte) *Informer {
	i := New(Config{Self: proto.NodeID{1}, Peers: w})
	var list []Neighbour
	for _, n := range ns {
		list = append(list, neighbour(n))
		i.Heard(proto.NodeID{n}, true, false)
	}
	i.SetNeighbours(list)
	return i
}

func agent(n int) (a proto.AgentID) {
	a[0], a[1] = byte(n>>8), byte(n)
	return a
}

func TestEachClientItsOwn(t *testing.T) {
	i := newTest(&wire{}, 2, 3, 4)
	got := map[proto.NodeID]int{}
	for n := range 3000 {
		first, ok := i.Target(agent(n))
		if !ok {
			t.Fatal("no target with three neighbours")
		}
		if again, _ := i.Target(agent(n)); again.Node != first.Node {
			t.Fatalf("asking again disclosed %s after %s", again.Node, first.Node)
		}
		got[first.Node]++
	}
	for n, c := range got {
		if c < 800 || c > 1200 {
			t.Errorf("%s got %d of 3000 clients, want about a third", n, c)
		}
	}
	if len(got) != 3 {
		t.Errorf("clients went to %d of 3 neighbours", len(got))
	}
}

func TestOneNeighbourLessMovesOnlyItsOwn(t *testing.T) {
	i := newTest(&wire{}, 2, 3, 4)
	before := map[int]proto.NodeID{}
	for n := range 500 {
		tgt, _ := i.Target(agent(n))
		before[n] = tgt.Node
	}
	gone := proto.NodeID{3}
	i.Heard(gone, true, true)
	for n := range 500 {
		tgt, ok := i.Target(agent(n))
		if !ok || tgt.Node == gone {
			t.Fatalf("agent %d sent to %s, which is attacked", n, tgt.Node)
		}
		if before[n] != gone && tgt.Node != before[n] {
			t.Errorf("agent %d moved from %s to %s although its proxy is well", n, before[n], tgt.Node)
		}
	}
}

func TestWhoIsPermitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newTest(&wire{}, 2)
		want := func(why string, want bool) {
			t.Helper()
			if _, ok := i.Target(agent(1)); ok != want || i.Replacement() != want {
				t.Errorf("%s: permitted %v, want %v", why, ok, want)
			}
		}
		want("well", true)
		i.Heard(proto.NodeID{2}, false, false)
		want("peer link down: still by handover key", true)
		i.Heard(proto.NodeID{2}, true, true)
		i.Heard(proto.NodeID{2}, true, false)
		want("attacked a moment ago", false)
		time.Sleep(attackMemory)
		want("attacked long ago", true)
		i.refused(proto.NodeID{2})
		want("busy", false)
		time.Sleep(busyFor)
		want("busy long ago", true)
		n := neighbour(2)
		n.HasKey = false
		i.SetNeighbours([]Neighbour{n})
		want("gave no handover key", false)
	})
}

func TestBudgetOfDisclosure(t *testing.T) {
	i := New(Config{Self: proto.NodeID{1}, Peers: &wire{}, Budget: 1})
	i.SetNeighbours([]Neighbour{neighbour(2), neighbour(3)})
	i.Heard(proto.NodeID{2}, true, false)
	i.Heard(proto.NodeID{3}, true, false)
	r, ok := i.Transfer(proto.Verified{Agent: agent(1)}, client)
	if !ok {
		t.Fatal("no transfer with two neighbours")
	}
	i.Heard(r.Targets[0].Node, true, true)
	if r, ok := i.Transfer(proto.Verified{Agent: agent(1)}, client); ok {
		t.Errorf("a second hidden address (%s) was disclosed beyond the budget of one", r.Targets[0].Node)
	}
	if d := i.Disclosed(); d["p2"]+d["p3"] != 1 {
		t.Errorf("disclosed %v, want one agent told one address", d)
	}
}

func TestTransferNamesClientRoundAndKey(t *testing.T) {
	w := &wire{}
	i := newTest(w, 2)
	i.Begin(7)
	v := proto.Verified{Agent: agent(9), Preamble: proto.Preamble{Nonce: proto.Nonce{5}}}
	mapped := netip.AddrPortFrom(netip.AddrFrom16(client.Addr().As16()), client.Port())
	r, ok := i.Transfer(v, mapped)
	if !ok || r.Kind != proto.ReplyTransfer || len(r.Targets) != 1 || r.Round != 7 || r.Client != client {
		t.Fatalf("got %+v, want a transfer to one target in round 7 for %s", r, client)
	}
	if want := (proto.Secret{2}).Admission(agent(9)); r.Targets[0].Keys != want {
		t.Error("the target's key is not the one that its own proxy derives")
	}
}

func TestRatifyIsRepeatedUntilApproved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		lost := 0
		w.answer = func(_ proto.NodeID, m proto.Message) (proto.Message, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if lost++; lost < 3 {
				return nil, errors.New("lost")
			}
			return &proto.RatifyOK{Attempt: m.(*proto.Ratify).Attempt}, nil
		}
		i := newTest(w, 2)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- i.Run(ctx) }()
		i.Transfer(proto.Verified{Agent: agent(1)}, client)
		time.Sleep(time.Second)
		if n := w.count("*proto.Ratify to 2"); n != 3 {
			t.Errorf("sent %d times, want at 0, 50 and 150 ms", n)
		}
		if s := i.Stats(); s.Ratify != 1 || s.RatifyOK != 1 {
			t.Errorf("got %+v, want one ratify, approved", s)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestMigrateTellsProxyFirst(t *testing.T) {
	var mu sync.Mutex
	var order []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, s)
	}
	w := &wire{}
	w.answer = func(_ proto.NodeID, m proto.Message) (proto.Message, error) {
		u := m.(*proto.UserInfo)
		note(fmt.Sprintf("userinfo %d clients", len(u.Clients)))
		return &proto.UserInfoOK{Round: u.Round}, nil
	}
	i := newTest(w, 2)
	i.Begin(1)
	var got *proto.Migrate
	m := &Member{Agent: agent(1), Addr: client, Send: func(m proto.Message) error {
		got = m.(*proto.Migrate)
		note("migrate")
		return nil
	}}
	leave := i.Join(m)
	i.Boot(m, 1, true)
	if left := i.Migrate(t.Context(), time.Second); left != 0 {
		t.Errorf("%d agents have no next proxy", left)
	}
	if fmt.Sprint(order) != "[userinfo 1 clients migrate]" {
		t.Errorf("got %v, want the user connections' information first", order)
	}
	if _, waiting := i.Members(); waiting != 1 {
		t.Error("counted as moved before it acknowledged")
	}
	i.Acknowledged(m, proto.MigrateID{Edge: proto.NodeID{1}, Counter: got.ID.Counter - 1})
	if _, waiting := i.Members(); waiting != 1 {
		t.Error("an acknowledgement of another notification counted")
	}
	i.Acknowledged(m, got.ID)
	if _, waiting := i.Members(); waiting != 0 {
		t.Error("its acknowledgement does not count")
	}
	if i.Migrate(t.Context(), time.Second); len(order) != 2 {
		t.Errorf("asked twice in one round: %v", order)
	}
	i.Begin(2)
	first := got.ID.Counter
	i.Migrate(t.Context(), time.Second)
	if got.ID.Counter <= first {
		t.Errorf("counter %d after %d does not rise", got.ID.Counter, first)
	}
	leave()
	if n, _ := i.Members(); n != 0 {
		t.Error("it left, but is still counted")
	}
}

func TestBusyProxyIsSkipped(t *testing.T) {
	w := &wire{}
	first := newTest(w, 2, 3)
	tgt, _ := first.Target(agent(1))
	busy := tgt.Node
	w.answer = func(to proto.NodeID, m proto.Message) (proto.Message, error) {
		if to == busy {
			return &proto.Busy{}, nil
		}
		return &proto.UserInfoOK{}, nil
	}
	i := newTest(w, 2, 3)
	i.Begin(1)
	var got proto.NodeID
	m := &Member{Agent: agent(1), Addr: client, Send: func(m proto.Message) error {
		got = m.(*proto.Migrate).Targets[0].Node
		return nil
	}}
	i.Join(m)
	i.Boot(m, 1, true)
	i.Migrate(t.Context(), time.Second)
	if got == busy || got == (proto.NodeID{}) {
		t.Errorf("sent to %s; %s said it is busy", got, busy)
	}
}

func TestNobodyToTakeOver(t *testing.T) {
	i := newTest(&wire{})
	i.Begin(1)
	m := &Member{Agent: agent(1), Addr: client, Send: func(proto.Message) error {
		t.Error("notified although there is nowhere to go")
		return nil
	}}
	i.Join(m)
	i.Boot(m, 1, true)
	if left := i.Migrate(t.Context(), time.Second); left != 1 {
		t.Errorf("%d agents left, want 1", left)
	}
	if _, ok := i.Transfer(proto.Verified{Agent: agent(2)}, client); ok {
		t.Error("transferred although there is nowhere to go")
	}
}
