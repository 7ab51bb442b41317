package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"migrationsensor/proto"
)

// Settings of a Dialer that are not set (ours).
const (
	stepTimeout  = 5 * time.Second        // each step: connect, handshake
	familyDelay  = 250 * time.Millisecond // IPv6 begins that long after IPv4 (RFC 8305's delay)
	keyedTimeout = time.Second            // a keyed SYN's answer, or 3 SRTT; then the kernel would drop its data anyway
	plainFor     = 10 * time.Minute       // no keyed SYNs after the network ate one
)

// Dialer opens links for an agent. Its fields are set once; it is safe for concurrent use.
type Dialer struct {
	Creds Credentials

	// DialContext makes TCP connections; nil: the kernel, with Control and what a first flight needs.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Control prepares each of the Dialer's own sockets, UDP too, before it is used: the agent's bypass.
	Control func(network, address string, c syscall.RawConn) error
	// Knock sends one datagram; nil: the kernel.
	Knock func(ctx context.Context, to netip.AddrPort, b []byte) error

	Clock    func() time.Time     // nil: time.Now
	SRTT     func() time.Duration // nil or 0: unknown; when to dial an unverified target again
	KeyedSYN bool                 // carry the first flight in the SYN (Linux; ignored with DialContext)
	Timeout  time.Duration        // of each step; 0: 5 s
	Log      *slog.Logger

	skew  atomic.Int64              // from a sealed REJECT(clock): proxy's clock minus ours
	plain atomic.Pointer[time.Time] // no keyed SYN before
}

// Skew is how far the proxies' clock is from this machine's, as the last REJECT(clock) told. It is
// added to the time of every preamble.
func (d *Dialer) Skew() time.Duration { return time.Duration(d.skew.Load()) }

func (d *Dialer) clock() time.Time {
	if d.Clock != nil {
		return d.Clock()
	}
	return time.Now()
}

func (d *Dialer) now() time.Time { return d.clock().Add(d.Skew()) }

func (d *Dialer) timeout() time.Duration {
	if d.Timeout > 0 {
		return d.Timeout
	}
	return stepTimeout
}

func (d *Dialer) srtt() time.Duration {
	if d.SRTT != nil {
		return d.SRTT()
	}
	return 0
}

func (d *Dialer) log() *slog.Logger {
	if d.Log != nil {
		return d.Log
	}
	return slog.New(slog.DiscardHandler)
}

// attempt is one dial: whom, for what, and how long the connect may take.
type attempt struct {
	t      proto.Target
	kind   proto.Kind
	target proto.NodeID // who ends the link
	wait   time.Duration
	keyed  bool
}

// Dial makes one attempt to open a link to the proxy t that ends at the node target: t's own, or an anchor to which
// t passes a data link on. A sealed answer is a *SealedError.
func (d *Dialer) Dial(ctx context.Context, t proto.Target, kind proto.Kind, target proto.NodeID) (*Link, error) {
	a := attempt{t: t, kind: kind, target: target, wait: d.timeout()}
	if !d.keyedNow() {
		return d.dial(ctx, a)
	}
	a.keyed = true
	l, err := d.dial(ctx, a)
	if !errors.Is(err, ErrSilent) {
		return l, err
	}
	// Perhaps the network eats SYNs that carry data: once more without, and remember if that helped.
	a.keyed = false
	l, err = d.dial(ctx, a)
	if se := (*SealedError)(nil); err == nil || errors.As(err, &se) {
		until := d.clock().Add(plainFor)
		d.plain.Store(&until)
		d.log().Info("keyed SYN unanswered, plain ones for a while", "node", t.Node, "for", plainFor)
	}
	return l, err
}

// Probe is the paper's first handshake (section 4.1): it asks the proxy t whether it serves its clients itself
// ([proto.ReplyGo]) or where they should go ([proto.ReplyTransfer]), by a TCP connection that carries a preamble and
// one sealed answer. No link comes of it. The paper's client knows that it need not move only when a time is over.
func (d *Dialer) Probe(ctx context.Context, t proto.Target) (proto.Reply, error) {
	_, err := d.reach(ctx, t, errand{kind: proto.KindProbe}, false)
	var se *SealedError
	if errors.As(err, &se) {
		return se.Reply, nil
	}
	return proto.Reply{}, err
}

func (d *Dialer) keyedNow() bool {
	if !d.KeyedSYN || d.DialContext != nil {
		return false
	}
	until := d.plain.Load()
	return until == nil || d.clock().After(*until)
}

