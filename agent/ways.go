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

// Warm is the session at the current edge.
func (w ways) Warm() connhandler.Session {
	if d, _ := w.warmNow(); d != nil {
		return d
	}
	return nil
}

// warmNow is the data link for new streams, nil when there is none, and the round that may bring another.
func (a *Agent) warmNow() (*dataLink, *round) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.warm != nil && a.warm.ended() {
		return nil, a.round
	}
	return a.warm, a.round
}

// Fresh asks the supervisor for another session than old and waits for it. All who ask share one probe.
func (w ways) Fresh(ctx context.Context, old connhandler.Session) (connhandler.Session, error) {
	was, _ := old.(*dataLink)
	for {
		d, r := w.warmNow()
		if d != nil && d != was {
			return d, nil
		}
		select {
		case w.kick <- was:
		default: // asked already
		}
		select {
		case <-r.done:
			if r.err != nil {
				return nil, handlerError(r.err)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
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
func (w ways) Each(ctx context.Context, dst netip.AddrPort, warm connhandler.Session) (connhandler.Session, error) {
	e := w.enrolled()
	first, ok := e.entryAt(dst.Addr())
	if !ok {
		return nil, connhandler.ErrNobody
	}
	dialer := w.edgeDialer(e, w.cfg.ProbeWait)
	if was, ok := warm.(*dataLink); ok {
		return w.beside(ctx, e, dialer, first, was)
	}
	d, err := w.probe(ctx, dialer, first)
	if err != nil && ctx.Err() == nil && noAnswer(err) {
		if c, ok := w.toldEdge(e, first.Node); ok {
			d, err = w.probe(ctx, dialer, c)
		}
	}
	if err != nil {
		return nil, handlerError(err)
	}
	return d, nil
}

// beside asks the proxy first while a stream is being opened on the warm session, and says which session the
// connection should have.
func (w ways) beside(ctx context.Context, e *enrolment, d *link.Dialer, first candidate, warm *dataLink) (connhandler.Session, error) {
	r, err := d.Probe(ctx, first.Target)
	if err != nil {
		if c, ok := w.toldEdge(e, first.Node); ok && noAnswer(err) && c.Node == warm.cand.Node {
			return warm, nil
		}
		return nil, handlerError(err)
	}
	switch r.Kind {
	case proto.ReplyGo:
		return warm, nil
	case proto.ReplyTransfer:
		if i := slices.IndexFunc(r.Targets, func(t proto.Target) bool { return t.Node == warm.cand.Node }); i >= 0 {
			w.noteTransfers([]proto.Target{first.Target, r.Targets[i]})
			return warm, nil
		}
		var errs []error
		for _, t := range r.Targets {
			next, err := w.probe(ctx, d, candidate{Target: t, told: true})
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

// probe opens a data link to c, or to where c's answer sends it, with a session that runs until the agent ends.
func (a *Agent) probe(ctx context.Context, d *link.Dialer, c candidate) (*dataLink, error) {
	l, path, err := a.follow(ctx, d, c, proto.KindData)
	if err != nil {
		return nil, err
	}
	dl := newDataLink(l, a.sys.Now())
	dl.cand = candidate{Target: l.Target, name: a.enrolled().nameOf(l.Target.Node), told: true}
	if dl.cand.name != "" {
		dl.cand.told = false
	}
	a.noteTransfers(path)
	if !a.start(dl) {
		l.Abort()
		return nil, context.Canceled
	}
	return dl, nil
}

func (a *Agent) follow(ctx context.Context, d *link.Dialer, c candidate, kind proto.Kind) (*link.Link, []proto.Target, error) {
	if c.told {
		return d.FollowTold(ctx, c.Target, kind)
	}
	return d.Follow(ctx, c.Target, kind)
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
		KeyedSYN: true, SRTT: a.srtt,
	}
	if a.machine != nil {
		d.Control = a.machine.Control
	}
	return d
}

// srtt is the round trip to the current edge, 0 when unknown.
func (a *Agent) srtt() time.Duration {
	if d, _ := a.warmNow(); d != nil {
		return d.SRTT()
	}
	return 0
}

// dialers are kept, because they remember how far the clock is off and whether the network eats keyed SYNs.
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
