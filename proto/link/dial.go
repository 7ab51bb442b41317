package link

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"migrationsensor/proto"
)

// stepTimeout is how long each step may take, connect and handshake, if a Dialer does not say.
const stepTimeout = 5 * time.Second

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
	Networks *Networks            // those that eat such SYNs, shared by all Dialers of an agent; nil: its own
	Timeout  time.Duration        // of each step; 0: 5 s
	Forged   *atomic.Uint64       // counts the answers that were garbage (ErrGarbage); nil: nobody does
	Log      *slog.Logger

	skew atomic.Int64 // from a sealed REJECT(clock): proxy's clock minus ours
	own  Networks
}

func (d *Dialer) networks() *Networks {
	if d.Networks != nil {
		return d.Networks
	}
	return &d.own
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

// attempt is whom to dial, and for what.
type attempt struct {
	t      proto.Target
	kind   proto.Kind
	target proto.NodeID // who ends the link
	told   bool         // it may be dark: a knock goes before each SYN
}

// Dial makes one attempt to open a link to the proxy t that ends at the node target: t's own, or an anchor to which
// t passes a data link on. A sealed answer is a *SealedError.
//
// It dials up to five times, a quarter of a second or 1.5 SRTT apart, as long as nobody answers; on Linux by SYNs that
// carry the first flight, which a proxy under attack always answers, and an ordinary one beside them. The first answer
// counts.
func (d *Dialer) Dial(ctx context.Context, t proto.Target, kind proto.Kind, target proto.NodeID) (*Link, error) {
	return d.race(ctx, attempt{t: t, kind: kind, target: target})
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

// handshake sends the first flight and follows what the first byte of the answer says. heard tells whether there was
// one; the end of ctx is an error that wraps it.
func (d *Dialer) handshake(ctx context.Context, l *Link, a attempt) (heard bool, err error) {
	now := d.now()
	p := proto.Preamble{Kind: a.kind, Key: a.t.Key, Handle: a.t.Keys.Handle, Target: a.target, Time: now, Nonce: proto.NewNonce()}
	f := &flight{Conn: l.raw, keys: a.t.Keys, preamble: p.Append(nil, a.t.Keys, a.t.Node)}
	// By deadline and not by close, so that the socket can still be asked how far it came.
	stop := context.AfterFunc(ctx, func() { f.SetDeadline(time.Unix(1, 0)) })
	if a.kind == proto.KindProbe {
		err = f.probe()
	} else {
		l.Conn = tls.Client(f, d.Creds.client(a.kind, a.target, now, &l.Peer))
		err = l.Handshake()
	}
	ended := !stop()
	switch {
	case f.err != nil:
		return true, f.err
	case ended:
		return f.seen, ctx.Err()
	case err == nil:
		l.Since = time.Now()
		tune(l.raw, a.kind)
	}
	return f.seen, err
}

// tcp makes a connection; a keyed one waits for its first write to send the SYN.
func (d *Dialer) tcp(ctx context.Context, at netip.AddrPort, keyed bool) (*conn, error) {
	if d.DialContext != nil {
		c, err := d.DialContext(ctx, "tcp", at.String())
		return &conn{Conn: c}, err
	}
	nd := net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
		if d.Control != nil {
			if err := d.Control(network, address, c); err != nil {
				return err
			}
		}
		keyed = prepare(c, keyed)
		return nil
	}}
	nd.SetMultipathTCP(false)
	c, err := nd.DialContext(ctx, "tcp", at.String())
	return &conn{c, keyed}, err
}

// knock sends the preamble in one datagram to an address of the target: it opens the door for the address that the
// target sees there. It is never answered.
func (d *Dialer) knock(ctx context.Context, t proto.Target, at netip.AddrPort) {
	p := proto.Preamble{ // a nonce admits one address
		Kind: proto.KindKnock, Key: t.Key, Handle: t.Keys.Handle, Target: t.Node, Time: d.now(), Nonce: proto.NewNonce(),
	}
	send := d.Knock
	if send == nil {
		send = d.sendUDP
	}
	if err := send(ctx, at, p.Append(nil, t.Keys, t.Node)); err != nil {
		d.log().Debug("knock", "node", t.Node, "err", err)
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