func (d *Dialer) dial(ctx context.Context, a attempt) (*Link, error) {
	began := time.Now()
	raw, err := d.connect(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("connect to proxy %s: %w", a.t.Node, err)
	}
	l := &Link{Kind: a.kind, Target: a.t, Anchor: a.target, raw: raw}
	if !a.keyed {
		l.connect = time.Since(began)
	}
	if err := d.handshake(ctx, l, a); err != nil {
		raw.Close()
		return nil, fmt.Errorf("%s link to proxy %s: %w", a.kind, a.t.Node, err)
	}
	return l, nil
}

// handshake sends the first flight and follows what the first byte of the answer says.
func (d *Dialer) handshake(parent context.Context, l *Link, a attempt) error {
	wait := d.timeout()
	if a.keyed {
		wait = min(wait, max(keyedTimeout, 3*d.srtt()))
	}
	ctx, cancel := context.WithTimeout(parent, wait)
	defer cancel()
	now := d.now()
	p := proto.Preamble{Kind: a.kind, Key: a.t.Key, Handle: a.t.Keys.Handle, Target: a.target, Time: now, Nonce: proto.NewNonce()}
	f := &flight{Conn: l.raw, keys: a.t.Keys, preamble: p.Append(nil, a.t.Keys, a.t.Node)}
	var err error
	if a.kind == proto.KindProbe {
		err = f.probe(ctx)
	} else {
		l.Conn = tls.Client(f, d.Creds.client(a.kind, a.target, now, &l.Peer))
		err = l.HandshakeContext(ctx)
	}
	switch {
	case err == nil:
		l.Since = time.Now()
		tune(l.raw, a.kind)
		return nil
	case f.err != nil:
		return f.err
	case !f.seen && parent.Err() == nil:
		return fmt.Errorf("%w within %v: %w", ErrSilent, wait, err)
	}
	return err
}

// connect makes the TCP connection, by IPv4 and a little later IPv6 too, whichever comes first.
func (d *Dialer) connect(parent context.Context, a attempt) (net.Conn, error) {
	addrs := a.t.Addrs()
	if len(addrs) == 0 {
		return nil, errors.New("it has no address")
	}
	ctx, cancel := context.WithTimeout(parent, a.wait)
	defer cancel()
	if len(addrs) == 1 {
		return d.tcp(ctx, addrs[0], a.keyed)
	}
	return race(ctx, addrs, func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
		return d.tcp(ctx, at, a.keyed)
	})
}

func (d *Dialer) tcp(ctx context.Context, at netip.AddrPort, keyed bool) (net.Conn, error) {
	if d.DialContext != nil {
		return d.DialContext(ctx, "tcp", at.String())
	}
	nd := net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
		if d.Control != nil {
			if err := d.Control(network, address, c); err != nil {
				return err
			}
		}
		prepare(c, keyed)
		return nil
	}}
	nd.SetMultipathTCP(false)
	return nd.DialContext(ctx, "tcp", at.String())
}

// race dials each address, a family's delay after the one before or when that failed, and returns
// the first connection. The others are closed; all goroutines have ended when it returns.
func race(parent context.Context, addrs []netip.AddrPort, dial func(context.Context, netip.AddrPort) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	type result struct {
		c   net.Conn
		err error
	}
	results := make(chan result, len(addrs))
	begun, ended := 0, 0
	begin := func() {
		at := addrs[begun]
		begun++
		go func() { c, err := dial(ctx, at); results <- result{c, err} }()
	}
	begin()
	var winner net.Conn
	var errs []error
	later := time.NewTimer(familyDelay)
	defer later.Stop()
	for ended < begun {
		select {
		case r := <-results:
			ended++
			switch {
			case r.err != nil:
				errs = append(errs, r.err)
			case winner == nil:
				winner = r.c
				cancel() // the other need not go on
			default:
				r.c.Close()
			}
			if winner == nil && begun < len(addrs) {
				begin()
			}
		case <-later.C:
			if winner == nil && begun < len(addrs) {
				begin()
			}
		}
	}
	if winner != nil {
		return winner, nil
	}
	return nil, errors.Join(errs...)
}

// knock sends the preamble in one datagram to each address of the target: it opens the door for the
// address that the target sees. It is never answered.
func (d *Dialer) knock(ctx context.Context, t proto.Target) {
	p := proto.Preamble{Kind: proto.KindKnock, Key: t.Key, Handle: t.Keys.Handle, Target: t.Node, Time: d.now()}
	send := d.Knock
	if send == nil {
		send = d.sendUDP
	}
	for _, at := range t.Addrs() {
		p.Nonce = proto.NewNonce() // a nonce admits one address
		if err := send(ctx, at, p.Append(nil, t.Keys, t.Node)); err != nil {
			d.log().Debug("knock", "node", t.Node, "err", err)
		}
	}
}

func (d *Dialer) sendUDP(ctx context.Context, to netip.AddrPort, b []byte) error {
	nd := net.Dialer{Control: d.Control}
	c, err := nd.DialContext(ctx, "udp", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(b)
	return err
}
