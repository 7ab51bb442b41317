package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"migrationsensor/agent/connhandler"
	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

// round is one try to reach an edge, by all candidates. Those who wait for a session wait for its end.
type round struct {
	done chan struct{}
	err  error // set before done is closed
}

func newRound() *round { return &round{done: make(chan struct{})} }

// ways gives the Connection Handler its sessions.
type ways struct{ *Agent }

// Warm is the session for a service's new streams, if it has a link.
func (w ways) Warm(service string) connhandler.Session {
	if t, _ := w.warmFor(service); t != nil && t.up() {
		return t
	}
	return nil
}

// Fresh has a link made for the service's session, or the supervisor asked for a session where there is none. All who
// ask share what comes of it.
func (w ways) Fresh(ctx context.Context, service string, old connhandler.Session) (connhandler.Session, error) {
	was, _ := old.(*tether)
	for {
		t, r := w.warmFor(service)
		if was != nil && !was.ended() {
			t = was
		} else if t != nil && t.up() {
			return t, nil
		}
		var err error
		if t != nil {
			if err = t.freshen(ctx); err == nil && !t.ended() {
				return t, nil
			}
			if saysGone(err) { // a session at another anchor is being made
				was = nil
				err = w.awaitRound(ctx, r)
			}
		} else {
			err = w.awaitRound(ctx, r)
		}
		if err != nil {
			return nil, handlerError(err)
		}
	}
}

