package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"migrationsensor/proto"
)

// Handler takes what peers say. Its methods must not block: a link's reader calls them.
type Handler interface {
	// UserInfo and Ratify come from configured neighbours only, and at a bounded rate. What they
	// return is the answer.
	UserInfo(from proto.NodeID, m *proto.UserInfo) proto.Message
	Ratify(from proto.NodeID, m *proto.Ratify) proto.Message
	Heartbeat(from proto.NodeID, m *proto.Heartbeat)
	// Handover is called for each key that a neighbour gives; Peers.Handovers has them too.
	Handover(from proto.NodeID, m *proto.Handover)
	// FleetChanged is called after both documents of a new version have come.
	FleetChanged(doc *proto.FleetDoc, catalogue []byte)
}

// PeersConfig is what Peers need. Signer is set on the signing node; Handler and Heartbeat may be
// nil there.
type PeersConfig struct {
	State     *State
	Signer    *Signer
	Handler   Handler
	Heartbeat func() proto.Heartbeat // what this node says of itself each second
	Dial      func(ctx context.Context, network, addr string) (net.Conn, error)
	Listen    func(ctx context.Context, addr netip.AddrPort) (net.Listener, error)
	// RelayLost is called for a node that may relay no more, neither to this one nor for it: it was revoked, or is
	// declared no longer. It must not block. May be nil.
	RelayLost func(proto.NodeID)
	Log       *slog.Logger
}

// PeerStatus is a peer as this node sees it.
type PeerStatus struct {
	Name      string
	Kind      string
	Up        bool
	Since     time.Time       // of being up or down
	Heartbeat proto.Heartbeat // the last; UnderAttack holds for heartbeatGood only
	Heard     time.Time       // when it came
}

// Peers keeps the mTLS links between this node and the others on the backplane. Each node dials the
// signing node and its neighbours, and takes links from every node of the fleet.
type Peers struct {
	cfg PeersConfig // set once
	log *slog.Logger

	mu      sync.Mutex
	links   map[proto.NodeID][]*peerLink // the newest last
	peers   map[proto.NodeID]*peer
	refused uint64
	told    uint64        // version of the documents that Handler knows
	changed chan struct{} // closed and replaced when the documents change
	relay   relayKeys

	sem chan struct{} // bounds requests to the signer that are being answered
	wg  sync.WaitGroup
}

// peer is what is known of a node beyond its links.
type peer struct {
	given     *proto.Handover
	beat      proto.Heartbeat
	heard     time.Time
	since     time.Time
	limits    *limits
	lastError string // logged once, not at each attempt
}

// Ours.
const (
	heartbeatEvery = time.Second
	silence        = 5 * time.Second // without a byte: the link is dead
	heartbeatGood  = 60 * time.Second
	handshakeTime  = 5 * time.Second
	maxStrangers   = 64 // connections that have not said who they are
	maxMessage     = 4 << 20
	maxSigning     = 16
	sendQueue      = 256
)

// NewPeers checks the configuration; Run does the work.
func NewPeers(cfg PeersConfig) (*Peers, error) {
	if cfg.State == nil && cfg.Signer != nil {
		cfg.State = cfg.Signer.State
	}
	if cfg.State == nil {
		return nil, errors.New("peers: no state")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		cfg.Dial = dialPlain
	}
	if cfg.Listen == nil {
		cfg.Listen = listenPlain
	}
	p := &Peers{
		cfg: cfg, log: cfg.Log,
		links: map[proto.NodeID][]*peerLink{}, peers: map[proto.NodeID]*peer{},
		told: cfg.State.Doc().Version, changed: make(chan struct{}), sem: make(chan struct{}, maxSigning),
		relay: newRelayKeys(),
	}
	if cfg.Signer != nil {
		cfg.Signer.mu.Lock()
		cfg.Signer.changed = p.documentsChanged
		cfg.Signer.mu.Unlock()
	}
	return p, nil
}

func dialPlain(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, network, addr)
}

func listenPlain(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", addr.String())
}

