package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"migrationsensor/proto"
)

// Bounds of what a stranger may cost (the first is the protocol's, the others ours).
const (
	preambleTimeout = 2 * time.Second
	defaultPending  = 1024    // connections without a verified preamble
	perSource       = 8       // of them from one address (IPv6: one /64)
	muteBytes       = 4 << 10 // read and dropped of a wrong one, so that its end is no reset
	drainTime       = time.Second
	defaultLinks    = 1 << 16
	fullAfter       = time.Second // what BUSY tells when all links are taken
)

// Acceptor takes links in at a proxy's link port. Its fields are set before Serve.
type Acceptor struct {
	Creds  Credentials
	Node   proto.NodeID
	Keys   *proto.Keyring
	Nonces *proto.NonceSet // shared with the SYN Checker; nil: its own

	// Decide answers a verified preamble with a sealed reply; nil from it (or no Decide) lets TLS go on.
	Decide func(v proto.Verified, from netip.AddrPort) *proto.Reply
	// Revoked agents are rejected. May be nil.
	Revoked func(proto.AgentID) bool

	// Control, Data and Enrol own the link until they return; then it is closed. ctx ends with the
	// link's Close by the Acceptor. A kind without its function is rejected like a wrong preamble.
	Control func(ctx context.Context, l *Link, v proto.Verified)
	Data    func(ctx context.Context, l *Link, v proto.Verified)
	Enrol   func(ctx context.Context, l net.Conn, v proto.Verified)

	// Relay connects to the anchor that a data link names in this node's place, and writes the relay header; the
	// Acceptor passes the rest on. It has until ctx is done; an error is answered with a sealed RETRY. May be nil.
	Relay func(ctx context.Context, v proto.Verified, from netip.AddrPort) (anchor net.Conn, err error)
	// Anchors reports whether a data link may be passed on to the node. May be nil: to none.
	Anchors func(proto.NodeID) bool
	// Gone reports whether a node that can't be reached, or that Anchors knows nothing of, is to be given up: the answer
	// is REJECT (anchor gone). May be nil: never; then it is RETRY, or silence.
	Gone func(proto.NodeID) bool

	// Stranger is told of those who get nothing: their address is their own, since they completed a handshake, and why is a
	// word: mute, bad_magic, bad_key, bad_tag or bad_mac. It must not block. May be nil.
	Stranger func(from netip.Addr, why string)

	Clock      func() time.Time // nil: time.Now
	MaxPending int              // 0: 1024
	MaxLinks   int              // 0: 65536
	Log        *slog.Logger

	stats counters

	once    sync.Once
	pending *pending
	relayed *pending            // from other edges, whose header is not verified yet
	scarce  func(net.Conn) bool // whether descriptors are; tests set it
	live    live
	turns   *turns
	opening opening
}

func (a *Acceptor) init() {
	a.once.Do(func() {
		if a.Nonces == nil {
			a.Nonces = proto.NewNonceSet()
		}
		if a.Clock == nil {
			a.Clock = time.Now
		}
		if a.MaxPending == 0 {
			a.MaxPending = defaultPending
		}
		if a.MaxLinks == 0 {
			a.MaxLinks = defaultLinks
		}
		if a.Log == nil {
			a.Log = slog.New(slog.DiscardHandler)
		}
		if a.scarce == nil {
			a.scarce = scarce
		}
		a.turns = newTurns()
		a.pending = newPending(a.MaxPending, perSource)
		a.relayed = newPending(a.MaxPending, a.MaxPending) // few sources, each with all of its agents
	})
}

// Listen opens a link port. Without MPTCP: it would show in the SYN-ACK.
func Listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp", at.String())
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen for links on %s: %w (another program has port %d: stop it, see `ss -ltnp sport = :%d`, or set another link_port)", at, err, at.Port(), at.Port())
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen for links on %s: %w (no interface has this address: add it, or correct `public` of the node)", at, err)
	case err != nil:
		return nil, fmt.Errorf("listen for links on %s: %w", at, err)
	}
	return l, nil
}

