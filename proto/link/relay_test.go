package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"migrationsensor/proto"
)

// anchor is a node that ends what edges pass on to it, under one key for all of them.
type anchor struct {
	*node
	key     proto.RelayKey
	relayAt netip.AddrPort
}

func (f *fleet) anchor(edit func(*node)) *anchor {
	f.t.Helper()
	a := &anchor{node: f.node(func(n *node) {
		n.Creds = f.issue(proto.Identity{Roles: []proto.Role{proto.RoleAnchor}, Node: n.id})
		if edit != nil {
			edit(n)
		}
	})}
	rand.Read(a.key[:])
	l, err := Listen(f.t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		f.t.Fatal(err)
	}
	a.relayAt = addrPort(l.Addr())
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan error, 1)
	go func() { done <- a.ServeRelayed(ctx, l, a.verify) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("ServeRelayed: %v", err)
		}
	})
	return a
}

func (a *anchor) verify(b []byte) (proto.RelayHeader, bool) {
	h, err := proto.ParseRelayHeader(b)
	return h, err == nil && h.Verify(b, a.key, time.Now()) == nil
}

// dialBehind is an edge's way to the anchor: it connects to at and writes the header.
func (a *anchor) dialBehind(edge proto.NodeID, at netip.AddrPort) func(context.Context, proto.Verified, netip.AddrPort) (net.Conn, error) {
	return func(ctx context.Context, v proto.Verified, from netip.AddrPort) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", at.String())
		if err != nil {
			return nil, err
		}
		h := proto.RelayHeader{Edge: edge, Agent: v.Agent, Addr: from, Nonce: v.Nonce, Time: time.Now()}
		_, err = c.Write(h.Append(nil, a.key))
		return c, err
	}
}

// edge is a node that passes data links on to the anchor, by way of at.
func (f *fleet) edge(a *anchor, at netip.AddrPort, edit func(*node)) *node {
	f.t.Helper()
	return f.node(func(n *node) {
		n.Anchors = func(id proto.NodeID) bool { return id == a.id }
		n.Relay = a.dialBehind(n.id, at)
		if edit != nil {
			edit(n)
		}
	})
}

// tap passes connections on and keeps what it sees, as an edge or whoever listens on the backplane could.
type tap struct {
	at   netip.AddrPort
	mu   sync.Mutex
	seen bytes.Buffer
	all  []net.Conn
}

func newTap(t *testing.T, to netip.AddrPort) *tap {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{at: addrPort(l.Addr())}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to.String())
			if err != nil {
				c.Close()
				continue
			}
			p.mu.Lock()
			p.all = append(p.all, c, far)
			p.mu.Unlock()
			wg.Go(func() { io.Copy(io.MultiWriter(far, p), c); far.(*net.TCPConn).CloseWrite() })
			wg.Go(func() { io.Copy(io.MultiWriter(c, p), far); c.(*net.TCPConn).CloseWrite() })
		}
	})
	t.Cleanup(func() { l.Close(); p.cut(); wg.Wait() })
	return p
}

func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.Write(b)
}

func (p *tap) saw(b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Contains(p.seen.Bytes(), b)
}

// cut resets what runs through it.
func (p *tap) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.all {
		abort(c)
	}
}

