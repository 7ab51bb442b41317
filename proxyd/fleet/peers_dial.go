package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"migrationsensor/proto"
)

// wanted is whom this node dials: the signing node, its neighbours and, as an edge, whoever may be the anchor of what
// it passes on.
func (p *Peers) wanted() map[proto.NodeID]proto.FleetNode {
	out := map[proto.NodeID]proto.FleetNode{}
	doc, self := p.cfg.State.Doc(), p.cfg.State.Node().ID
	for _, n := range doc.Nodes {
		if n.Kind == KindSigner {
			out[n.ID] = n
		}
	}
	also := p.cfg.State.neighbours()
	if roleOf(p.cfg.State.Node().Kind) == proto.RoleEdge {
		also = append(also, p.cfg.State.Anchors()...)
	}
	for _, id := range also {
		if n, ok := doc.Node(id); ok {
			out[id] = n
		}
	}
	delete(out, self)
	return out
}

// dialAll keeps a dialler for each wanted peer, and starts over when the fleet changes.
func (p *Peers) dialAll(ctx context.Context) {
	for ctx.Err() == nil {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		p.dropStrangers()
		round, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		n := 0
		for _, node := range p.wanted() {
			n++
			p.wg.Go(func() {
				p.keepDialling(round, node)
				ended <- struct{}{}
			})
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
		cancel()
		for range n {
			<-ended
		}
	}
}

// dropStrangers closes links with whom the documents no longer know, and forgets what they could relay with.
func (p *Peers) dropStrangers() {
	p.dropRelayKeys()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, links := range p.links {
		for _, l := range links {
			if _, err := p.cfg.State.checkPeer(rawCerts(l.conn.ConnectionState()), x509.ExtKeyUsageAny); err != nil {
				l.close(err)
			}
		}
	}
}

func rawCerts(cs tls.ConnectionState) [][]byte {
	var raw [][]byte
	for _, c := range cs.PeerCertificates {
		raw = append(raw, c.Raw)
	}
	return raw
}

const maxBackoff = 10 * time.Second

// keepDialling dials while no link with the node is up, with doubling, jittered pauses.
func (p *Peers) keepDialling(ctx context.Context, node proto.FleetNode) {
	backoff := 100 * time.Millisecond
	for {
		pause := rand.N(backoff)
		if p.up(node.ID) {
			backoff, pause = 100*time.Millisecond, heartbeatEvery
		} else if err := p.dial(ctx, node); err != nil && ctx.Err() == nil {
			p.dialFailed(node, err)
			backoff = min(2*backoff, maxBackoff)
			pause = rand.N(backoff)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (p *Peers) up(id proto.NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links[id]) > 0
}

// dialFailed logs a reason once, not at each attempt.
func (p *Peers) dialFailed(node proto.FleetNode, err error) {
	p.mu.Lock()
	known := p.peerLocked(node.ID)
	again := known.lastError == err.Error()
	known.lastError = err.Error()
	p.mu.Unlock()
	if !again {
		p.log.Warn("peer cannot be reached", "peer", node.Name, "addr", node.Backplane, "err", err)
	}
}

// dial makes one link and starts its goroutines.
func (p *Peers) dial(ctx context.Context, node proto.FleetNode) error {
	dctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	raw, err := p.cfg.Dial(dctx, "tcp", node.Backplane.String())
	if err != nil {
		return err
	}
	conf := p.tlsConfig()
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		got, err := p.cfg.State.checkPeer(rawCerts(cs), x509.ExtKeyUsageServerAuth)
		if err == nil && got.ID != node.ID {
			err = fmt.Errorf("it is node %q, not %q", got.Name, node.Name)
		}
		return err
	}
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(dctx); err != nil {
		raw.Close()
		return err
	}
	p.start(ctx, node, conn)
	return nil
}

// tlsConfig is what both ends share. Names mean nothing here: VerifyConnection does the checks.
func (p *Peers) tlsConfig() *tls.Config {
	cert := p.cfg.State.Certificate()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		InsecureSkipVerify: true, SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true,
	}
}

// accept takes links. Who has not yet shown a certificate costs at most a place among maxStrangers.
func (p *Peers) accept(ctx context.Context, l net.Listener) error {
	strangers := make(chan struct{}, maxStrangers)
	for {
		raw, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				raw.Close()
			}
			return ctx.Err()
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // out of files, or the like: it passes
			p.log.Warn("backplane", "err", err)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case strangers <- struct{}{}:
			p.wg.Go(func() {
				defer func() { <-strangers }()
				p.welcome(ctx, raw)
			})
		default:
			raw.Close()
		}
	}
}

// welcome does the handshake with whoever dialled: a peer, or, at the signing node, a machine that
// wants to join and has no certificate yet.
func (p *Peers) welcome(ctx context.Context, raw net.Conn) {
	hctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conf := p.tlsConfig()
	conf.ClientAuth = tls.RequireAnyClientCert
	if p.cfg.Signer != nil {
		conf.ClientAuth = tls.RequestClientCert
	}
	var node proto.FleetNode
	conf.VerifyConnection = func(cs tls.ConnectionState) (err error) {
		if len(cs.PeerCertificates) > 0 {
			node, err = p.cfg.State.checkPeer(rawCerts(cs), x509.ExtKeyUsageClientAuth)
		}
		return err
	}
	conn := tls.Server(raw, conf)
	if err := conn.HandshakeContext(hctx); err != nil {
		raw.Close()
		p.refuse(raw.RemoteAddr(), err)
		return
	}
	if node.ID.IsZero() {
		p.serveJoin(conn)
		return
	}
	p.start(ctx, node, conn)
}

// refuse counts and, now and then, says who was turned away.
func (p *Peers) refuse(from net.Addr, err error) {
	p.mu.Lock()
	p.refused++
	n := p.refused
	p.mu.Unlock()
	if n&(n-1) == 0 { // 1, 2, 4, 8 …: never a line for each
		p.log.Warn("peer refused", "from", from, "err", err, "refused", n)
	}
}

// serveJoin answers the one ENROL of a machine that has no certificate.
func (p *Peers) serveJoin(conn *tls.Conn) {
	defer conn.NetConn().Close()
	if conn.SetDeadline(time.Now().Add(handshakeTime)) != nil {
		return
	}
	m, err := proto.NewReader(conn, 16<<10).Message()
	if err != nil {
		p.refuse(conn.RemoteAddr(), err)
		return
	}
	enrol, ok := m.(*proto.Enrol)
	if !ok {
		p.refuse(conn.RemoteAddr(), fmt.Errorf("%T in place of ENROL", m))
		return
	}
	if proto.WriteMessage(conn, p.cfg.Signer.Join(enrol)) == nil {
		conn.Close()
	}
}
