package proxyd

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proxyd/synchecker"
)

// withP3 changes the world: P3 is hidden, and nobody's neighbour.
func withP3(t *testing.T) func(*Config) {
	link, back := freeAddr(t), freeAddr(t)
	return func(c *Config) {
		if c.Fleet != "" {
			c.Nodes = append(c.Nodes, NodeConfig{Name: "p3", Kind: "hidden", Public: []netip.Addr{link.Addr()}, LinkPort: link.Port(), Backplane: back})
		}
	}
}

// ask sends a planned move to a node's control socket; progress comes out of the channel, the error
// last.
func (w *world) ask(name string, req MoveRequest) (<-chan MoveProgress, <-chan error) {
	said, done := make(chan MoveProgress, 1024), make(chan error, 1)
	go func() {
		_, err := ControlMove(w.t.Context(), w.nodes[name].cfg.Socket, req, func(p MoveProgress) { said <- p })
		done <- err
	}()
	return said, done
}

func (w *world) over(said <-chan MoveProgress, done <-chan error) MoveProgress {
	w.t.Helper()
	select {
	case err := <-done:
		if err != nil {
			w.t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		w.t.Fatal("the move is not over")
	}
	var last MoveProgress
	for len(said) > 0 {
		last = <-said
	}
	return last
}

// moves is what an agent does that is told to go: links to the target, then the old ones end.
func (c *client) moves(said <-chan proto.Message, control io.WriteCloser, end func()) *proto.Migrate {
	c.w.t.Helper()
	m, ok := c.next(said).(*proto.Migrate)
	if !ok || len(m.Targets) != 1 {
		c.w.t.Fatalf("got %+v, want a MIGRATE", m)
	}
	if err := proto.WriteMessage(control, &proto.MigrateOK{ID: m.ID}); err != nil {
		c.w.t.Fatal(err)
	}
	s, _ := c.session(m.Targets[0], true)
	c.control(m.Targets[0], true)
	c.says(c.open(s), "at the next proxy")
	end()
	control.Close()
	return m
}

func TestDrain(t *testing.T) {
	w := newWorld(t)
	c := w.enrol()
	control, said := c.control(c.entry, false)
	s, end := c.session(c.entry, false)
	c.says(c.open(s), "before")
	plain, err := net.Dial("tcp", w.public.String())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	c.says(plain, "no agent")

	progress, done := w.ask("p1", MoveRequest{Drain: true, To: "p2", Wait: Duration{20 * time.Second}})
	w.becomes("p1", Draining)
	w.eventually("the status says what is left", func() bool {
		l := w.nodes["p1"].Status().Leaving
		return l != nil && *l == Leaving{Agents: 1, Waiting: 1, Links: 1, Plain: 1}
	})
	if a := w.nodes["p1"].Agents(); len(a) != 1 || a[0].ID != c.id.String() || a[0].Links != 1 || a[0].Streams != 1 || a[0].Told != "p2" || a[0].Acknowledged {
		t.Errorf("agents: %+v", a)
	}
	if m := c.moves(said, control, end); m.Targets[0].Node != w.node("p2").ID || m.Deadline != 0 {
		t.Errorf("got %+v, want a MIGRATE to P2 without a deadline", m)
	}
	if p := w.over(progress, done); p.Held > 2 || p != (MoveProgress{Agents: 1, Told: 1, Acknowledged: 1, Gone: 1, Plain: 1, Held: p.Held, Over: true}) {
		t.Errorf("at the end: %+v", p)
	}
	if r, err := c.Probe(t.Context(), c.entry); err != nil || r.Kind != proto.ReplyTransfer || r.Targets[0].Node != w.node("p2").ID {
		t.Errorf("a newcomer at a drained proxy: %+v, %v; want a TRANSFER to P2", r, err)
	}
	if _, defending, _, _, _ := w.hosts["p1"].fw.get(); defending || w.hosts["p1"].armed() != synchecker.Off {
		t.Errorf("defending %v, armed %s; want a door as in peace", defending, w.hosts["p1"].armed())
	}
	w.eventually("P2 hears that P1 drains", func() bool {
		return slices.ContainsFunc(w.nodes["p2"].Status().Peers, func(p PeerStatus) bool { return p.Name == "p1" && p.State == string(Draining) })
	})
	c.says(plain, "left alone")

	w.hosts["p1"].attack(true)
	w.becomes("p1", Defending)
	w.hosts["p1"].attack(false)
	plain.Close()
	w.becomes("p1", Draining) // by way of suspended: it is drained until it is undone
	if err := ControlUndrain(t.Context(), w.nodes["p1"].cfg.Socket); err != nil {
		t.Fatal(err)
	}
	w.becomes("p1", Active)
	if r, err := c.Probe(t.Context(), c.entry); err != nil || r.Kind != proto.ReplyGo {
		t.Errorf("back in service: %+v, %v; want go ahead", r, err)
	}
	if err := ControlUndrain(t.Context(), w.nodes["p1"].cfg.Socket); err == nil || !strings.Contains(err.Error(), "p1 is not drained: it is active") {
		t.Errorf("undone twice: got %v", err)
	}
	if n := w.nodes["p2"].Status(); n.Agents != 1 {
		t.Errorf("%d agents on P2, want the one that moved", n.Agents)
	}
}

// TestMoveOfOneAndHome: one agent of two is named by the beginning of its id, and comes home again.
func TestMoveOfOneAndHome(t *testing.T) {
	w := newWorld(t)
	a, b := w.enrol(), w.enrol()
	ca, saidA := a.control(a.entry, false)
	_, saidB := b.control(b.entry, false)
	sa, endA := a.session(a.entry, false)
	a.says(a.open(sa), "before")
	progress, done := w.ask("p1", MoveRequest{Agents: []string{a.id.String()[:8]}, To: "p2", Wait: Duration{20 * time.Second}})
	m := a.moves(saidA, ca, endA)
	if p := w.over(progress, done); p.Agents != 1 || p.Gone != 1 {
		t.Errorf("at the end: %+v", p)
	}
	if len(saidB) != 0 || w.state("p1") != Active {
		t.Errorf("the other agent was told %d things, P1 is %s; want nothing, active", len(saidB), w.state("p1"))
	}

	// Here is one more control link, as after a reconnect: it ends the one that moves left open, and is told in its place.
	back, saidBack := a.control(m.Targets[0], true)
	w.eventually("the link before it is gone", func() bool {
		n := 0
		for _, l := range w.nodes["p2"].edge.acceptor.Links() {
			if l.Agent == a.id && l.Kind == proto.KindControl {
				n++
			}
		}
		return n == 1
	})
	w.eventually("P1 gave P2 its key", func() bool { return w.nodes["p2"].edge.informer.Replacement() })
	_, done = w.ask("p2", MoveRequest{All: true, Entries: true, Wait: Duration{time.Millisecond}})
	if home, ok := a.next(saidBack).(*proto.Migrate); !ok || home.Targets[0].Node != w.node("p1").ID {
		t.Errorf("got %+v, want a MIGRATE home to P1", home)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if d := w.nodes["p2"].Status().Disclosed; len(d) != 0 {
		t.Errorf("the address of an entry is no secret, disclosed %v", d)
	}
	back.Close()
}

// A drain is not over while data links come through that belong to no agent which takes orders here.
func TestDrainCountsLinksWithoutAnAgent(t *testing.T) {
	w := newWorld(t)
	c := w.enrol()
	s, end := c.session(c.entry, false)
	c.says(c.open(s), "before")
	progress, done := w.ask("p1", MoveRequest{Drain: true, Wait: Duration{300 * time.Millisecond}})
	if p := w.over(progress, done); p.Agents != 0 || p.Links != 1 {
		t.Errorf("at the end: %+v; want no agent and one link", p)
	}
	progress, done = w.ask("p1", MoveRequest{Drain: true, Wait: Duration{20 * time.Second}})
	if p := <-progress; p.Over || p.Links != 1 {
		t.Errorf("at first: %+v", p)
	}
	end()
	if p := w.over(progress, done); p.Links != 0 {
		t.Errorf("the link has ended: %+v", p)
	}
}

func TestMovesThatAreRefused(t *testing.T) {
	w := newWorld(t, withP3(t))
	c := w.enrol()
	d := w.enrol()
	c.control(c.entry, false)
	d.control(d.entry, false)
	w.eventually("both agents are connected", func() bool { return w.nodes["p1"].Status().Agents == 2 })
	refused := func(node string, req MoveRequest, want string) {
		t.Helper()
		_, done := w.ask(node, req)
		if err := <-done; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v: got %v, want %q", node, req, err, want)
		}
	}
	refused("p1", MoveRequest{All: true, To: "px"}, `there is no node "px" in this fleet; the neighbours of p1 are: p2`)
	refused("p1", MoveRequest{All: true, To: "p1"}, "p1 is this node itself")
	refused("p1", MoveRequest{All: true, To: "p3"}, "p3 is not a neighbour of p1")
	refused("p1", MoveRequest{To: "p2"}, "name the agents to move")
	refused("p1", MoveRequest{All: true, Agents: []string{"ab"}}, "not both")
	refused("p1", MoveRequest{Agents: []string{"zz"}}, `no agent here has an id that begins with "zz"`)
	refused("p1", MoveRequest{Agents: []string{"127.0.0.1"}}, `"127.0.0.1" means 2 agents`)
	refused("p1", MoveRequest{All: true, Entries: true}, "p1 is an entry itself, so its agents are at home")
	refused("p1", MoveRequest{Drain: true, Agents: []string{"ab"}}, "a drain is for every agent")
	refused("p1", MoveRequest{All: true, Wait: Duration{-time.Second}}, "wait is -1s")
	refused("p3", MoveRequest{All: true, Entries: true}, "p3 has no entry among its neighbours")
	refused("p3", MoveRequest{Drain: true}, "p3 has no neighbours")
	refused("sign", MoveRequest{All: true}, "no agent is connected to this node")
	w.hosts["p2"].attack(true)
	w.eventually("P1 heard that P2 is attacked", func() bool { return !w.nodes["p1"].edge.informer.Replacement() })
	refused("p1", MoveRequest{All: true, To: "p2"}, "p2 is under attack")
	refused("p1", MoveRequest{Drain: true}, "there is nowhere to send anybody: p2 is under attack")
	if s := w.state("p1"); s != Active {
		t.Errorf("P1 is %s after all that, want active", s)
	}
	if n := w.nodes["p1"].Status().Counts["migrate"]; n != 0 {
		t.Errorf("%d agents were told to go", n)
	}
}

// F52: a stop sends the agents on, takes no new link, and ends when they are gone.
func TestStopSendsAgentsOn(t *testing.T) {
	w := newWorld(t)
	c := w.enrol()
	control, said := c.control(c.entry, false)
	s, end := c.session(c.entry, false)
	c.says(c.open(s), "before")
	w.nodes["p1"].Stop()
	w.eventually("P2 hears that P1 stops", func() bool {
		return slices.ContainsFunc(w.nodes["p2"].Status().Peers, func(p PeerStatus) bool { return p.Name == "p1" && p.State == "stopping" })
	})
	if r, err := c.Probe(t.Context(), c.entry); err != nil || r.Kind != proto.ReplyTransfer {
		t.Errorf("a new link while it stops: %+v, %v; want a TRANSFER", r, err)
	}
	if m := c.moves(said, control, end); m.Targets[0].Node != w.node("p2").ID {
		t.Errorf("got %+v, want a MIGRATE to P2", m)
	}
	if m, ok := (<-said).(*proto.GoAway); !ok {
		t.Errorf("after MIGRATE: got %v, want GOAWAY", m)
	}
	w.stopped("p1")
}

// stopped waits until a node has ended.
func (w *world) stopped(name string) {
	w.t.Helper()
	w.eventually(name+" has ended", func() bool {
		_, err := ControlStatus(w.t.Context(), w.nodes[name].cfg.Socket)
		return errors.Is(err, ErrNotRunning)
	})
}

// TestStopTwice: agents that do not go hold up a stop, a second one does not wait for them.
func TestStopTwice(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.StopWait.Duration = time.Hour })
	c := w.enrol()
	_, said := c.control(c.entry, false)
	c.session(c.entry, false)
	w.nodes["p1"].Stop()
	c.next(said) // MIGRATE
	c.next(said) // GOAWAY
	if _, err := ControlStatus(t.Context(), w.nodes["p1"].cfg.Socket); err != nil {
		t.Errorf("it waits for its agent, and its status says so: got %v", err)
	}
	if err := ControlDown(t.Context(), w.nodes["p1"].cfg.Socket); err != nil {
		t.Error(err)
	}
	w.stopped("p1")
}

