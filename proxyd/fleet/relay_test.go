package fleet

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"migrationsensor/proto"
)

// relayHeader is what r would write for an agent's data link to a node.
func (f *testFleet) relayHeader(r *running, to string, edit func(*proto.RelayHeader)) []byte {
	f.t.Helper()
	id, key, ok := r.RelayKey(f.id(to))
	if !ok {
		f.t.Fatalf("no relay key for %s", to)
	}
	h := proto.RelayHeader{
		Edge: r.cfg.State.Node().ID, Agent: proto.AgentID{7}, Addr: netip.MustParseAddrPort("198.18.5.5:4000"),
		Nonce: proto.NewNonce(), Time: f.now(), Key: id,
	}
	if edit != nil {
		edit(&h)
	}
	return h.Append(nil, key)
}

func (f *testFleet) hasRelayKey(r *running, to string) {
	f.t.Helper()
	f.eventually("a relay key for "+to, func() error {
		if _, _, ok := r.RelayKey(f.id(to)); !ok {
			return ErrDown
		}
		return nil
	})
}

func TestRelayHeaders(t *testing.T) {
	f := newTestFleet(t)
	f.run("sign")
	for _, name := range []string{"p1", "p2", "p3", "a1"} {
		f.join(name)
	}
	p1, p2, a1 := f.run("p1"), f.run("p2"), f.run("a1")
	f.hasRelayKey(p1, "a1") // an edge dials the anchors of the catalogue, which are no neighbours
	f.hasRelayKey(p2, "a1")
	f.hasRelayKey(p1, "p2")
	f.hasRelayKey(p2, "p1")
	f.sees(a1, "p1")
	f.sees(a1, "p2")
	if got := p1.cfg.State.Anchors(); !slices.Equal(got, []proto.NodeID{f.id("a1")}) {
		t.Errorf("anchors of the catalogue: got %v", got)
	}
	if _, _, ok := p1.RelayKey(f.id("p3")); ok {
		t.Error("a key for a node with which there is no link")
	}

	good := f.relayHeader(p1, "a1", nil)
	h, ok := a1.VerifyRelay(good)
	if !ok || h.Edge != f.id("p1") || h.Agent != (proto.AgentID{7}) || h.Addr != netip.MustParseAddrPort("198.18.5.5:4000") {
		t.Fatalf("a good header: got %+v, %v", h, ok)
	}
	for rule, b := range map[string][]byte{
		"replayed":                  good,
		"in another edge's name":    f.relayHeader(p1, "a1", func(h *proto.RelayHeader) { h.Edge = f.id("p2") }),
		"of an edge without a link": f.relayHeader(p1, "a1", func(h *proto.RelayHeader) { h.Edge = f.id("p3") }),
		"under another link's key":  f.relayHeader(p1, "p2", nil),
		"of an unknown key":         f.relayHeader(p1, "a1", func(h *proto.RelayHeader) { h.Key[0]++ }),
		"stale":                     f.relayHeader(p1, "a1", func(h *proto.RelayHeader) { h.Time = f.now().Add(-2 * time.Minute) }),
		"of the future":             f.relayHeader(p1, "a1", func(h *proto.RelayHeader) { h.Time = f.now().Add(2 * time.Minute) }),
		"cut off":                   good[:len(good)-1],
	} {
		if _, ok := a1.VerifyRelay(b); ok {
			t.Errorf("%s: accepted", rule)
		}
	}
	if _, ok := p1.VerifyRelay(f.relayHeader(a1, "p1", nil)); ok {
		t.Error("an anchor relays for nobody")
	}
	back := f.relayHeader(p1, "p2", nil) // one key, two directions
	if _, ok := p1.VerifyRelay(back); ok {
		t.Error("a header came back to the edge that wrote it, and is accepted")
	}
	if _, ok := p2.VerifyRelay(back); !ok {
		t.Error("any edge can be another's anchor")
	}
}

