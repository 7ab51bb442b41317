package proxyd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proxyd/anchor"
)

// isAnchor reports whether data links may be passed on to the node: to every one that takes them. An agent that had no
// other anchor than its edge keeps it when it moves on, whatever the catalogue says.
func (p *Proxy) isAnchor(id proto.NodeID) bool {
	n, ok := p.state.Doc().Node(id)
	return ok && len(n.Relay) > 0
}

// goneAfter is how long the peer link with an anchor must be down before agents are told to give it up: longer than a
// flap, in which they lose nothing by waiting. Ours.
const goneAfter = 5 * time.Second

// isGone reports whether a node is no anchor any more, or dead as far as this one can tell.
func (p *Proxy) isGone(id proto.NodeID) bool {
	if !p.isAnchor(id) {
		return true
	}
	s := p.peers.Up()[id]
	switch {
	case s.Up:
		return false
	case s.Since.IsZero(): // there was never a link with it
		return p.host.Now().Sub(p.since) >= goneAfter
	}
	return time.Since(s.Since) >= goneAfter
}

// dialAnchor connects to the anchor that a data link names, at any of its relay ports, and vouches for the agent.
func (p *Proxy) dialAnchor(ctx context.Context, v proto.Verified, from netip.AddrPort) (net.Conn, error) {
	n, ok := p.state.Doc().Node(v.Target)
	if !ok || len(n.Relay) == 0 {
		return nil, fmt.Errorf("anchor %s has no relay port", v.Target)
	}
	id, key, ok := p.peers.RelayKey(v.Target)
	if !ok {
		return nil, fmt.Errorf("anchor %s: no peer link is up", n.Name)
	}
	var errs []error
	for i, first := range rand.Perm(len(n.Relay)) { // each port gives an edge so many connections only
		c, err := p.host.Dial(ctx, "tcp", netip.AddrPortFrom(n.Backplane.Addr(), n.Relay[first]).String())
		if err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil || i == 1 {
				break
			}
			continue
		}
		h := proto.RelayHeader{Edge: p.state.Node().ID, Agent: v.Agent, Addr: from, Nonce: v.Nonce, Time: p.host.Now(), Key: id}
		if _, err := c.Write(h.Append(nil, key)); err != nil {
			c.Close()
			return nil, fmt.Errorf("anchor %s: %w", n.Name, err)
		}
		return c, nil
	}
	return nil, fmt.Errorf("anchor %s: %w", n.Name, errors.Join(errs...))
}

// serveRelayed listens where other edges pass data links on to this node.
func (p *Proxy) serveRelayed(self proto.FleetNode, a *link.Acceptor, part func(string, func(context.Context) error)) {
	for _, port := range self.Relay {
		part("relayed links", func(ctx context.Context) error {
			l, err := p.host.Listen(ctx, netip.AddrPortFrom(self.Backplane.Addr(), port))
			if err != nil {
				return err
			}
			return a.ServeRelayed(ctx, l, p.peers.VerifyRelay)
		})
	}
}

// cutOffFor is how long a peer link must be down before what goes over that node is ended. Two nodes that only lost
// their connection have a new one sooner.
const cutOffFor = time.Second

// endCutOff ends links that go over nodes to which the way is cut: TCP alone would keep an idle one for a while, and
// the agent can't know.
func (p *Proxy) endCutOff(a *link.Acceptor) {
	for id, s := range p.peers.Up() {
		if !s.Up && !s.Since.IsZero() && time.Since(s.Since) >= cutOffFor {
			if n := a.CloseNode(id); n > 0 {
				p.log.Info("data links ended: the peer cannot be reached", "peer", s.Name, "links", n)
			}
		}
	}
}

// relayed counts the data links that are passed on to another anchor.
func relayed(a *link.Acceptor) (n int) {
	for _, l := range a.Links() {
		if l.Relayed() {
			n++
		}
	}
	return n
}

// via counts, by edge, the data links that others pass on to this node.
func (p *Proxy) via(a *link.Acceptor) map[string]int {
	out := map[string]int{}
	doc := p.state.Doc()
	for _, l := range a.Passed() {
		n, _ := doc.Node(l.Via)
		out[n.Name]++
	}
	return out
}

// services are those of the newest FLEET document, as an anchor needs them.
type services struct {
	byName atomic.Pointer[map[string]anchor.Service]
}

func (s *services) set(doc *proto.FleetDoc) {
	m := make(map[string]anchor.Service, len(doc.Services))
	for _, v := range doc.Services {
		m[v.Name] = anchor.Service{Name: v.Name, Origin: v.Origin, Groups: v.Groups, ProxyProtocol: v.ProxyProtocol, Public: v.Public}
	}
	s.byName.Store(&m)
}

func (s *services) find(name string) (anchor.Service, bool) {
	v, ok := (*s.byName.Load())[name]
	return v, ok
}

// newAnchor makes the anchor of a node.
func newAnchor(p *Proxy, s *services) *anchor.Anchor {
	cfg := anchor.Config{Services: s.find, Dial: p.host.Dial, Log: p.log}
	if h, ok := p.host.(interface {
		Begin(origin string) (anchor.Dialing, bool)
	}); ok {
		cfg.Begin = h.Begin
	}
	return anchor.New(cfg)
}
