package proxyd

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
	"migrationsensor/proxyd/fleet"
)

// withAnchor declares the node a1, of kind anchor, and relay ports for it and P2.
func withAnchor(t *testing.T) func(*Config) {
	return func(cfg *Config) {
		if cfg.Fleet == "" {
			return // an edge's or anchor's own settings
		}
		for i := range cfg.Nodes {
			if cfg.Nodes[i].Kind != "signer" {
				cfg.Nodes[i].RelayPorts = []uint16{freeAddr(t).Port()}
			}
		}
		cfg.Nodes = append(cfg.Nodes, NodeConfig{Name: "a1", Kind: "anchor", Backplane: freeAddr(t), RelayPorts: []uint16{freeAddr(t).Port(), freeAddr(t).Port()}})
	}
}

// relays waits until an edge can pass links on to the anchor.
func (w *world) relays(edge, anchor string) {
	w.t.Helper()
	w.eventually(edge+" has a key for "+anchor, func() bool {
		_, _, ok := w.nodes[edge].peers.RelayKey(w.node(anchor).ID)
		return ok
	})
}

// via opens a data link by way of an edge that ends at another node.
func (c *client) via(t proto.Target, anchor string, told bool) (*link.Link, error) {
	c.w.t.Helper()
	follow := c.FollowVia
	if told {
		follow = c.FollowToldVia
	}
	l, _, err := follow(c.w.t.Context(), t, proto.KindData, c.w.node(anchor).ID)
	if err == nil {
		c.w.t.Cleanup(func() { l.Abort() })
	}
	return l, err
}

// pump carries a session over a link until one of them ends.
func (c *client) pump(l *link.Link, share *session.Link) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = link.Pump(ctx, l, share) }) // the test looks at the session
	c.w.t.Cleanup(func() { cancel(); wg.Wait() })
}

// TestSessionMovesBetweenEdges: the session is at an anchor of its own, and the edges only pass it on: it lives
// through the flood of P1 and P1's suspension.
func TestSessionMovesBetweenEdges(t *testing.T) {
	w := newWorld(t, withAnchor(t))
	w.relays("p1", "a1")
	w.relays("p2", "a1")
	c := w.enrol()
	_, said := c.control(c.entry, false)
	l, err := c.via(c.entry, "a1", false)
	if err != nil {
		t.Fatal(err)
	}
	s := session.New(session.Config{})
	t.Cleanup(func() { s.Close(nil) })
	c.pump(l, s.Ask())
	app := c.open(s)
	c.says(app, "peace")

	if st := w.nodes["a1"].Status(); st.Kind != "anchor" || st.Sessions != 1 || st.Streams != 1 || st.Links != 1 || st.Via["p1"] != 1 {
		t.Errorf("status of the anchor: %+v", st)
	}
	if st := w.nodes["p1"].Status(); st.Links != 1 || st.Relayed != 1 || st.Sessions != 0 || st.Streams != 0 || slices.Contains(st.Frontends, "a1") {
		t.Errorf("status of P1: %+v", st)
	}

	w.hosts["p1"].attack(true)
	w.becomes("p1", Defending)
	m, ok := c.next(said).(*proto.Migrate)
	if !ok || len(m.Targets) != 1 {
		t.Fatalf("got %+v, want a MIGRATE", m)
	}
	l2, err := c.via(m.Targets[0], "a1", true)
	if err != nil {
		t.Fatal(err)
	}
	share := s.Resume()
	c.pump(l2, share)
	select {
	case <-share.Confirmed():
	case <-time.After(20 * time.Second):
		t.Fatal("the session is not resumed")
	}
	l.Abort()
	w.eventually("its links come by way of P2", func() bool {
		st := w.nodes["a1"].Status()
		return st.Via["p2"] == 1 && st.Via["p1"] == 0 && st.Sessions == 1
	})
	c.says(app, "through P2")
	if d := w.nodes["p1"].edge.acceptor.DataLinks(); d != 0 {
		t.Errorf("%d data links are left at P1", d)
	}
}