// TestRelayKeysOutliveTheirLink: what is under way when a peer link ends is still good for a minute.
func TestRelayKeysOutliveTheirLink(t *testing.T) {
	f := newTestFleet(t)
	f.run("sign")
	f.join("p1")
	f.join("a1")
	p1, a1 := f.run("p1"), f.run("a1")
	f.hasRelayKey(p1, "a1")
	f.sees(a1, "p1")
	id, key, _ := p1.RelayKey(f.id("a1"))
	header := func() []byte {
		return proto.RelayHeader{
			Edge: f.id("p1"), Agent: proto.AgentID{7}, Addr: netip.MustParseAddrPort("198.18.5.5:4000"),
			Nonce: proto.NewNonce(), Time: f.now(), Key: id,
		}.Append(nil, key)
	}
	p1.stop()
	f.eventually("a1 notices", func() error {
		if a1.Up()[f.id("p1")].Up {
			return errors.New("still up")
		}
		return nil
	})
	if _, _, ok := a1.RelayKey(f.id("p1")); ok {
		t.Error("a key to write with, and no link")
	}
	f.advance(proto.RelayKeyFor - time.Second)
	if _, ok := a1.VerifyRelay(header()); !ok {
		t.Error("59 s after its link ended: refused")
	}
	f.advance(time.Second)
	if _, ok := a1.VerifyRelay(header()); ok {
		t.Error("60 s after its link ended: accepted")
	}
}

// TestF63 revokes an edge: its relay headers are refused everywhere within two seconds.
func TestF63(t *testing.T) {
	f := newTestFleet(t)
	f.run("sign")
	f.join("p1")
	f.join("a1")
	p1 := f.run("p1")
	lost := make(chan proto.NodeID, 4)
	a1 := f.start("a1", PeersConfig{State: f.state("a1"), RelayLost: func(id proto.NodeID) { lost <- id }})
	f.hasRelayKey(p1, "a1")
	f.sees(a1, "p1")
	f.sees(a1, "sign")
	before, after := f.relayHeader(p1, "a1", nil), f.relayHeader(p1, "a1", nil)
	if _, ok := a1.VerifyRelay(before); !ok {
		t.Fatal("not good before")
	}
	// Somebody joins in its place: the machine that was p1 is revoked.
	if _, err := Join(t.Context(), JoinConfig{Dir: f.dir("p1-new"), As: "p1", Token: f.token(TokenRequest{Role: proto.RoleEdge, Uses: 1}), Now: f.now}); err != nil {
		t.Fatal(err)
	}
	select {
	case id := <-lost:
		if id != f.id("p1") {
			t.Errorf("lost %s", id)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the revocation does not reach the anchor")
	}
	if _, ok := a1.VerifyRelay(after); ok {
		t.Error("the header of a revoked edge is accepted")
	}
}

func TestAnchorsOfTheCatalogue(t *testing.T) {
	f := newTestFleet(t)
	order := func(edit func(*Declaration)) (names []string) {
		decl := f.decl
		decl.Nodes, decl.Services = slices.Clone(decl.Nodes), slices.Clone(decl.Services)
		decl.Services[0].Anchors = nil
		edit(&decl)
		l := &ledger{}
		_, c := documents(decl, l, f.now())
		for _, id := range c.Services[0].Anchors {
			for name, n := range l.Nodes {
				if n.ID == id {
					names = append(names, name)
				}
			}
		}
		return names
	}
	for _, x := range []struct {
		rule string
		edit func(*Declaration)
		want []string
	}{
		{"nodes of kind anchor, hidden edges, entries", func(*Declaration) {}, []string{"a1", "p2", "p3", "p1"}},
		{"without any of the first kind", func(d *Declaration) { d.Nodes = d.Nodes[:4] }, []string{"p2", "p3", "p1"}},
		{"a service has its own order", func(d *Declaration) { d.Services[0].Anchors = []string{"p3", "a1"} }, []string{"p3", "a1"}},
	} {
		if got := order(x.edit); !slices.Equal(got, x.want) {
			t.Errorf("%s: got %v, want %v", x.rule, got, x.want)
		}
	}
}
