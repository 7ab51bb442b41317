package fleet

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"

	"migrationsensor/proto"
)

// start takes a link whose peer is verified into use.
func (p *Peers) start(ctx context.Context, node proto.FleetNode, conn *tls.Conn) {
	l := newPeerLink(node, conn)
	p.mu.Lock()
	if ctx.Err() != nil {
		p.mu.Unlock()
		l.close(ctx.Err())
		return
	}
	known := p.peerLocked(node.ID)
	for len(p.links[node.ID]) >= 4 { // two is the most that two honest nodes make
		p.links[node.ID][0].close(errors.New("too many links of one peer"))
		p.links[node.ID] = p.links[node.ID][1:]
	}
	first := len(p.links[node.ID]) == 0
	p.links[node.ID] = append(p.links[node.ID], l)
	p.relay.add(l)
	if first {
		known.since, known.lastError = time.Now(), ""
	}
	p.mu.Unlock()
	if first {
		p.log.Info("peer up", "peer", node.Name, "addr", conn.RemoteAddr())
	}
	l.enqueue(proto.AppendMessage(nil, &proto.Hello{Name: p.cfg.State.Node().Name, FleetVersion: p.cfg.State.Doc().Version}, 0))
	if h, ok := p.cfg.State.handover(node.ID); ok {
		l.enqueue(proto.AppendMessage(nil, h, 0))
	}
	if p.cfg.Heartbeat != nil { // it need not wait a second to know this node's state
		b := p.cfg.Heartbeat()
		l.enqueue(proto.AppendMessage(nil, &b, 0))
	}
	p.wg.Go(l.write)
	p.wg.Go(func() {
		err := l.read(p.handle)
		l.close(err)
		p.ended(l)
	})
}

// ended forgets a link.
func (p *Peers) ended(l *peerLink) {
	p.mu.Lock()
	id := l.node.ID
	p.links[id] = slices.DeleteFunc(p.links[id], func(o *peerLink) bool { return o == l })
	p.relay.ended(l, p.cfg.State.now())
	last := len(p.links[id]) == 0
	if last {
		delete(p.links, id)
		p.peerLocked(id).since = time.Now()
	}
	p.mu.Unlock()
	if last {
		l.mu.Lock()
		err := l.err
		l.mu.Unlock()
		p.log.Info("peer down", "peer", l.node.Name, "err", err)
	}
}

// handle takes one message of a peer. An error ends the link.
func (p *Peers) handle(l *peerLink, id uint32, m proto.Message) error {
	p.mu.Lock()
	lim := p.peerLocked(l.node.ID).limits
	p.mu.Unlock()
	h := p.cfg.Handler
	switch m := m.(type) {
	case *proto.Hello:
		if m.FleetVersion < p.cfg.State.Doc().Version {
			p.sendDocs(l)
		}
	case *proto.Heartbeat:
		p.mu.Lock()
		known := p.peerLocked(l.node.ID)
		known.beat, known.heard = *m, time.Now()
		p.mu.Unlock()
		if h != nil {
			h.Heartbeat(l.node.ID, m)
		}
	case *proto.UserInfo:
		p.reply(l, id, p.fromNeighbour(l, lim.userInfo.Allow, func() proto.Message { return h.UserInfo(l.node.ID, m) }))
	case *proto.Ratify:
		p.reply(l, id, p.fromNeighbour(l, lim.ratify.Allow, func() proto.Message { return h.Ratify(l.node.ID, m) }))
	case *proto.Handover:
		p.takeHandover(l, m)
	case *proto.FleetMsg:
		return p.takeDoc(lim.docs.Allow, func() (bool, error) { return p.cfg.State.setFleet(m.Doc) })
	case *proto.CatalogueMsg:
		return p.takeDoc(lim.docs.Allow, func() (bool, error) { return p.cfg.State.setCatalogue(m.Doc) })
	case *proto.Sign:
		p.background(l, id, lim.sign.Allow, func() proto.Message { return p.answerSign(l.node, m) })
	case *proto.Renew:
		p.background(l, id, lim.sign.Allow, func() proto.Message {
			if p.cfg.Signer == nil {
				return &proto.EnrolFail{Later: true, Reason: reasonAway}
			}
			return p.cfg.Signer.RenewNode(l.node, m)
		})
	case *proto.Revoke: // agents cannot be revoked yet; nodes are by FLEET
	default:
		return errors.New("not a message between nodes")
	}
	return nil
}

func (p *Peers) reply(l *peerLink, id uint32, m proto.Message) {
	if m != nil && id != 0 {
		l.enqueue(proto.AppendMessage(nil, m, id)) // full: the peer asks again
	}
}

// fromNeighbour lets only configured neighbours open this node's door, and at a bounded rate.
func (p *Peers) fromNeighbour(l *peerLink, allow func() bool, answer func() proto.Message) proto.Message {
	switch {
	case !slices.Contains(p.cfg.State.neighbours(), l.node.ID):
		return &proto.Busy{Reason: fmt.Sprintf("%s is not a neighbour of %s", l.node.Name, p.cfg.State.Node().Name)}
	case !allow():
		return &proto.Busy{Reason: "too many notifications"}
	case p.cfg.Handler == nil:
		return &proto.Busy{Reason: "not an edge"}
	}
	return answer()
}

// takeHandover keeps the key that a neighbour gives.
func (p *Peers) takeHandover(l *peerLink, m *proto.Handover) {
	p.mu.Lock()
	p.peerLocked(l.node.ID).given = m // kept in any case: our FLEET may be older than its
	p.mu.Unlock()
	if p.cfg.Handler != nil && slices.Contains(p.cfg.State.neighbours(), l.node.ID) {
		p.cfg.Handler.Handover(l.node.ID, m)
	}
}

