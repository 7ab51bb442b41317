package fleet

import (
	"crypto/x509"
	"time"

	"migrationsensor/proto"
)

// relayKeyOf names a key: the node at the other end, and which of the links with it.
type relayKeyOf struct {
	node proto.NodeID
	id   proto.RelayKeyID
}

// relayKey is what the ends of a peer link authenticate relay headers with.
type relayKey struct {
	key   proto.RelayKey
	certs [][]byte  // of the peer: when they are revoked the key is good no more
	until time.Time // when its link has ended; zero: it lives
}

// relayKeys are the keys of all live peer links, and of those that ended a moment ago. Peers' lock guards it.
type relayKeys struct {
	keys   map[relayKeyOf]*relayKey
	nonces *proto.NonceSet // has a lock of its own
}

func newRelayKeys() relayKeys {
	return relayKeys{keys: map[relayKeyOf]*relayKey{}, nonces: proto.NewRelayNonces()}
}

// add takes the key from a new link. One whose TLS gives none (that of TLS 1.3 always does) relays nothing.
func (r *relayKeys) add(l *peerLink) {
	cs := l.conn.ConnectionState()
	id, key, err := proto.ExportRelayKey(cs.ExportKeyingMaterial)
	if err != nil {
		return
	}
	l.key = relayKeyOf{l.node.ID, id}
	r.keys[l.key] = &relayKey{key: key, certs: rawCerts(cs)}
}

// ended lets a link's key live on for what is under way. It is also the moment to forget those before it, of which a
// node has few: it has four links at most.
func (r *relayKeys) ended(l *peerLink, now time.Time) {
	for of, k := range r.keys {
		if !k.until.IsZero() && !now.Before(k.until) {
			delete(r.keys, of)
		}
	}
	if k := r.keys[l.key]; k != nil {
		k.until = now.Add(proto.RelayKeyFor)
	}
}

// RelayKey returns the key for headers to a node, from the newest link with it; false: no link is up.
func (p *Peers) RelayKey(to proto.NodeID) (proto.RelayKeyID, proto.RelayKey, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	links := p.links[to]
	if len(links) == 0 {
		return proto.RelayKeyID{}, proto.RelayKey{}, false
	}
	of := links[len(links)-1].key
	k := p.relay.keys[of]
	if k == nil {
		return proto.RelayKeyID{}, proto.RelayKey{}, false
	}
	return of.id, k.key, true
}

// VerifyRelay checks a relay header in full. It is good only from the edge at the other end of the key's link, and once.
func (p *Peers) VerifyRelay(b []byte) (proto.RelayHeader, bool) {
	h, err := proto.ParseRelayHeader(b)
	if err != nil {
		return h, false
	}
	now := p.cfg.State.now()
	p.mu.Lock()
	k := p.relay.keys[relayKeyOf{h.Edge, h.Key}]
	p.mu.Unlock()
	if k == nil || !k.until.IsZero() && !now.Before(k.until) || h.Verify(b, k.key, now) != nil {
		return h, false
	}
	if n, ok := p.cfg.State.Doc().Node(h.Edge); !ok || roleOf(n.Kind) != proto.RoleEdge {
		return h, false // an anchor has nobody to relay for
	}
	fresh, _ := p.relay.nonces.Seen(h.Nonce, h.Addr.Addr(), now)
	return h, fresh
}

// dropRelayKeys forgets, at once, the keys of nodes that are revoked or no longer declared.
func (p *Peers) dropRelayKeys() {
	lost := map[proto.NodeID]bool{}
	p.mu.Lock()
	for of, k := range p.relay.keys {
		if _, err := p.cfg.State.checkPeer(k.certs, x509.ExtKeyUsageAny); err != nil {
			delete(p.relay.keys, of)
			lost[of.node] = true
		}
	}
	p.mu.Unlock()
	for id := range lost {
		if p.cfg.RelayLost != nil {
			p.cfg.RelayLost(id)
		}
	}
}