// TestStopWithNowhereToGo does not wait for agents that nobody takes.
func TestStopWithNowhereToGo(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.StopWait.Duration = time.Hour })
	c := w.enrol()
	c.control(c.entry, false)
	w.hosts["p2"].attack(true)
	w.eventually("P1 heard that P2 is attacked", func() bool { return !w.nodes["p1"].edge.informer.Replacement() })
	w.nodes["p1"].Stop()
	w.stopped("p1")
}

// TestTooManyLinksAtOnce: a link beyond the rate is told to come again.
func TestTooManyLinksAtOnce(t *testing.T) {
	w := newWorld(t)
	e := w.nodes["p1"].edge
	e.intake = newIntake(1e-3, 1, time.Now())
	from := netip.MustParseAddrPort("198.18.0.9:4000")
	verified := func(k proto.Kind) proto.Verified { return proto.Verified{Preamble: proto.Preamble{Kind: k}} }
	if r := e.decide(verified(proto.KindControl), from); r != nil {
		t.Errorf("the first: %+v, want it in", r)
	}
	if r := e.decide(verified(proto.KindData), from); r == nil || r.Kind != proto.ReplyRetry || r.After < minRetry {
		t.Errorf("the second: %+v, want a RETRY", r)
	}
	for _, k := range []proto.Kind{proto.KindProbe, proto.KindEnrol} {
		if r := e.decide(verified(k), from); r != nil {
			t.Errorf("kind %d makes no session: %+v, want it in", k, r)
		}
	}
	if n := w.nodes["p1"].Status().Counts["links_retry"]; n != 1 {
		t.Errorf("%d counted, want 1", n)
	}
}