// takeDoc takes a document, and passes it on if it is new.
func (p *Peers) takeDoc(allow func() bool, set func() (bool, error)) error {
	if !allow() {
		return nil // checking a signature costs; HELLO brings it again
	}
	changed, err := set()
	if err != nil {
		return err
	}
	if changed {
		p.documentsChanged()
	}
	return nil
}

// documentsChanged tells everybody once both documents are of one new version. Nodes pass them on to
// each other: they are signed, and not every node reaches the signing node.
func (p *Peers) documentsChanged() {
	s := p.cfg.State
	s.mu.RLock()
	doc, catalogue, both := &s.doc.FleetDoc, s.catalogue, s.doc.Version == s.catVer
	s.mu.RUnlock()
	p.mu.Lock()
	if !both || doc.Version <= p.told {
		p.mu.Unlock()
		return
	}
	p.told = doc.Version
	defer p.dropRelayKeys()
	close(p.changed) // dialAll drops whom the documents no longer know, and dials the new ones
	p.changed = make(chan struct{})
	var all []*peerLink
	for id := range p.peers {
		if _, ok := doc.Node(id); !ok {
			delete(p.peers, id)
		}
	}
	for _, links := range p.links {
		all = append(all, links[len(links)-1])
	}
	p.mu.Unlock()
	p.log.Info("fleet changed", "version", doc.Version)
	for _, l := range all {
		p.sendDocs(l)
		if h, ok := s.handover(l.node.ID); ok { // neighbours and their numbers may be others now
			l.enqueue(proto.AppendMessage(nil, h, 0))
		}
	}
	if p.cfg.Handler != nil {
		p.cfg.Handler.FleetChanged(doc, catalogue)
	}
}

func (p *Peers) sendDocs(l *peerLink) {
	s := p.cfg.State
	s.mu.RLock()
	fleet, catalogue := s.fleetRaw, s.catalogue
	s.mu.RUnlock()
	l.enqueue(proto.AppendMessage(nil, &proto.FleetMsg{Doc: fleet}, 0))
	l.enqueue(proto.AppendMessage(nil, &proto.CatalogueMsg{Doc: catalogue}, 0))
}

// background answers what needs the disk, away from the link's reader, maxSigning at a time.
func (p *Peers) background(l *peerLink, id uint32, allow func() bool, answer func() proto.Message) {
	busy := &proto.EnrolFail{Later: true, Reason: reasonBusy}
	if !allow() {
		p.reply(l, id, busy)
		return
	}
	select {
	case p.sem <- struct{}{}:
		p.wg.Go(func() {
			defer func() { <-p.sem }()
			p.reply(l, id, answer())
		})
	default:
		p.reply(l, id, busy)
	}
}

// answerSign answers what an entry passes on for an agent.
func (p *Peers) answerSign(from proto.FleetNode, m *proto.Sign) proto.Message {
	var answer proto.Message = &proto.EnrolFail{Reason: reasonMessage}
	switch {
	case p.cfg.Signer == nil || roleOf(from.Kind) != proto.RoleEdge:
		answer = &proto.EnrolFail{Later: true, Reason: reasonAway}
	case m.Kind == proto.TypeEnrol || m.Kind == proto.TypeRenew:
		inner, err := proto.ParseMessage(m.Kind, m.Body)
		if err != nil {
			break
		}
		switch inner := inner.(type) {
		case *proto.Enrol:
			if inner.Token == m.Agent {
				answer = p.cfg.Signer.Enrol(inner)
			}
		case *proto.Renew:
			answer = p.cfg.Signer.RenewAgent(m.Agent, inner)
		}
	}
	return &proto.SignOK{Kind: answer.Type(), Body: answer.AppendPayload(nil)}
}

// beat sends this node's heartbeat each second.
func (p *Peers) beat(ctx context.Context) {
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			var b proto.Heartbeat
			if p.cfg.Heartbeat != nil {
				b = p.cfg.Heartbeat()
			}
			m := proto.AppendMessage(nil, &b, 0)
			p.mu.Lock()
			for _, links := range p.links { // on each: a link without a byte is dead
				for _, l := range links {
					l.enqueue(m)
				}
			}
			p.mu.Unlock()
		}
	}
}

// renew gets this node's next certificate in time; each hour is often enough.
func (p *Peers) renew(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := p.renewOnce(ctx); err != nil && ctx.Err() == nil {
			_, left := p.cfg.State.due()
			p.log.Warn("certificate not renewed", "err", err, "left", left.Round(time.Hour))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// renewOnce renews if the certificate has lived two thirds of its time.
func (p *Peers) renewOnce(ctx context.Context) error {
	due, _ := p.cfg.State.due()
	if !due {
		return nil
	}
	if p.cfg.Signer != nil {
		return p.cfg.Signer.renewSelf()
	}
	csr, err := newRequest(p.cfg.State.Certificate().PrivateKey.(ed25519.PrivateKey))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	for _, n := range p.cfg.State.Doc().Nodes {
		if n.Kind != KindSigner {
			continue
		}
		answer, err := p.Request(ctx, n.ID, &proto.Renew{CSR: csr})
		if err != nil {
			return err
		}
		switch m := answer.(type) {
		case *proto.RenewOK:
			p.log.Info("certificate renewed", "node", p.cfg.State.Node().Name)
			return p.cfg.State.takeRenewed(m)
		case *proto.EnrolFail:
			return errors.New(m.Reason)
		}
	}
	return ErrDown
}
