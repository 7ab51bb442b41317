package memory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/scenario"
	"migrationsensor/netstack/memnet"
)

// TestF33F64AnchorDies kills the anchor in the middle of a download and of an upload, for good or for a moment, after which it
// knows no session any more: both are reset, none ends as if it were whole, and new connections work.
func TestF33F64AnchorDies(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]bool{"for good": false, "for a moment": true} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, fleet.Config{})
			down, downFar := s.joined()
			up, upFar := s.joined()
			go func() { _, _ = downFar.Write(make([]byte, 32<<20)) }()
			_, err := io.CopyN(io.Discard, down, 100<<10)
			try(t, err)
			s.says(up, upFar, "begun")
			try(t, s.Kill("a1"))
			if again {
				try(t, s.Start("a1"))
			}
			begin := time.Now()
			wasReset(t, "the download", down)
			for err = nil; err == nil; { // the upload
				_, err = up.Write(make([]byte, 1<<10))
			}
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the upload: %v, want a reset", err)
			}
			if took := time.Since(begin); took > 20*time.Second+busy {
				t.Errorf("reset after %v", took)
			}
			s.connects()
		})
	}
}

// connects waits until a new connection of the client's works.
func (s *stage) connects() {
	s.t.Helper()
	s.until("new connections work", func() (bool, string) {
		at, _ := lab.P1.Port(wordPort)
		ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
		defer cancel()
		c, err := s.Dial(ctx, "client", at)
		if err != nil {
			return false, err.Error()
		}
		c.Close()
		return true, ""
	})
}

// TestF34PathToTheAnchorIsCut cuts P1 off from the anchor, not from the client: its sessions go on by way of another edge.
func TestF34PathToTheAnchorIsCut(t *testing.T) {
	s := newStage(t, fleet.Config{})
	s.during(func() {
		s.Play(memnet.Fault{Host: "p1", Peer: "a1", Segment: backplane, Conditions: memnet.Conditions{Cut: true}})
	})
}

// TestF35NoWordToTheNextProxy cuts P1 off from its peers and floods it: no USERINFO and no RATIFY arrives, and its clients
// and a newcomer come in at the next proxy all the same, by knock.
func TestF35NoWordToTheNextProxy(t *testing.T) {
	s := newStage(t, fleet.Config{Nodes: oneEntry})
	s.enter("fresh")
	try(t, s.Stop("fresh"))
	end := s.begin(2 * size)
	for _, peer := range []string{"p2", "p3"} {
		s.Play(memnet.Fault{Host: "p1", Peer: peer, Segment: backplane, Conditions: memnet.Conditions{Cut: true}})
	}
	s.flood("p1")
	s.comes("client", "p2", "p3")
	try(t, s.StartAgent("fresh", "warm"))
	s.comes("fresh", "p2", "p3")
	s.whole(end)
}

// TestF38PeerLinkCut cuts P1 off from another proxy, not from its clients: nobody moves.
func TestF38PeerLinkCut(t *testing.T) {
	s := newStage(t, fleet.Config{})
	before := s.agentOf("client").Counts.Moves
	client, origin := s.joined()
	s.Play(memnet.Fault{Host: "p1", Peer: "p2", Segment: backplane, Conditions: memnet.Conditions{Cut: true}})
	s.until("P2 sees that the link is gone", func() (bool, string) {
		for _, p := range s.proxyOf("p2").Peers {
			if p.Name == "p1" {
				return !p.Up, "P1 is up"
			}
		}
		return false, "P1 is no peer"
	})
	s.says(client, origin, "still here")
	if st := s.agentOf("client"); st.Counts.Moves != before || s.edgeOf("client") != "p1" || s.proxyOf("p1").State != "active" {
		t.Errorf("%d moves, at %q, P1 is %q", st.Counts.Moves-before, s.edgeOf("client"), s.proxyOf("p1").State)
	}
}