// TestALinkThroughAnEdge: TLS is between agent and anchor, and the edge sees none of what it carries.
func TestALinkThroughAnEdge(t *testing.T) {
	for _, scarce := range []bool{false, true} {
		name := "spliced"
		if scarce {
			name = "copied"
		}
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, "lab")
			creds, id := f.agent()
			type arrival struct {
				from netip.AddrPort
				via  proto.NodeID
			}
			came := make(chan arrival, 1)
			a := f.anchor(func(n *node) {
				n.Data = func(_ context.Context, l *Link, _ proto.Verified) { came <- arrival{l.Remote(), l.Via}; io.Copy(l, l) }
			})
			p := newTap(t, a.relayAt)
			e := f.edge(a, p.at, func(n *node) { n.scarce = func(net.Conn) bool { return scarce } })

			l, path, err := (&Dialer{Creds: creds}).FollowVia(t.Context(), e.target(id), proto.KindData, a.id)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if l.Peer.Node != a.id || l.Anchor != a.id || l.Target.Node != e.id || len(path) != 1 {
				t.Errorf("link to %s of anchor %s by %s, want %s by %s", l.Peer.Node, l.Anchor, l.Target.Node, a.id, e.id)
			}
			if got, want := <-came, (arrival{addrPort(l.LocalAddr()), e.id}); got != want {
				t.Errorf("the anchor sees %+v, want %+v", got, want)
			}
			word := []byte("nobody on the way reads this")
			sum := exchange(t, l, word, 4<<20)
			if p.saw(word) || !p.saw(id[:]) {
				t.Error("the way to the anchor shows what the agent says, or no relay header")
			}
			if live := e.Links(); len(live) != 1 || !live[0].Relayed() || live[0].Anchor != a.id || e.DataLinks() != 1 {
				t.Errorf("at the edge %+v, %d data links", live, e.DataLinks())
			}
			if live := a.Passed(); len(live) != 1 || live[0].Via != e.id || len(a.Links()) != 0 || a.DataLinks() != 0 {
				t.Errorf("at the anchor %+v, %d data links of its own", live, a.DataLinks())
			}
			if sum != nil {
				t.Error(sum)
			}
		})
	}
}

// exchange sends n bytes that begin with word, and wants them back.
func exchange(t *testing.T, l net.Conn, word []byte, n int) error {
	t.Helper()
	b := make([]byte, n)
	rand.Read(b)
	copy(b, word)
	l.SetDeadline(time.Now().Add(patience))
	sent := make(chan error, 1)
	go func() { _, err := l.Write(b); sent <- err }()
	back := make([]byte, n)
	_, err := io.ReadFull(l, back)
	if werr := <-sent; err != nil || werr != nil {
		return errors.Join(err, werr)
	}
	if sha256.Sum256(b) != sha256.Sum256(back) {
		return errors.New("other bytes came back")
	}
	l.SetDeadline(time.Time{})
	return nil
}

func TestATransferKeepsTheAnchor(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	a := f.anchor(nil)
	p2 := f.edge(a, a.relayAt, nil)
	p1 := f.edge(a, a.relayAt, func(n *node) {
		sendTo(n, func(v proto.Verified) []proto.Target { return []proto.Target{p2.target(v.Agent)} })
	})
	d := &Dialer{Creds: creds, Knock: (&knocks{}).knock}
	for name, dial := range map[string]func() (*Link, []proto.Target, error){
		"from an entry": func() (*Link, []proto.Target, error) {
			return d.FollowVia(t.Context(), p1.target(id), proto.KindData, a.id)
		},
		"told by a MIGRATE": func() (*Link, []proto.Target, error) {
			return d.FollowToldVia(t.Context(), p2.target(id), proto.KindData, a.id)
		},
		"the anchor is dialled": func() (*Link, []proto.Target, error) {
			return d.FollowVia(t.Context(), a.target(id), proto.KindData, a.id)
		},
	} {
		l, path, err := dial()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		ping(t, l)
		if l.Peer.Node != a.id || l.Target.Node != path[len(path)-1].Node {
			t.Errorf("%s: link to %s by %s", name, l.Peer.Node, l.Target.Node)
		}
		l.Close()
	}
	control, _, err := d.FollowVia(t.Context(), p2.target(id), proto.KindControl, a.id)
	if err != nil || control.Peer.Node != p2.id {
		t.Fatalf("a control link ends at its edge: got %v", err)
	}
	control.Close()
	zero, _, err := d.FollowVia(t.Context(), p2.target(id), proto.KindData, proto.NodeID{})
	if err != nil || zero.Peer.Node != p2.id {
		t.Fatalf("no anchor is the edge itself: got %v", err)
	}
	zero.Close()
}