// Run listens on the backplane and keeps the links until ctx is done; nil means a stop that was asked
// for. It returns after every goroutine it started has ended.
func (p *Peers) Run(ctx context.Context) error {
	self, ok := p.cfg.State.Self()
	if !ok {
		return fmt.Errorf("node %q is no longer declared on the signing node", p.cfg.State.Node().Name)
	}
	l, err := p.cfg.Listen(ctx, self.Backplane)
	if err != nil {
		return fmt.Errorf("backplane: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	p.wg.Go(func() { p.dialAll(ctx) })
	p.wg.Go(func() { p.beat(ctx) })
	p.wg.Go(func() { p.renew(ctx) })
	err = p.accept(ctx, l)
	stopped := ctx.Err() != nil
	cancel()
	l.Close()
	p.closeAll()
	p.wg.Wait()
	if stopped {
		return nil
	}
	return fmt.Errorf("backplane: %w", err)
}

func (p *Peers) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, links := range p.links {
		for _, l := range links {
			l.close(net.ErrClosed)
		}
	}
}

func (p *Peers) peerLocked(id proto.NodeID) *peer {
	if p.peers[id] == nil { // ids come from FLEET, so the map is bounded by it
		p.peers[id] = &peer{limits: newLimits()}
	}
	return p.peers[id]
}

// Up returns every other node of the fleet that this one has or should have a link with.
func (p *Peers) Up() map[proto.NodeID]PeerStatus {
	doc := p.cfg.State.Doc()
	wanted := p.wanted()
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[proto.NodeID]PeerStatus{}
	for _, n := range doc.Nodes {
		_, want := wanted[n.ID]
		up := len(p.links[n.ID]) > 0
		known := p.peers[n.ID]
		if n.ID == p.cfg.State.Node().ID || !want && !up && known == nil {
			continue
		}
		st := PeerStatus{Name: n.Name, Kind: n.Kind, Up: up}
		if known != nil {
			st.Since, st.Heartbeat, st.Heard = known.since, known.beat, known.heard
			st.Heartbeat.UnderAttack = st.Heartbeat.UnderAttack && time.Since(known.heard) < heartbeatGood
		}
		out[n.ID] = st
	}
	return out
}

// Handovers returns the keys that neighbours have given to this edge: with them it makes a client's
// keys for the neighbour by itself. They outlive the link.
func (p *Peers) Handovers() map[proto.NodeID]proto.Handover {
	neighbours := p.cfg.State.neighbours()
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[proto.NodeID]proto.Handover{}
	for id, known := range p.peers {
		if known.given != nil && slices.Contains(neighbours, id) {
			out[id] = *known.given
		}
	}
	return out
}

// ErrDown says that there is no link to the node.
var ErrDown = errors.New("no peer link is up")

// Request sends m to a node and returns its answer, over the newest link that is up. It does not
// repeat: what is urgent, the caller repeats.
func (p *Peers) Request(ctx context.Context, to proto.NodeID, m proto.Message) (proto.Message, error) {
	p.mu.Lock()
	links := p.links[to]
	var l *peerLink
	if len(links) > 0 {
		l = links[len(links)-1]
	}
	p.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("node %s: %w", p.name(to), ErrDown)
	}
	answer, err := l.request(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", p.name(to), err)
	}
	return answer, nil
}

func (p *Peers) name(id proto.NodeID) string {
	n, _ := p.cfg.State.Doc().Node(id)
	return cmp.Or(n.Name, id.String())
}

// Broadcast sends m, which has no answer, on every link. A peer whose queue is full misses it.
func (p *Peers) Broadcast(m proto.Message) {
	b := proto.AppendMessage(nil, m, 0)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, links := range p.links {
		links[len(links)-1].enqueue(b)
	}
}

// Enrol passes an agent's request from this entry to the signing node. The message is never nil: it
// is for the agent. An error says what to log.
func (p *Peers) Enrol(ctx context.Context, m *proto.Enrol) (proto.Message, error) {
	return p.sign(ctx, m.Token, m)
}

// Renew passes on an agent's request for a new certificate; agent is who the control link verified.
func (p *Peers) Renew(ctx context.Context, agent proto.AgentID, m *proto.Renew) (proto.Message, error) {
	return p.sign(ctx, agent, m)
}

func (p *Peers) sign(ctx context.Context, agent proto.AgentID, m proto.Message) (proto.Message, error) {
	var signer proto.NodeID
	for _, n := range p.cfg.State.Doc().Nodes {
		if n.Kind == KindSigner {
			signer = n.ID
		}
	}
	answer, err := p.Request(ctx, signer, &proto.Sign{Agent: agent, Kind: m.Type(), Body: m.AppendPayload(nil)})
	if err != nil {
		return &proto.EnrolFail{Later: true, Reason: reasonAway}, fmt.Errorf("pass a request to the signing node: %w", err)
	}
	ok, is := answer.(*proto.SignOK)
	if !is {
		return &proto.EnrolFail{Later: true, Reason: reasonBusy}, fmt.Errorf("the signing node answered with %T", answer)
	}
	switch ok.Kind {
	case proto.TypeEnrolOK, proto.TypeEnrolFail, proto.TypeRenewOK:
		m, err := proto.ParseMessage(ok.Kind, ok.Body)
		if err != nil {
			return &proto.EnrolFail{Later: true, Reason: reasonBusy}, fmt.Errorf("answer of the signing node: %w", err)
		}
		return m, nil
	}
	return &proto.EnrolFail{Later: true, Reason: reasonBusy}, fmt.Errorf("the signing node answered with frame type %#x", uint8(ok.Kind))
}