// Serve takes links in until ctx is done or the listener is closed. It closes the listener, and
// returns when every link has ended; nil means a stop that was asked for.
func (a *Acceptor) Serve(ctx context.Context, l net.Listener) error {
	a.init()
	return a.serveAll(ctx, l, a.serve)
}

// serveAll gives each connection of a listener to serve, which closes it.
func (a *Acceptor) serveAll(ctx context.Context, l net.Listener, serve func(context.Context, net.Conn)) error {
	deferring(l)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	err := a.acceptLoop(ctx, l, func(c net.Conn) { wg.Go(func() { serve(ctx, c) }) })
	cancel()
	l.Close()
	wg.Wait()
	return err
}

const (
	acceptBackoff    = 5 * time.Millisecond
	maxAcceptBackoff = time.Second
)

// acceptLoop outlives what the kernel may say under pressure: a full descriptor table, a client gone.
func (a *Acceptor) acceptLoop(ctx context.Context, l net.Listener, serve func(net.Conn)) error {
	var wait time.Duration
	var warned time.Time
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			wait = 0
			a.stats.accepted.Add(1)
			serve(c)
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept links: %w", err)
		}
		a.stats.acceptErrors.Add(1)
		if errors.Is(err, syscall.ECONNABORTED) {
			continue
		}
		if now := time.Now(); now.Sub(warned) >= time.Second {
			warned = now
			a.Log.Warn("accept links", "addr", l.Addr(), "err", err)
		}
		wait = min(max(2*wait, acceptBackoff), maxAcceptBackoff)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// serve takes one connection from its first byte to its end.
func (a *Acceptor) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	from := addrPort(c.RemoteAddr())
	p, ok := a.pending.add(c, from.Addr(), &a.stats)
	if !ok {
		return
	}
	v, reply, ok := a.greet(c, from)
	switch {
	case !ok:
		mute(c)
		a.pending.remove(p)
	case reply != nil:
		a.pending.remove(p)
		a.stats.sealed.Add(1)
		sealed(c, v, *reply, from)
	case v.Target != a.Node:
		a.pending.remove(p)
		a.relay(ctx, c, v, from)
	default:
		a.pending.remove(p)
		if err := a.establish(ctx, &Link{Kind: v.Kind, raw: c}, v.Verified); errors.Is(err, errNoTurn) {
			v.drained = true
			a.stats.sealed.Add(1)
			sealed(c, v, proto.Reply{Kind: proto.ReplyRetry, After: retryLeast + rand.N(retrySpread)}, from)
		}
	}
}

func (a *Acceptor) stranger(from netip.AddrPort, why string) {
	if a.Stranger != nil {
		a.Stranger(from.Addr(), why)
	}
}

// A greeting is a verified preamble and its bytes.
type greeting struct {
	proto.Verified
	raw     [proto.PreambleLen]byte
	drained bool // what followed the preamble has been read already
}

// greet reads exactly the preamble and decides. Not ok: whoever it is hears nothing.
func (a *Acceptor) greet(c net.Conn, from netip.AddrPort) (g greeting, reply *proto.Reply, ok bool) {
	c.SetDeadline(time.Now().Add(preambleTimeout))
	if _, err := io.ReadFull(c, g.raw[:]); err != nil {
		a.stats.short.Add(1)
		a.stranger(from, "mute")
		return g, nil, false
	}
	now := a.Clock()
	var err error
	g.Verified, err = a.Keys.Verify(g.raw[:], a.Node, now)
	switch {
	case errors.Is(err, proto.ErrClock):
		a.stats.clock.Add(1)
		return g, &proto.Reply{Kind: proto.ReplyReject, Code: proto.RejectClock, ServerTime: now}, true
	case errors.Is(err, proto.ErrVersion):
		a.stats.version.Add(1)
		return g, &proto.Reply{Kind: proto.ReplyReject, Code: proto.RejectVersion}, true
	case err != nil:
		a.stranger(from, a.stats.wrong(err))
		return g, nil, false
	case g.Kind == proto.KindData && g.Target != a.Node && a.Relay != nil && !a.serves(g.Verified) && a.gone(g.Target):
		a.stats.unreached.Add(1)
		return g, &proto.Reply{Kind: proto.ReplyReject, Code: proto.RejectAnchor}, true
	case !a.serves(g.Verified):
		a.stats.badKind.Add(1)
		return g, nil, false
	}
	if fresh, same := a.Nonces.Seen(g.Nonce, from.Addr(), now); !fresh && !same {
		a.stats.replayed.Add(1)
		return g, nil, false
	}
	if a.Revoked != nil && a.Revoked(g.Agent) {
		a.stats.revoked.Add(1)
		return g, &proto.Reply{Kind: proto.ReplyReject, Code: proto.RejectRevoked}, true
	}
	if a.Decide != nil {
		reply = a.Decide(g.Verified, from)
	}
	if reply == nil && g.Kind == proto.KindProbe {
		a.stats.probes.Add(1)
		return g, &proto.Reply{Kind: proto.ReplyGo}, true
	}
	if reply == nil && a.live.full(a.MaxLinks) {
		a.stats.full.Add(1)
		reply = &proto.Reply{Kind: proto.ReplyBusy, After: fullAfter}
	}
	return g, reply, true
}

