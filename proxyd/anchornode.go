package proxyd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"golang.org/x/sync/errgroup"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proxyd/anchor"
)

// anchorNode is a node of kind anchor: it faces nobody but the fleet's edges, which pass data links on to it, and
// the origins. So it needs no firewall, no SYN Checker and no detector, and no right on the host.
type anchorNode struct {
	// set once
	p        *Proxy
	log      *slog.Logger
	self     proto.FleetNode
	acceptor *link.Acceptor
	anchor   *anchor.Anchor

	services services
}

func newAnchorNode(p *Proxy) (*anchorNode, error) {
	self, ok := p.state.Self()
	if !ok {
		return nil, fmt.Errorf("the signing node no longer declares this node (%s): declare it again, or join under another name", p.state.Node().Name)
	}
	n := &anchorNode{p: p, log: p.log, self: self}
	n.services.set(p.state.Doc())
	n.anchor = newAnchor(p, &n.services)
	n.acceptor = &link.Acceptor{
		Creds: link.Credentials{CA: p.state.CA(), Current: p.state.Certificate, Fleet: p.state.Node().Fleet},
		Node:  self.ID, Data: n.data, Clock: p.host.Now, Log: p.log,
	}
	if len(self.Relay) == 0 {
		p.log.Warn("no relay ports are declared for this anchor: no edge can pass a link on to it; update the signing node")
	}
	return n, nil
}

// start adds the node's parts to the group.
func (n *anchorNode) start(ctx context.Context, g *errgroup.Group) {
	part := func(name string, run func(context.Context) error) {
		g.Go(func() error {
			if err := run(ctx); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	part("anchor", n.anchor.Run)
	n.p.serveRelayed(n.self, n.acceptor, part)
}

// data ends a data link.
func (n *anchorNode) data(ctx context.Context, l *link.Link, v proto.Verified) {
	if err := n.anchor.Serve(ctx, l, l.Peer, l.Remote()); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		n.log.Debug("data link ended", "agent", v.Agent, "addr", l.Remote(), "via", l.Via, "err", err)
	}
}

// UserInfo and Ratify are for edges.
func (n *anchorNode) UserInfo(proto.NodeID, *proto.UserInfo) proto.Message {
	return &proto.Busy{Reason: "not an edge"}
}

// Ratify is for edges.
func (n *anchorNode) Ratify(proto.NodeID, *proto.Ratify) proto.Message {
	return &proto.Busy{Reason: "not an edge"}
}

// Heartbeat is what a peer says of itself; Peers keep it.
func (n *anchorNode) Heartbeat(proto.NodeID, *proto.Heartbeat) {}

// Handover is for edges.
func (n *anchorNode) Handover(proto.NodeID, *proto.Handover) {}

// FleetChanged takes new services over; streams that are open stay where they are.
func (n *anchorNode) FleetChanged(doc *proto.FleetDoc, _ []byte) {
	self, ok := doc.Node(n.self.ID)
	if !ok || self.Kind != n.self.Kind || self.Backplane != n.self.Backplane || !slices.Equal(self.Relay, n.self.Relay) {
		n.log.Warn("the signing node declares this node differently now: restart proxyd to follow")
	}
	n.services.set(doc)
}

// heartbeat is what this node says of itself each second.
func (n *anchorNode) heartbeat() proto.Heartbeat {
	n.p.endCutOff(n.acceptor)
	return proto.Heartbeat{Load: uint16(min(n.anchor.Streams()*1000/maxStreams, 1000)), State: string(Active)}
}

func (n *anchorNode) fill(st *Status) {
	s, a := n.anchor.Stats(), n.acceptor.Stats()
	st.Sessions, st.Streams, st.Via = s.Sessions, s.Streams, n.p.via(n.acceptor)
	st.Links = len(n.acceptor.Passed())
	st.Counts = map[string]uint64{
		"relay_headers": a.Passed, "relay_refused": a.BadRelay, "tls_failed": a.TLSFailed, "tls_later": a.NoTurn,
		"streams_opened": s.Opened, "streams_refused": s.Refused, "streams_timed_out": s.TimedOut, "streams_denied": s.Denied,
	}
}