// TestSuspensionEndsRelayedLinks: whoever has not moved at the deadline loses the link, and keeps the session.
func TestSuspensionEndsRelayedLinks(t *testing.T) {
	w := newWorld(t, withAnchor(t), func(cfg *Config) { cfg.Attack.SuspendAfter.Duration = time.Second })
	w.relays("p1", "a1")
	w.relays("p2", "a1")
	c := w.enrol()
	l, err := c.via(c.entry, "a1", false)
	if err != nil {
		t.Fatal(err)
	}
	s := session.New(session.Config{})
	t.Cleanup(func() { s.Close(nil) })
	c.pump(l, s.Ask())
	app := c.open(s)
	c.says(app, "peace")
	w.hosts["p1"].attack(true)
	w.becomes("p1", Suspended)
	w.eventually("the link is ended", func() bool { return s.Links() == 0 })
	l2, err := c.via(c.entry, "a1", false) // P1 sends it on
	if err != nil || l2.Target.Node != w.node("p2").ID {
		t.Fatalf("through P1 again: %v", err)
	}
	c.pump(l2, s.Resume())
	c.says(app, "after the suspension")
}

// TestAnyEdgeCanBeAnAnchor: without a node of that kind the session is at another edge, whose door the link does not open.
func TestAnyEdgeCanBeAnAnchor(t *testing.T) {
	w := newWorld(t, func(cfg *Config) {
		for i := range cfg.Nodes {
			if cfg.Nodes[i].Kind != "signer" {
				cfg.Nodes[i].RelayPorts = []uint16{freeAddr(t).Port()}
			}
		}
	})
	w.relays("p1", "p2")
	c := w.enrol()
	l, err := c.via(c.entry, "p2", false)
	if err != nil {
		t.Fatal(err)
	}
	s := session.New(session.Config{})
	t.Cleanup(func() { s.Close(nil) })
	c.pump(l, s.Ask())
	c.says(c.open(s), "at P2, through P1")
	if w.state("p2") != Standby {
		t.Errorf("P2 is %s: a relayed link is no client of its", w.state("p2"))
	}
	if _, _, _, _, admits := w.hosts["p2"].fw.get(); admits != 0 {
		t.Errorf("P2 admitted %d addresses", admits)
	}
	if st := w.nodes["p2"].Status(); st.Via["p1"] != 1 || st.Links != 0 || st.Sessions != 1 {
		t.Errorf("status of P2: %+v", st)
	}
}

// TestAnchorAway: no peer link, so the agent is told to come again, and soon.
func TestAnchorAway(t *testing.T) {
	w := newWorld(t, withAnchor(t))
	w.relays("p1", "a1")
	c := w.enrol()
	l, err := c.via(c.entry, "a1", false)
	if err != nil {
		t.Fatal(err)
	}
	w.nodes["a1"].Stop()
	l.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadAll(l); err != nil {
		if ne, is := errors.AsType[net.Error](err); is && ne.Timeout() {
			t.Error("the link does not end with its anchor")
		}
	}
	w.eventually("P1 knows that a1 is away", func() bool {
		_, _, ok := w.nodes["p1"].peers.RelayKey(w.node("a1").ID)
		return !ok
	})
	if _, err := c.via(c.entry, "a1", false); !isRetry(err) {
		t.Errorf("got %v, want RETRY", err)
	}
}