func (a *Acceptor) gone(anchor proto.NodeID) bool { return a.Gone != nil && a.Gone(anchor) }

// serves reports whether this node ends such a link itself, or passes it on.
func (a *Acceptor) serves(v proto.Verified) bool {
	if v.Target != a.Node {
		return v.Kind == proto.KindData && a.Relay != nil && a.Anchors != nil && a.Anchors(v.Target)
	}
	switch v.Kind {
	case proto.KindControl:
		return a.Control != nil
	case proto.KindData, proto.KindProbe:
		return a.Data != nil
	case proto.KindEnrol:
		return a.Enrol != nil
	}
	return false
}

// mute says nothing, reads on for a little so that the end is no reset, and lets its caller close.
func mute(c net.Conn) {
	_, _ = io.CopyN(io.Discard, c, muteBytes) // its end, its deadline or the bound: all the same
}

// handshake does TLS on a connection that began well. After errNoTurn nothing was said on it.
func (a *Acceptor) handshake(ctx context.Context, l *Link, v proto.Verified) error {
	l.raw.SetDeadline(time.Time{})
	ctx, done := context.WithTimeout(ctx, stepTimeout)
	defer done()
	c := &inTurn{Conn: l.raw, turns: a.turns, ctx: ctx, answered: a.opening.begin(v.Agent)}
	defer c.end()
	l.Conn = tls.Server(c, a.Creds.server(v, a.Clock(), &l.Peer))
	err := l.HandshakeContext(ctx)
	switch {
	case errors.Is(err, errNoTurn) && !c.begun:
		a.stats.noTurn.Add(1)
	case err != nil:
		a.stats.tlsFailed.Add(1)
		err = fmt.Errorf("handshake: %v", err) // another errNoTurn is one that came in the middle
	default:
		return nil
	}
	a.Log.Debug("link refused", "agent", v.Agent, "from", l.Remote(), "kind", v.Kind, "err", err)
	return err
}

// establish does the handshake and hands the link to its owner. An error is the handshake's.
func (a *Acceptor) establish(ctx context.Context, l *Link, v proto.Verified) error {
	l.Anchor = a.Node
	if err := a.handshake(ctx, l, v); err != nil {
		return err
	}
	tune(l.raw, v.Kind)
	l.Since = a.Clock()
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e := &entry{
		Live: Live{Agent: v.Agent, Addr: l.Remote(), Local: addrPort(l.raw.LocalAddr()), Kind: l.Kind, Since: l.Since, Via: l.Via},
		end:  func() { cancel(); l.Abort() },
	}
	a.live.add(e)
	defer a.live.remove(e)
	switch v.Kind {
	case proto.KindControl:
		a.stats.control.Add(1)
		a.Control(lctx, l, v)
	case proto.KindData:
		a.stats.data.Add(1)
		a.Data(lctx, l, v)
	case proto.KindEnrol:
		a.stats.enrol.Add(1)
		a.Enrol(lctx, l, v)
	}
	l.Close()
	return nil
}
