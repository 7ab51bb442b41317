package link

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"migrationsensor/proto"
)

// sendTo makes a node transfer everybody to the targets that next gives.
func sendTo(n *node, next func(v proto.Verified) []proto.Target) {
	n.Decide = func(v proto.Verified, _ netip.AddrPort) *proto.Reply {
		if t := next(v); len(t) > 0 {
			return &proto.Reply{Kind: proto.ReplyTransfer, Targets: t}
		}
		return nil
	}
}

// chain makes n nodes, each of which transfers to the next one; the last serves.
func (f *fleet) chain(n int) []*node {
	nodes := make([]*node, n)
	for i := range n {
		nodes[i] = f.node(func(x *node) {
			if i < n-1 {
				sendTo(x, func(v proto.Verified) []proto.Target { return []proto.Target{nodes[i+1].target(v.Agent)} })
			}
		})
	}
	return nodes
}

// knocks collects what a Dialer knocks with.
type knocks struct {
	mu  sync.Mutex
	got []struct {
		to netip.AddrPort
		b  []byte
	}
}

func (k *knocks) knock(_ context.Context, to netip.AddrPort, b []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.got = append(k.got, struct {
		to netip.AddrPort
		b  []byte
	}{to, append([]byte(nil), b...)})
	return nil
}

func TestFollowATransfer(t *testing.T) {
	f := newFleet(t, "lab")
	nodes := f.chain(2)
	creds, id := f.agent()
	k := &knocks{}
	l, path, err := (&Dialer{Creds: creds, Knock: k.knock}).Follow(t.Context(), nodes[0].target(id), proto.KindData)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ping(t, l)
	if l.Peer.Node != nodes[1].id || len(path) != 2 || path[1].Node != nodes[1].id {
		t.Errorf("link to %s by %d hops, want %s by 2", l.Peer.Node, len(path), nodes[1].id)
	}
	if len(k.got) != 1 || k.got[0].to != nodes[1].at {
		t.Fatalf("knocks %v, want one at the node that was not known before", k.got)
	}
	v, err := nodes[1].Keys.Verify(k.got[0].b, nodes[1].id, time.Now())
	if err != nil || v.Kind != proto.KindKnock || v.Agent != id {
		t.Errorf("the knock is not the agent's: %v, %v", v.Kind, err)
	}
}

func TestFollowRules(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	follow := func(n *node) (*Link, []proto.Target, error) {
		return (&Dialer{Creds: creds, Knock: (&knocks{}).knock}).Follow(t.Context(), n.target(id), proto.KindControl)
	}

	if l, path, err := follow(f.chain(4)[0]); err != nil || len(path) != 4 {
		t.Errorf("three transfers: got %d hops, %v", len(path), err)
	} else {
		l.Close()
	}
	if _, path, err := follow(f.chain(5)[0]); !errors.Is(err, ErrChase) || len(path) != 4 {
		t.Errorf("four transfers: got %d hops, %v, want %v", len(path), err, ErrChase)
	}

	var a, b *node
	a = f.node(func(n *node) {
		sendTo(n, func(v proto.Verified) []proto.Target { return []proto.Target{b.target(v.Agent)} })
	})
	b = f.node(func(n *node) {
		sendTo(n, func(v proto.Verified) []proto.Target { return []proto.Target{a.target(v.Agent)} })
	})
	if _, path, err := follow(a); !errors.Is(err, ErrChase) || len(path) != 2 {
		t.Errorf("back to the first: got %d hops, %v, want %v", len(path), err, ErrChase)
	}

	for _, c := range []struct {
		selves int32
		want   error
	}{{1, nil}, {2, ErrChase}} {
		var asked atomic.Int32
		var n *node
		n = f.node(func(x *node) {
			sendTo(x, func(v proto.Verified) []proto.Target {
				if asked.Add(1) <= c.selves {
					return []proto.Target{n.target(v.Agent)}
				}
				return nil
			})
		})
		l, path, err := follow(n)
		if !errors.Is(err, c.want) || len(path) != 2 {
			t.Errorf("an edge that names itself %d times: got %d hops, %v, want %v", c.selves, len(path), err, c.want)
		}
		if err == nil {
			l.Close()
		}
	}
}