// TestForeignHeadersAtTheRelayPort: a machine of the backplane that is no peer can write nothing that is answered.
func TestForeignHeadersAtTheRelayPort(t *testing.T) {
	w := newWorld(t, withAnchor(t))
	w.relays("p1", "a1")
	a1, p1 := w.node("a1"), w.node("p1")
	id, key, _ := w.nodes["p1"].peers.RelayKey(a1.ID)
	good := proto.RelayHeader{
		Edge: p1.ID, Agent: proto.AgentID{1}, Addr: netip.MustParseAddrPort("198.18.0.5:4000"),
		Nonce: proto.NewNonce(), Time: time.Now(), Key: id,
	}
	edited := func(edit func(*proto.RelayHeader)) []byte { h := good; edit(&h); return h.Append(nil, key) }
	for rule, b := range map[string][]byte{
		"wrong key":     good.Append(nil, proto.RelayKey{1}),
		"other edge":    edited(func(h *proto.RelayHeader) { h.Edge = w.node("p2").ID }),
		"stale":         edited(func(h *proto.RelayHeader) { h.Time = time.Now().Add(-2 * time.Minute) }),
		"not a header":  make([]byte, proto.RelayHeaderLen),
		"no header yet": good.Append(nil, key)[:50],
	} {
		conn, err := net.Dial("tcp", netip.AddrPortFrom(a1.Backplane.Addr(), a1.Relay[0]).String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		conn.Write(b)
		conn.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || len(got) > 0 {
			t.Errorf("%s: got %d bytes, %v, want silence", rule, len(got), err)
		}
		conn.Close()
	}
	if n := w.nodes["a1"].Status().Counts["relay_refused"]; n != 5 {
		t.Errorf("%d refused, want 5", n)
	}
}

// TestF34: when the way to the anchor is cut, the links over it end, also those that carry nothing at the moment: here
// only the peer link shows it.
func TestF34(t *testing.T) {
	w := newWorld(t, withAnchor(t))
	w.relays("p1", "a1")
	w.relays("p2", "a1")
	c := w.enrol()
	l, err := c.via(c.entry, "a1", false)
	if err != nil {
		t.Fatal(err)
	}
	s := session.New(session.Config{})
	t.Cleanup(func() { s.Close(nil) })
	c.pump(l, s.Ask())
	app := c.open(s)
	c.says(app, "peace")
	w.hosts["p1"].cut(w.node("a1").Backplane.String())
	w.eventually("the link is ended", func() bool { return s.Links() == 0 })
	w.eventually("at both ends", func() bool {
		return w.nodes["p1"].Status().Relayed == 0 && w.nodes["a1"].Status().Links == 0
	})
	if _, err := c.via(c.entry, "a1", false); !isRetry(err) {
		t.Errorf("got %v, want RETRY", err)
	}
	if st := w.nodes["a1"].Status(); st.Sessions != 1 {
		t.Errorf("%d sessions at the anchor: it waits for its agent", st.Sessions)
	}
	for name, p := range w.nodes {
		if gone := p.isGone(w.node("a1").ID); gone {
			t.Errorf("%s gives it up after a flap", name)
		}
	}
}

// TestF33DeadAnchor: an anchor whose peer link stays down is given up by every edge that would pass links on to it; so
// is a node that the fleet does not know as one.
func TestF33DeadAnchor(t *testing.T) {
	w := newWorld(t, withAnchor(t))
	w.relays("p1", "a1")
	c := w.enrol()
	l, err := c.via(c.entry, "a1", false)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = c.FollowVia(t.Context(), c.entry, proto.KindData, proto.NewNodeID())
	if !isGone(err) {
		t.Errorf("an anchor that is not declared: got %v, want REJECT (anchor gone)", err)
	}
	w.nodes["a1"].Stop()
	l.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.Copy(io.Discard, l) // ends with the anchor
	began, retries := time.Now(), 0
	w.eventually("P1 says that it is gone", func() bool {
		_, err := c.via(c.entry, "a1", false)
		switch {
		case isRetry(err):
			retries++
			if se, ok := errors.AsType[*link.SealedError](err); ok {
				time.Sleep(se.Reply.After) // as an agent does: one that does not uses up its own turns
			}
		case !isGone(err):
			t.Fatalf("got %v, want RETRY and then REJECT (anchor gone)", err)
		}
		return isGone(err)
	})
	if took := time.Since(began); retries == 0 || took < goneAfter-time.Second {
		t.Errorf("given up after %v and %d RETRYs: a flap would have been enough", took, retries)
	}
}

func isGone(err error) bool {
	se, is := errors.AsType[*link.SealedError](err)
	return is && se.Reply.Kind == proto.ReplyReject && se.Reply.Code == proto.RejectAnchor
}

func isRetry(err error) bool {
	se, is := errors.AsType[*link.SealedError](err)
	return is && se.Reply.Kind == proto.ReplyRetry && se.Reply.After <= time.Second
}

// TestF63 revokes P1 by a machine that joins in its place: what it passes on ends at the anchor.
func TestF63(t *testing.T) {
	w := newWorld(t, withAnchor(t))
	w.relays("p1", "a1")
	c := w.enrol()
	l, err := c.via(c.entry, "a1", false)
	if err != nil {
		t.Fatal(err)
	}
	s := session.New(session.Config{})
	t.Cleanup(func() { s.Close(nil) })
	c.pump(l, s.Ask())
	c.says(c.open(s), "peace")
	token, err := fleet.CreateToken(w.cfg.State, fleet.TokenRequest{Role: proto.RoleEdge, Uses: 1, Life: time.Hour}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.Join(t.Context(), fleet.JoinConfig{Dir: filepath.Join(w.base, "p1-new"), As: "p1", Token: token}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the link of the revoked edge is ended", func() bool { return s.Links() == 0 && w.nodes["a1"].Status().Links == 0 })
	if _, err := c.via(c.entry, "a1", false); !isRetry(err) {
		t.Errorf("the revoked edge passes a link on: got %v, want RETRY", err)
	}
	if st := w.nodes["a1"].Status(); st.Sessions != 1 || st.Links != 0 {
		t.Errorf("status of the anchor: %+v", st)
	}
}