// F35: RATIFY twice, and late, is as once.
func TestRatifyTwice(t *testing.T) {
	w := newWorld(t)
	e := w.nodes["p2"].edge
	m := &proto.Ratify{Attempt: proto.NewNonce(), Addr: netip.MustParseAddr("198.18.0.9"), Expiry: admitFor}
	for range 2 {
		if r, ok := e.Ratify(w.node("p1").ID, m).(*proto.RatifyOK); !ok || r.Attempt != m.Attempt {
			t.Errorf("got %+v, want the approval", r)
		}
	}
	w.eventually("the door is open to it once", func() bool { _, _, _, _, n := w.hosts["p2"].fw.get(); return n == 1 })
}

// F38: the peer link of a proxy that serves is cut: it serves on, and nobody moves.
func TestPeerLinkOfAServingProxyIsCut(t *testing.T) {
	w := newWorld(t)
	c := w.enrol()
	control, said := c.control(c.entry, false)
	s, end := c.session(c.entry, false)
	c.says(c.open(s), "before")
	_, done := w.ask("p1", MoveRequest{All: true, Wait: Duration{time.Millisecond}})
	m := c.moves(said, control, end)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s2, _ := c.session(m.Targets[0], true)
	app := c.open(s2)
	c.says(app, "on P2")
	w.nodes["p1"].Stop()
	w.stopped("p1")
	w.eventually("P2 sees that P1's peer link is down", func() bool {
		return slices.ContainsFunc(w.nodes["p2"].Status().Peers, func(p PeerStatus) bool { return p.Name == "p1" && !p.Up })
	})
	c.says(app, "still on P2")
	if st := w.nodes["p2"].Status(); st.State != Active || st.Counts["migrate"] != 0 {
		t.Errorf("P2 is %s and told %d agents to go, want active and nobody", st.State, st.Counts["migrate"])
	}
}