// TestOnlyAnchorsOfTheCatalogue: other nodes of the backplane can't be reached through an edge.
func TestOnlyAnchorsOfTheCatalogue(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "lab")
	_, id := f.agent()
	a := f.anchor(nil)
	e := f.edge(a, a.relayAt, nil)
	for name, edit := range map[string]func(*proto.Preamble){
		"a node that is no anchor":       func(p *proto.Preamble) { p.Kind, p.Target = proto.KindData, proto.NewNodeID() },
		"a control link to an anchor":    func(p *proto.Preamble) { p.Kind, p.Target = proto.KindControl, a.id },
		"a probe of an anchor":           func(p *proto.Preamble) { p.Kind, p.Target = proto.KindProbe, a.id },
		"an enrolment through an anchor": func(p *proto.Preamble) { p.Kind, p.Target = proto.KindEnrol, a.id },
	} {
		c := e.dial(t)
		c.Write(e.preamble(id, edit))
		c.CloseWrite()
		wantSilence(t, name, c)
	}
	if s := e.Stats(); s.BadKind != 4 || s.Relayed != 0 {
		t.Errorf("stats got %+v", s)
	}
}

func TestStrangersAtTheRelayPortHearNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "lab")
	_, id := f.agent()
	a := f.anchor(nil)
	good := proto.RelayHeader{Edge: proto.NewNodeID(), Agent: id, Addr: a.at, Nonce: proto.NewNonce(), Time: time.Now()}.Append(nil, a.key)
	wrong := append([]byte(nil), good...)
	wrong[20] ^= 1
	var wg sync.WaitGroup
	for name, b := range map[string][]byte{
		"wrong header": append(wrong, "and what may follow it"...), "a preamble": a.preamble(id, nil), "cut off": good[:40], "nothing": nil,
	} {
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(a.relayAt))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		wg.Go(func() {
			c.Write(b)
			c.SetDeadline(time.Now().Add(patience))
			wantSilence(t, name, c)
		})
	}
	wg.Wait()
	// Without a byte the kernel keeps a connection to itself for a while.
	if s := a.Stats(); s.BadRelay < 3 || s.Passed != 0 || s.TLSFailed != 0 {
		t.Errorf("stats got %+v", s)
	}
}

// TestF44 replays a captured link: TLS fails, the live link is untouched.
func TestF44(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	a := f.anchor(nil)
	e := f.edge(a, a.relayAt, nil)
	sniffer := newTap(t, e.at) // between the agent and its edge
	tgt := e.target(id)
	tgt.Port = sniffer.at.Port()
	l, err := (&Dialer{Creds: creds}).Dial(t.Context(), tgt, proto.KindData, a.id)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ping(t, l)
	sniffer.mu.Lock()
	captured := bytes.Clone(sniffer.seen.Bytes()) // both ways mixed, but the first flight comes first
	sniffer.mu.Unlock()
	c := e.dial(t)
	c.Write(captured)
	c.CloseWrite()
	io.Copy(io.Discard, c)
	until(t, "TLS with the replayer fails", func() bool { return a.Stats().TLSFailed == 1 })
	ping(t, l)
	if n := a.Stats().Data; n != 1 {
		t.Errorf("%d data links came up, want the agent's own", n)
	}
}

// TestAnotherAgentsCertificate: the header binds the agent, so an edge can't mix two up.
func TestAnotherAgentsCertificate(t *testing.T) {
	f := newFleet(t, "lab")
	creds, _ := f.agent()
	_, other := f.agent()
	a := f.anchor(nil)
	e := f.edge(a, a.relayAt, nil)
	l, err := (&Dialer{Creds: creds}).Dial(t.Context(), e.target(other), proto.KindData, a.id) // another's admission
	if err == nil {
		l.SetDeadline(time.Now().Add(patience))
		_, err = l.Read(make([]byte, 1)) // TLS 1.3 tells the client late
	}
	if err == nil {
		t.Error("a link under another agent's name came up")
	}
	until(t, "it is counted", func() bool { return a.Stats().TLSFailed == 1 })
}