// Who was just found silent is not dialled because somebody else does not know it yet; its own address still is.
func TestNoTransferToAnAvoidedNode(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	nodes := f.chain(2)
	ctx := Avoiding(t.Context(), nodes[1].id)
	d := &Dialer{Creds: creds, Knock: (&knocks{}).knock}
	if _, path, err := d.Follow(ctx, nodes[0].target(id), proto.KindData); !errors.Is(err, ErrAvoided) || len(path) != 1 {
		t.Errorf("got %d hops, %v; want none to the avoided node, %v", len(path), err, ErrAvoided)
	}
	l, _, err := d.Follow(ctx, nodes[1].target(id), proto.KindData)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestSecondTargetWhenTheFirstIsDead(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	alive := f.node(nil)
	dead := proto.Target{Addr4: netip.MustParseAddr("127.0.0.1"), Port: 1, Node: proto.NewNodeID(), Keys: proto.Secret{}.Admission(id)}
	n := f.node(func(x *node) {
		sendTo(x, func(v proto.Verified) []proto.Target { return []proto.Target{dead, alive.target(v.Agent)} })
	})
	l, path, err := (&Dialer{Creds: creds, Knock: (&knocks{}).knock}).Follow(t.Context(), n.target(id), proto.KindControl)
	if err != nil || l.Peer.Node != alive.id || len(path) != 3 {
		t.Fatalf("got %d hops, %v", len(path), err)
	}
	l.Close()
}

func TestToldTargetIsKnockedAndDialledAgain(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	n := f.node(nil)
	k := &knocks{}
	var mu sync.Mutex
	var dials []time.Time
	var lastKnock []int
	d := &Dialer{Creds: creds, Knock: k.knock, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		k.mu.Lock()
		knocked := len(k.got)
		k.mu.Unlock()
		mu.Lock()
		dials, lastKnock = append(dials, time.Now()), append(lastKnock, knocked)
		n := len(dials)
		mu.Unlock()
		if n < 3 {
			<-ctx.Done() // the door is not open yet: silence
			return nil, ctx.Err()
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	began := time.Now()
	l, _, err := d.FollowTold(t.Context(), n.target(id), proto.KindData)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if len(dials) != 3 || len(lastKnock) != 3 || lastKnock[0] != 1 || lastKnock[2] != 3 {
		t.Fatalf("%d dials after %v knocks, want 3, a knock before each", len(dials), lastKnock)
	}
	if gap := dials[1].Sub(began); gap < minRedial || gap > 4*minRedial {
		t.Errorf("dialled again after %v, want about %v", gap, minRedial)
	}
	if string(k.got[0].b) == string(k.got[1].b) {
		t.Error("two knocks with one nonce")
	}
}

func TestToldTargetIsDialledThreeTimesAtMost(t *testing.T) {
	var dials atomic.Int32
	d := &Dialer{Knock: (&knocks{}).knock, DialContext: func(context.Context, string, string) (net.Conn, error) {
		dials.Add(1)
		return nil, syscall.ECONNREFUSED
	}}
	_, _, err := d.FollowTold(t.Context(), proto.Target{Addr4: netip.MustParseAddr("198.18.0.1"), Port: 7443, Node: proto.NewNodeID()}, proto.KindData)
	if n := dials.Load(); !errors.Is(err, syscall.ECONNREFUSED) || n != 3 {
		t.Errorf("%d dials, %v", n, err)
	}
	if strings.Count(err.Error(), "refused") != 1 {
		t.Errorf("the same reason more than once: %v", err)
	}
}

func TestClock(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	for _, c := range []struct {
		off  time.Duration
		good bool
	}{{2 * time.Hour, true}, {-23 * time.Hour, true}, {25 * time.Hour, false}} {
		n := f.node(func(n *node) { n.Clock = func() time.Time { return time.Now().Add(c.off) } })
		d := &Dialer{Creds: creds}
		l, _, err := d.Follow(t.Context(), n.target(id), proto.KindControl)
		if !c.good {
			if !errors.Is(err, ErrClock) || !strings.Contains(err.Error(), "by 25h0m0s") || d.Skew() != 0 {
				t.Errorf("clock off by %v: got %v, skew %v", c.off, err, d.Skew())
			}
			continue
		}
		if err != nil {
			t.Errorf("clock off by %v: %v", c.off, err)
			continue
		}
		l.Close()
		if diff := (d.Skew() - c.off).Abs(); diff > 2*time.Second {
			t.Errorf("skew got %v, want %v", d.Skew(), c.off)
		}
		until(t, "one rejected, one link", func() bool { s := n.Stats(); return s.Clock == 1 && s.Control == 1 })
		l, err = d.Dial(t.Context(), n.target(id), proto.KindControl, n.id)
		if err != nil {
			t.Errorf("the next link knows the time: %v", err)
			continue
		}
		l.Close()
	}
}