// F40: P1 and P2 are each other's neighbours and both attacked: who was moved to P2 stays there, the
// least bad place, and P2 says so.
func TestNoLoop(t *testing.T) {
	w := newWorld(t)
	c := w.enrol()
	control, said := c.control(c.entry, false)
	s, end := c.session(c.entry, false)
	c.says(c.open(s), "before")
	w.hosts["p1"].attack(true)
	m := c.moves(said, control, end)
	w.becomes("p1", Suspended)
	_, saidP2 := c.control(m.Targets[0], true)
	s2, _ := c.session(m.Targets[0], true)
	app := c.open(s2)
	w.hosts["p2"].attack(true)
	w.becomes("p2", Defending)
	w.eventually("P2 says that nobody can take over", func() bool { return strings.Contains(w.nodes["p2"].Status().Why, "no replacement") })
	c.says(app, "it stays")
	if len(saidP2) != 0 || w.nodes["p2"].Status().Counts["migrate"] != 0 {
		t.Errorf("sent back to a proxy under attack: %v", <-saidP2)
	}
}

// F42: no spare is left: a newcomer that the SYN Checker verified is sent to this proxy itself, whose
// door is open to it.
func TestTransferToItself(t *testing.T) {
	w := newWorld(t)
	w.hosts["p2"].attack(true)
	w.eventually("P1 heard that P2 is attacked", func() bool { return !w.nodes["p1"].edge.informer.Replacement() })
	w.hosts["p1"].attack(true)
	w.becomes("p1", Defending)
	from := netip.MustParseAddrPort("198.18.0.9:4000")
	r, ok := w.nodes["p1"].edge.door.verified(synchecker.Client{Verified: proto.Verified{Preamble: proto.Preamble{Kind: proto.KindControl}}, From: from})
	if !ok || r.Kind != proto.ReplyTransfer || len(r.Targets) != 1 || r.Targets[0].Node != w.node("p1").ID {
		t.Errorf("got %+v, want a TRANSFER to P1 itself", r)
	}
	w.eventually("its door is open to it", func() bool {
		w.hosts["p1"].fw.mu.Lock()
		defer w.hosts["p1"].fw.mu.Unlock()
		_, ok := w.hosts["p1"].fw.admits[from.Addr()]
		return ok
	})
	if why := w.nodes["p1"].Status().Why; !strings.Contains(why, "no replacement") {
		w.eventually("it says so loudly", func() bool { return strings.Contains(w.nodes["p1"].Status().Why, "no replacement") })
	}
}