// TestF34: when the way between edge and anchor is cut, the links over it end at once, with a reset.
func TestF34(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	a := f.anchor(nil)
	p := newTap(t, a.relayAt)
	e := f.edge(a, p.at, nil)
	l, err := (&Dialer{Creds: creds}).Dial(t.Context(), e.target(id), proto.KindData, a.id)
	if err != nil {
		t.Fatal(err)
	}
	ping(t, l)
	p.cut()
	wantReset(t, l)
	until(t, "both ends forget it", func() bool { return e.DataLinks() == 0 && len(a.Passed()) == 0 })
}

func wantReset(t *testing.T, l net.Conn) {
	t.Helper()
	l.SetReadDeadline(time.Now().Add(patience))
	if _, err := l.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the link ends with %v, want a reset", err)
	}
}

// TestWhoEndsARelayedLink: each way to end links knows those that are passed on.
func TestWhoEndsARelayedLink(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	a := f.anchor(nil)
	e := f.edge(a, a.relayAt, nil)
	for name, end := range map[string]func() int{
		"its agent is revoked, at the edge":   func() int { return e.Close(id) },
		"its agent is revoked, at the anchor": func() int { return a.Close(id) },
		"the edge is suspended":               e.CloseData,
		"the edge stops":                      e.CloseAll,
		"the edge is revoked":                 func() int { return a.CloseNode(e.id) },
		"the anchor is revoked":               func() int { return e.CloseNode(a.id) },
	} {
		l, err := (&Dialer{Creds: creds}).Dial(t.Context(), e.target(id), proto.KindData, a.id)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ping(t, l)
		if n := end(); n != 1 {
			t.Errorf("%s: ended %d links, want 1", name, n)
		}
		wantReset(t, l)
		until(t, name, func() bool { return e.DataLinks() == 0 && len(a.Passed()) == 0 })
	}
	if a.CloseData() != 0 {
		t.Error("an anchor that is suspended as an edge ends what comes over others")
	}
}

// TestNoAnchorIsRetry: nobody there, or a door that is shut in its face.
func TestNoAnchorIsRetry(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	a := f.anchor(nil)
	for name, relay := range map[string]func(context.Context, proto.Verified, netip.AddrPort) (net.Conn, error){
		"no peer link": func(context.Context, proto.Verified, netip.AddrPort) (net.Conn, error) {
			return nil, errors.New("down")
		},
		"nobody listens": a.dialBehind(proto.NewNodeID(), netip.MustParseAddrPort("127.0.0.1:1")),
		"it hangs up": func(ctx context.Context, v proto.Verified, from netip.AddrPort) (net.Conn, error) {
			near, far := tcpPair(t)
			far.Close()
			return near, nil
		},
		"it resets": func(ctx context.Context, v proto.Verified, from netip.AddrPort) (net.Conn, error) {
			near, far := tcpPair(t)
			abort(far)
			return near, nil
		},
	} {
		e := f.edge(a, a.relayAt, func(n *node) { n.Relay = relay })
		_, err := (&Dialer{Creds: creds}).Dial(t.Context(), e.target(id), proto.KindData, a.id)
		var se *SealedError
		if !errors.As(err, &se) || se.Reply.Kind != proto.ReplyRetry || se.Reply.After < retryLeast || se.Reply.After > retryLeast+retrySpread {
			t.Errorf("%s: got %v, want RETRY after half a second or so", name, err)
		}
		if s := e.Stats(); s.Unreached != 1 || e.DataLinks() != 0 {
			t.Errorf("%s: stats got %+v", name, s)
		}
	}
}