// TestF40F41Chain attacks P1, then the proxy to which its client goes, then the last one: it is moved twice and not back,
// and stays at the least bad when nobody is left.
func TestF40F41Chain(t *testing.T) {
	s := newStage(t, fleet.Config{Nodes: oneEntry})
	client, origin := s.joined()
	s.says(client, origin, "in peace")
	before := s.agentOf("client").Counts.Moves
	hidden := []string{"p2", "p3"}
	s.flood("p1")
	second := s.comes("client", hidden...)
	third := hidden[1-slices.Index(hidden, second)]
	s.flood(second)
	s.comes("client", third)
	s.says(client, origin, "at the third")
	s.flood(third)
	s.says(origin, client, "where nobody is left")
	if st := s.agentOf("client"); st.Counts.Moves-before != 2 || s.edgeOf("client") != third {
		t.Errorf("%d moves, at %q, want two: P1 → %s → %s", st.Counts.Moves-before, s.edgeOf("client"), second, third)
	}
}

// TestF42NoSpareIsLeft attacks a P1 that has nobody to send its clients to: it goes on, and sends a newcomer to itself.
func TestF42NoSpareIsLeft(t *testing.T) {
	s := newStage(t, fleet.Config{Nodes: []fleet.Node{{Name: "p1", Kind: fleet.Entry}, {Name: "a1", Kind: fleet.Anchor}}})
	s.enter("fresh")
	try(t, s.Stop("fresh"))
	end := s.begin(size)
	s.flood("p1")
	try(t, s.StartAgent("fresh", "warm"))
	s.comes("fresh", "p1")
	s.whole(end)
	at, _ := lab.P1.Port(lab.WebPort)
	if f := scenario.Fetch(t.Context(), s, "fresh", at, "/file", fleet.FetchLimit); !f.OK() {
		t.Errorf("a download by the newcomer: %+v", f)
	}
}

// TestF39TwoAtOnce attacks both entries: the clients of both go to the same spares, and nobody is sent to and fro.
func TestF39TwoAtOnce(t *testing.T) {
	s := newStage(t, fleet.Config{})
	s.enter("fresh")
	s.lead("fresh", "e2")
	s.lead("client", "p1")
	client, fresh := s.agentOf("client").Counts.Moves, s.agentOf("fresh").Counts.Moves
	s.flood("p1")
	s.flood("e2")
	s.comes("client", "p2", "p3")
	s.comes("fresh", "p2", "p3")
	for _, edge := range []string{"p1", "e2"} {
		s.until(edge+" is empty", func() (bool, string) {
			st := s.proxyOf(edge)
			return st.Links == 0, fmt.Sprintf("%d links", st.Links)
		})
	}
	if a, b := s.agentOf("client").Counts.Moves-client, s.agentOf("fresh").Counts.Moves-fresh; a > 2 || b > 2 {
		t.Errorf("%d and %d moves", a, b)
	}
}

// TestF43FlappingAttack is an attack that goes on and off: one round, one move.
func TestF43FlappingAttack(t *testing.T) {
	s := newStage(t, fleet.Config{Nodes: oneEntry})
	before := s.agentOf("client").Counts.Moves
	at, _ := lab.P1.Port(lab.LinkPort)
	for range 4 {
		if _, err := s.Attack(t.Context(), fleet.Attack{Kind: flood.SYN, Rate: 2000, Time: 2 * time.Second, Target: at}); err != nil {
			t.Fatal(err)
		}
		off := time.NewTimer(3 * time.Second)
		<-off.C
	}
	if n := s.agentOf("client").Counts.Moves - before; n < 1 || n > 4 {
		t.Errorf("%d moves for four attacks", n)
	}
	s.comes("client", "p2", "p3")
}