// awaitRound asks for a session and waits for the end of the round that may bring one.
func (a *Agent) awaitRound(ctx context.Context, r *round) error {
	select {
	case a.kick <- struct{}{}:
	default: // asked already
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handlerError says why there is no session in the Connection Handler's words. Only where nobody speaks our protocol
// may it look for a direct way: somebody who does, and is not trusted, is a reason for none.
func handlerError(err error) error {
	if se, ok := errors.AsType[*link.SealedError](err); ok {
		if se.Reply.Kind == proto.ReplyBusy || se.Reply.Kind == proto.ReplyRetry {
			return fmt.Errorf("%w: %w", connhandler.ErrBusy, err)
		}
		return err
	}
	if !untrusted(err) && (noAnswer(err) || errors.Is(err, link.ErrGarbage)) {
		return fmt.Errorf("%w: %w", connhandler.ErrNobody, explainConnect(err))
	}
	return explainConnect(err)
}

// Each is the paper's Connection Handler (section 4.1): a handshake with the proxy at dst, a bounded wait for its
// answer, and, upon a transfer, a second handshake at the proxy that it names. Where there is a warm session the first
// one is a probe beside it; it is used if the proxy says go ahead, or names the proxy where it stands. Else the first
// handshake is that of a link, which then carries the connection.
//
// If the proxy at dst is silent the edge that the agent was told to use is asked, which the paper's client, with a
// hard-coded address, could not.
func (w ways) Each(ctx context.Context, dst netip.AddrPort, service string, warm connhandler.Session) (connhandler.Session, error) {
	e := w.enrolled()
	first, ok := e.entryAt(dst.Addr())
	if !ok {
		return nil, connhandler.ErrNobody
	}
	if was, ok := warm.(*tether); ok {
		return w.beside(ctx, e, service, first, was)
	}
	t, err := w.probe(ctx, service, first)
	if err != nil && ctx.Err() == nil && noAnswer(err) {
		if c, ok := w.toldEdge(e, first.Node); ok {
			t, err = w.probe(ctx, service, c)
		}
	}
	if err != nil {
		return nil, handlerError(err)
	}
	return t, nil
}

// beside asks the proxy first while a stream is being opened on the warm session, and says which session the
// connection should have.
func (w ways) beside(ctx context.Context, e *enrolment, service string, first candidate, warm *tether) (connhandler.Session, error) {
	at, _ := warm.edge()
	r, err := w.edgeDialer(e, w.cfg.ProbeWait).Probe(ctx, first.Target)
	if err != nil {
		if c, ok := w.toldEdge(e, first.Node); ok && noAnswer(err) && c.Node == at.Node {
			return warm, nil
		}
		return nil, handlerError(err)
	}
	switch r.Kind {
	case proto.ReplyGo:
		return warm, nil
	case proto.ReplyTransfer:
		if i := slices.IndexFunc(r.Targets, func(t proto.Target) bool { return t.Node == at.Node }); i >= 0 {
			w.noteTransfers([]proto.Target{first.Target, r.Targets[i]})
			return warm, nil
		}
		var errs []error
		for _, t := range r.Targets {
			next, err := w.probe(ctx, service, candidate{Target: t, told: true})
			if err == nil {
				w.noteTransfers([]proto.Target{first.Target, t})
				return next, nil
			}
			errs = append(errs, err)
		}
		return nil, handlerError(errors.Join(errs...))
	}
	return nil, handlerError(&link.SealedError{Reply: r})
}

// toldEdge is the edge that a proxy told the agent to use, if that is another one than node.
func (a *Agent) toldEdge(e *enrolment, node proto.NodeID) (candidate, bool) {
	if e.Current == nil || e.Current.Node == node {
		return candidate{}, false
	}
	return e.candidates(nil)[0], true
}

// probe opens a data link by way of c, or of where c's answer sends it, with a session for one connection.
func (a *Agent) probe(ctx context.Context, service string, c candidate) (*tether, error) {
	l, err := a.session(ctx, a.cfg.ProbeWait, c, a.anchorVia(service, c.Node))
	if err != nil {
		return nil, err
	}
	t := a.newTether(l, true)
	if !a.startTether(t) {
		return nil, context.Canceled
	}
	return t, nil
}

func (a *Agent) follow(ctx context.Context, d *link.Dialer, c candidate, kind proto.Kind) (*link.Link, []proto.Target, error) {
	if c.told {
		return d.FollowTold(ctx, c.Target, kind)
	}
	return d.Follow(ctx, c.Target, kind)
}

// followVia is follow for a data link that ends at another node than the edge.
func (a *Agent) followVia(ctx context.Context, d *link.Dialer, c candidate, anchor proto.NodeID) (*link.Link, []proto.Target, error) {
	if c.told {
		return d.FollowToldVia(ctx, c.Target, proto.KindData, anchor)
	}
	return d.FollowVia(ctx, c.Target, proto.KindData, anchor)
}

// noteTransfers counts the times that one proxy sent a link on to another.
func (a *Agent) noteTransfers(path []proto.Target) {
	hops := slices.CompactFunc(slices.Clone(path), func(x, y proto.Target) bool { return x.Node == y.Node })
	for i := range hops[1:] {
		a.transfers.Add(1)
		a.event("transferred", fmt.Sprintf("proxy %s sent this client on to %s", a.edgeName(hops[i]), a.edgeName(hops[i+1])))
	}
}

// edgeName is what a person calls an edge: its name, or the node of a hidden one.
func (a *Agent) edgeName(t proto.Target) string {
	if e := a.enrolled(); e != nil {
		if name := e.nameOf(t.Node); name != "" {
			return name
		}
	}
	return t.Node.String()
}

// dialer is a link.Dialer with the agent's own sockets; wait bounds each step, 0 means the protocol's 5 s.
func (a *Agent) dialer(creds link.Credentials, wait time.Duration) *link.Dialer {
	d := &link.Dialer{
		Creds: creds, DialContext: a.sys.Dial, Knock: a.sys.Knock, Clock: a.sys.Now, Timeout: wait, Log: a.log,
		KeyedSYN: true, Networks: &a.networks, SRTT: a.srtt, Forged: &a.forged,
	}
	if a.machine != nil {
		d.Control = a.machine.Control
	}
	return d
}

// srtt is the round trip to the current edge, 0 when unknown.
func (a *Agent) srtt() time.Duration {
	if t := a.lead(); t != nil {
		return t.SRTT()
	}
	return 0
}

// dialers are kept, because they remember how far the clock is off.
type dialers struct {
	mu   sync.Mutex
	leaf *x509.Certificate
	by   map[time.Duration]*link.Dialer // by wait
}

// edgeDialer is the dialer for links to edges; wait as for dialer.
func (a *Agent) edgeDialer(e *enrolment, wait time.Duration) *link.Dialer {
	a.dialers.mu.Lock()
	defer a.dialers.mu.Unlock()
	if a.dialers.leaf != e.cert.Leaf { // renewed
		a.dialers.leaf, a.dialers.by = e.cert.Leaf, make(map[time.Duration]*link.Dialer)
	}
	d := a.dialers.by[wait]
	if d == nil {
		d = a.dialer(link.Credentials{CA: e.ca, Cert: e.cert, Fleet: e.id.Fleet}, wait)
		a.dialers.by[wait] = d
	}
	return d
}
