package connhandler

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// minPatience is the least time that a link may be silent after an OPEN. Ours.
const minPatience = 300 * time.Millisecond

// maxFresh bounds how often one connection asks for another session when sessions end under it.
const maxFresh = 3

// patience is how long s may say nothing before a fresh probe starts beside it.
func patience(s Session) time.Duration { return max(3*s.SRTT(), minPatience) }

// openEach is the paper's Connection Handler: a probe for this connection alone. The stream is asked for on the warm
// session at the same time (e), so that the answer to the probe is all that a connection waits for.
func (h *Handler) openEach(ctx context.Context, dst netip.AddrPort, service string, e *early) (Conn, error) {
	for try := 0; ; try++ {
		c, err := h.probed(ctx, dst, service, e)
		if err == nil || verdict(err) || ctx.Err() != nil || try == h.cfg.Retries {
			return c, err
		}
		e = h.ask(service)
	}
}

// probed makes one try.
func (h *Handler) probed(ctx context.Context, dst netip.AddrPort, service string, e *early) (Conn, error) {
	own := func(ctx context.Context) (Session, error) { return h.cfg.Ways.Each(ctx, dst, nil) }
	if e == nil {
		return h.single(ctx, service, own)
	}
	s, err := h.cfg.Ways.Each(ctx, dst, e.session)
	if err == nil && s == e.session {
		return h.race(ctx, e, service, func(ctx context.Context) (Conn, error) { return h.single(ctx, service, own) })
	}
	e.Abort()
	if err != nil {
		return nil, err
	}
	return h.single(ctx, service, func(context.Context) (Session, error) { return s, nil })
}

// single opens the one stream of a session of its own.
func (h *Handler) single(ctx context.Context, service string, session func(context.Context) (Session, error)) (Conn, error) {
	s, err := session(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Retire() // it ends with this stream
	return open(ctx, s, service)
}

// open opens a stream on s.
func open(ctx context.Context, s Session, service string) (Conn, error) {
	o, err := s.Begin(service)
	if err != nil {
		return nil, err
	}
	select {
	case <-o.Done():
		return o.Result()
	case <-ctx.Done():
		o.Abort()
		return nil, ctx.Err()
	}
}

// openWarm opens the stream on the warm session, where it was asked for (e). When that has ended, or its link says
// nothing, a fresh probe is made; whichever opens the stream first wins and the other's stream is reset.
func (h *Handler) openWarm(ctx context.Context, service string, e *early) (Conn, error) {
	for try := 0; ; try++ {
		var c Conn
		var err error
		if e == nil {
			if e, err = h.fresh(ctx, service); e == nil && !errors.Is(err, errBegin) {
				return nil, err
			}
		}
		if e != nil {
			c, err = h.watched(ctx, service, e)
		}
		if err == nil || verdict(err) || errors.Is(err, ErrBusy) || errors.Is(err, ErrNobody) {
			return c, err
		}
		if ctx.Err() != nil || try == maxFresh {
			return nil, fmt.Errorf("the session at the proxy ended: %w", err)
		}
		var was Session
		if e != nil {
			was = e.session
		}
		e = h.askOther(service, was)
	}
}

// errBegin is that a session takes no stream: it is full, or has ended. What it wraps says which.
var errBegin = errors.New("no stream could be asked for")

// fresh asks for a stream on whatever session there is, or on a new one.
func (h *Handler) fresh(ctx context.Context, service string) (*early, error) {
	s, err := h.cfg.Ways.Fresh(ctx, nil)
	if err != nil {
		return nil, err
	}
	o, err := s.Begin(service)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBegin, err)
	}
	return &early{s, o}, nil
}

// watched waits for the stream that was asked for, or for one on a fresh session if its link says nothing.
func (h *Handler) watched(ctx context.Context, service string, e *early) (Conn, error) {
	return h.race(ctx, e, service, func(ctx context.Context) (Conn, error) {
		fresh, err := h.cfg.Ways.Fresh(ctx, e.session)
		if err != nil {
			return nil, err
		}
		return open(ctx, fresh, service)
	})
}

// race waits for the stream that was asked for and watches its link: when that says nothing, other opens one
// elsewhere beside it. Whatever it asked for has ended, or ends without leaving a stream behind, when it returns.
func (h *Handler) race(ctx context.Context, e *early, service string, other func(context.Context) (Conn, error)) (Conn, error) {
	s, o := e.session, e.opening
	octx, cancel := context.WithCancel(ctx)
	defer cancel()
	var second chan result // nil until other runs
	first := o.Done()      // nil when it has failed
	asked := time.Now()
	wait, pinged := patience(s)/2, false
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-first:
			c, err := o.Result()
			if err == nil || verdict(err) || second == nil {
				return c, err
			}
			first = nil
		case r := <-second:
			if r.err == nil || verdict(r.err) || first == nil {
				o.Abort()
				return r.conn, r.err
			}
			second = nil
		case <-timer.C:
			switch {
			case s.Heard().After(asked): // alive: the origin is slow, not the link
				asked, pinged = time.Now(), false
			case pinged:
				h.log.Debug("warm link is silent, probing afresh", "service", service, "for", time.Since(asked))
				second = beside(octx, other)
				continue // the timer rests: one fresh probe is enough
			}
			if !pinged {
				s.Ping()
				pinged = true
			}
			timer.Reset(wait)
		case <-ctx.Done():
			o.Abort()
			return nil, ctx.Err()
		}
	}
}

type result struct {
	conn Conn
	err  error
}

// beside runs open in a goroutine; a stream that nobody takes before ctx ends is reset.
func beside(ctx context.Context, open func(context.Context) (Conn, error)) chan result {
	results := make(chan result)
	go func() {
		c, err := open(ctx)
		select {
		case results <- result{c, err}:
		case <-ctx.Done():
			if c != nil {
				c.Abort()
			}
		}
	}()
	return results
}
