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
	if e == nil {
		return h.single(ctx, service, func(ctx context.Context) (Session, error) { return h.cfg.Ways.Each(ctx, dst, service, nil) })
	}
	s, err := h.cfg.Ways.Each(ctx, dst, service, e.session)
	if err == nil && s == e.session {
		return h.watched(ctx, service, e)
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

// openWarm opens the stream on the warm session, where it was asked for (e), or on another one when that has ended.
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
	s, err := h.cfg.Ways.Fresh(ctx, service, nil)
	if err != nil {
		return nil, err
	}
	o, err := s.Begin(service)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBegin, err)
	}
	return &early{s, o}, nil
}

// watched waits for the stream that was asked for and watches the session's links: when one says nothing a fresh probe is
// made beside it, and the session asks for the stream again on the link that comes of it. When that fails too, the stream is given
// up.
func (h *Handler) watched(ctx context.Context, service string, e *early) (Conn, error) {
	s, o := e.session, e.opening
	pctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var probed chan error // nil while no probe is under way
	asked := time.Now()
	wait, pinged := patience(s)/2, false
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-o.Done():
			return o.Result()
		case err := <-probed:
			if err != nil && !errors.Is(err, ErrBusy) {
				o.Abort()
				return nil, err
			}
			probed, pinged = nil, false
			asked = time.Now() // the fresh link is watched like the first
			timer.Reset(wait)
		case <-timer.C:
			switch {
			case s.Heard().After(asked): // alive: the origin is slow, not the link
				asked, pinged = time.Now(), false
			case pinged:
				h.log.Debug("warm link is silent, probing afresh", "service", service, "for", time.Since(asked))
				probed = h.beside(pctx, service, s)
				continue // the timer rests: one fresh probe at a time
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

// beside has a fresh link made for s, in a goroutine that ends with ctx.
func (h *Handler) beside(ctx context.Context, service string, s Session) chan error {
	probed := make(chan error, 1)
	go func() {
		_, err := h.cfg.Ways.Fresh(ctx, service, s)
		probed <- err
	}()
	return probed
}