// TestAStoppedAnchorIsRetry: it accepts in its kernel and says nothing (F66); also one that can't be connected to.
func TestAStoppedAnchorIsRetry(t *testing.T) {
	for name, c := range map[string]struct {
		relay func(ctx context.Context) (net.Conn, error)
		after time.Duration
	}{
		"connects, is silent": {func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go io.Copy(io.Discard, far)
			return near, nil
		}, answerTimeout},
		"does not connect": {func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }, reachTimeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			secret, node, target, id := proto.Secret{1}, proto.NewNodeID(), proto.NewNodeID(), proto.AgentID{1}
			keys := &proto.Keyring{}
			keys.Set(proto.KeyID{Gen: 1}, secret)
			e := &Acceptor{Node: node, Keys: keys, Anchors: func(id proto.NodeID) bool { return id == target },
				Relay: func(ctx context.Context, _ proto.Verified, _ netip.AddrPort) (net.Conn, error) { return c.relay(ctx) }}
			e.init()
			near, far := net.Pipe()
			go e.serve(t.Context(), far)
			began := time.Now()
			p := proto.Preamble{Kind: proto.KindData, Key: proto.KeyID{Gen: 1}, Target: target, Time: began, Nonce: proto.NewNonce()}
			pre := p.Append(nil, secret.Admission(id), node)
			go near.Write(append(pre[:len(pre):len(pre)], recordHandshake, 3, 1, 0, 3, 1, 2, 3))
			b := make([]byte, proto.SealedLen)
			if _, err := io.ReadFull(near, b); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if r, err := proto.OpenReply(b, pre, secret.Admission(id)); err != nil || r.Kind != proto.ReplyRetry {
				t.Errorf("%s: got %v, %v, want RETRY", name, r.Kind, err)
			}
			if d := time.Since(began); d != c.after {
				t.Errorf("%s: answered after %v, want %v", name, d, c.after)
			}
			near.Close()
		})
	}
}

// tcpPair is two ends of a TCP connection, as a listener and a dialler have them.
func tcpPair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); d.Close() })
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// TestPassageEnds: the way a connection ends is the way its other side ends.
func TestPassageEnds(t *testing.T) {
	for name, copying := range map[string]bool{"spliced": false, "copied": true} {
		t.Run(name, func(t *testing.T) {
			run := func() (agent, anchor *net.TCPConn, done chan struct{}) {
				agent, near := tcpPair(t)
				far, anchor := tcpPair(t)
				p := &passage{agent: near, anchor: far, copying: copying}
				if p.spliced() == copying {
					t.Fatalf("spliced %v", p.spliced())
				}
				anchor.Write([]byte("first"))
				if err := p.begin(); err != nil {
					t.Fatal(err)
				}
				done = make(chan struct{})
				go func() { p.run(); near.Close(); close(done) }()
				for _, c := range []net.Conn{agent, anchor} {
					c.SetDeadline(time.Now().Add(patience))
				}
				if _, err := io.ReadFull(agent, make([]byte, 5)); err != nil {
					t.Fatal(err)
				}
				return agent, anchor, done
			}
			ends := func(done chan struct{}) {
				select {
				case <-done:
				case <-time.After(patience):
					t.Fatal("the passage does not end")
				}
			}

			agent, anchor, done := run()
			agent.CloseWrite()
			if b, err := io.ReadAll(anchor); err != nil || len(b) > 0 {
				t.Errorf("half-close: the anchor gets %q, %v", b, err)
			}
			anchor.Write([]byte("more"))
			anchor.Close()
			if b, err := io.ReadAll(agent); err != nil || string(b) != "more" {
				t.Errorf("half-close: the agent gets %q, %v", b, err)
			}
			ends(done)

			agent, anchor, done = run()
			abort(agent)
			wantReset(t, anchor)
			ends(done)

			agent, anchor, done = run()
			abort(anchor)
			wantReset(t, agent)
			ends(done)

			agent, anchor, done = run() // the reset meets a half-close
			agent.CloseWrite()
			io.ReadAll(anchor)
			abort(anchor)
			wantReset(t, agent)
			ends(done)
		})
	}
}

// TestDeadAgentOutlivesNoAnchor: an anchor that has ended a link ends it at the edge too, when nothing more is heard of
// the agent, whose path may be gone.
func TestDeadAgentOutlivesNoAnchor(t *testing.T) {
	agent, near := tcpPair(t)
	far, anchor := tcpPair(t)
	p := &passage{agent: near, anchor: far}
	if _, err := anchor.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := p.begin(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); p.run() }()
	anchor.Close()
	select {
	case <-ended:
	case <-time.After(partingTime + patience):
		t.Fatal("the link is still passed on")
	}
	agent.SetReadDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(agent); string(b) != "hello" || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the agent's side: %q, %v", b, err)
	}
}
