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
// session at the same time, so that the answer to the probe is all that a connection waits for.
func (h *Handler) openEach(ctx context.Context, dst netip.AddrPort, service string) (Conn, error) {
	var err error
	for range h.cfg.Retries + 1 {
		var c Conn
		if c, err = h.probed(ctx, dst, service); err == nil || verdict(err) {
			return c, err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// probed makes one try.
func (h *Handler) probed(ctx context.Context, dst netip.AddrPort, service string) (Conn, error) {
	own := func(ctx context.Context) (Session, error) { return h.cfg.Ways.Each(ctx, dst, nil) }
	warm := h.cfg.Ways.Warm()
	if warm == nil {
		return h.single(ctx, service, own)
	}
	o, err := warm.Begin(service)
	if err != nil { // it has just ended
		return h.single(ctx, service, own)
	}
	s, err := h.cfg.Ways.Each(ctx, dst, warm)
	if err == nil && s == warm {
		return h.race(ctx, s, o, service, func(ctx context.Context) (Conn, error) { return h.single(ctx, service, own) })
	}
	o.Abort()
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

// openWarm opens the stream on the warm session. When that has ended, or its link says nothing, a fresh probe is
// made; whichever opens the stream first wins and the other's stream is reset.
func (h *Handler) openWarm(ctx context.Context, service string) (Conn, error) {
	s := h.cfg.Ways.Warm()
	for try := 0; ; try++ {
		if s == nil {
			var err error
			if s, err = h.cfg.Ways.Fresh(ctx, nil); err != nil {
				return nil, err
			}
		}
		c, err := h.begin(ctx, s, service)
		if err == nil || verdict(err) || errors.Is(err, ErrBusy) || errors.Is(err, ErrNobody) {
			return c, err
		}
		if ctx.Err() != nil || try == maxFresh {
			return nil, fmt.Errorf("the session at the proxy ended: %w", err)
		}
		if next := h.cfg.Ways.Warm(); next != s { // ended under us; somebody made another already
			s = next
			continue
		}
		s = nil
	}
}

// begin opens the stream on s, or on a fresh session if s's link says nothing.
func (h *Handler) begin(ctx context.Context, s Session, service string) (Conn, error) {
	o, err := s.Begin(service)
	if err != nil {
		return nil, err
	}
	return h.race(ctx, s, o, service, func(ctx context.Context) (Conn, error) {
		fresh, err := h.cfg.Ways.Fresh(ctx, s)
		if err != nil {
			return nil, err
		}
		return open(ctx, fresh, service)
	})
}

// race waits for the stream that was asked for on s and watches its link: when that says nothing, other opens one
// elsewhere beside it. Whatever it asked for has ended, or ends without leaving a stream behind, when it returns.
func (h *Handler) race(ctx context.Context, s Session, o Opening, service string, other func(context.Context) (Conn, error)) (Conn, error) {
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