// TestSuspensionEndsLinks: at the deadline the links end that still run through the proxy; sessions that it
// holds go on, for they may come over another edge, and so do control links.
func TestSuspensionEndsLinks(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Attack.SuspendAfter.Duration = time.Second })
	c := w.enrol()
	control, said := c.control(c.entry, false)
	s, _ := c.session(c.entry, false)
	app := c.open(s)
	c.says(app, "before")
	w.eventually("a data link runs through P1", func() bool { return w.nodes["p1"].Status().Links == 1 })
	w.hosts["p1"].attack(true)
	m, ok := c.next(said).(*proto.Migrate)
	if !ok || m.Deadline != time.Second {
		t.Fatalf("got %+v, want a MIGRATE with the deadline", m)
	}
	w.becomes("p1", Suspended)
	if _, err := app.Read(make([]byte, 1)); err == nil {
		t.Error("the data link did not end")
	}
	w.eventually("no data link runs through it", func() bool { return w.nodes["p1"].Status().Links == 0 })
	if held := w.nodes["p1"].edge.anchor.SessionsOf(c.id); len(held) != 1 || held[0].Streams != 1 {
		t.Errorf("sessions held: %+v; want the agent's, with its stream, until it comes another way", held)
	}
	if why := w.nodes["p1"].Status().Why; !strings.Contains(why, "with 1 links and connections left") {
		t.Errorf("why: %q", why)
	}
	if err := proto.WriteMessage(control, &proto.Ping{Token: 7}); err != nil {
		t.Fatal(err)
	}
	for m := c.next(said); m.Type() != proto.TypePong; m = c.next(said) {
	}
}