// TestF44CapturedLinkReplayed says again, to every proxy and from two places, what a client said on its links.
func TestF44CapturedLinkReplayed(t *testing.T) {
	s := newStage(t, fleet.Config{})
	seen := s.eavesdrop("client")
	n, err := s.ResetLinks("p1") // so that new ones are made
	if err != nil || n == 0 {
		t.Fatalf("%d links, %v", n, err)
	}
	client, origin := s.joined()
	s.says(client, origin, "captured")
	s.until("the links are there", func() (bool, string) { now := s.edgeOf("client"); return now != "", now })
	said := map[netip.AddrPort][]byte{}
	for _, p := range seen.seen() {
		if from, to, _, payload, ok := tcp(p); ok && to.Port() == lab.LinkPort && from.Addr() == lab.Client.V4 {
			said[from] = append(said[from], payload...) // in order: the line loses nothing
		}
	}
	before, sessions, refused := s.agentOf("client"), s.proxyOf("a1").Sessions, s.refused()
	replayed := 0
	for _, link := range said {
		if len(link) < 500 || replayed == 3 {
			continue
		}
		replayed++
		for _, edge := range []string{"p1", "e2", "p2", "p3"} {
			public, _ := fleet.AddressesOf(edge)
			for _, machine := range []string{"attacker", "client"} {
				s.replay(machine, netip.AddrPortFrom(public[0], lab.LinkPort), link)
			}
		}
	}
	if replayed == 0 {
		t.Fatalf("no link was captured: %d flows", len(said))
	}
	s.says(client, origin, "untouched")
	if after := s.agentOf("client"); after.Sessions[0].Epoch != before.Sessions[0].Epoch || after.Counts.Moves != before.Counts.Moves {
		t.Errorf("the live session was touched: epoch %d, before %d", after.Sessions[0].Epoch, before.Sessions[0].Epoch)
	}
	if n := s.proxyOf("a1").Sessions; n != sessions {
		t.Errorf("%d sessions, before %d", n, sessions)
	}
	s.until("some of it was heard, and refused", func() (bool, string) {
		n := s.refused()
		return n > refused, fmt.Sprintf("%d refused, before %d", n, refused)
	})
}

// refused counts links that ended in silence or in the handshake.
func (s *stage) refused() (n uint64) {
	s.t.Helper()
	for _, node := range []string{"p1", "e2", "a1"} {
		c := s.proxyOf(node).Counts
		n += c["links_silenced"] + c["tls_failed"]
	}
	return n
}

// replay says a captured link's bytes, and hears what is answered until the link ends.
func (s *stage) replay(machine string, to netip.AddrPort, link []byte) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 500*time.Millisecond)
	defer cancel()
	c, err := s.Network().Host(machine).Spawn().Dial(ctx, lab.Uplink, to)
	if err != nil {
		return // dark, or not admitted
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = c.Write(link)
	_, _ = io.Copy(io.Discard, c)
}

// TestF60OpenAnswerLost loses the answer to an OPEN with its link: it is sent again after RESUME, and the origin sees one
// connection.
func TestF60OpenAnswerLost(t *testing.T) {
	s := newStage(t, fleet.Config{})
	at, _ := lab.P1.Port(wordPort)
	hear := s.cut("client", "", memnet.In)
	dialled := make(chan error, 1)
	go func() {
		c, err := s.Dial(t.Context(), "client", at)
		if err == nil {
			defer c.Close()
			_, err = io.WriteString(c, "once")
		}
		dialled <- err
	}()
	o, err := s.word.Accept()
	try(t, err)
	defer o.Close()
	if _, err := s.ResetLinks("client"); err != nil {
		t.Fatal(err)
	}
	_, err = s.ResetLinks("p1")
	try(t, err)
	hear()
	b, err := io.ReadAll(io.LimitReader(o, 4))
	if err != nil || string(b) != "once" {
		t.Fatalf("the origin's only connection: %q, %v", b, err)
	}
	try(t, <-dialled)
	if n := s.proxyOf("a1").Counts["streams_opened"]; n != 1 {
		t.Errorf("the anchor opened %d streams", n)
	}
}

// TestF65NobodyIsLeft kills every edge in the middle of a transfer, which goes on by itself when they are back.
func TestF65NobodyIsLeft(t *testing.T) {
	s := newStage(t, fleet.Config{})
	edges := []string{"p1", "e2", "p2", "p3"}
	s.during(func() {
		for _, e := range edges {
			try(t, s.Kill(e))
		}
		s.until("the status says so", func() (bool, string) {
			st := s.agentOf("client")
			return st.State != "connected" && st.Why != "", st.State + ": " + st.Why
		})
		for _, e := range edges {
			try(t, s.Start(e))
		}
	})
	s.comes("client", edges...)
}
