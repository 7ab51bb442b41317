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

// openEach is the paper's Connection Handler: a probe for this connection alone, on the link that then carries it.
func (h *Handler) openEach(ctx context.Context, dst netip.AddrPort, service string) (Conn, error) {
	var err error
	for range h.cfg.Retries + 1 {
		var s Session
		if s, err = h.cfg.Ways.Each(ctx, dst); err != nil {
			if ctx.Err() != nil {
				break
			}
			continue
		}
		var c Conn
		c, err = s.Open(ctx, service)
		s.Retire() // it serves this one stream
		if err == nil || verdict(err) {
			return c, err
		}
	}
	return nil, err
}

type result struct {
	conn Conn
	err  error
	from Session
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
		c, err := h.race(ctx, s, service)
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

// race opens the stream on s and watches its link. Every OPEN that it started has ended, or ends without leaving a
// stream behind, when it returns.
func (h *Handler) race(ctx context.Context, s Session, service string) (Conn, error) {
	octx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result) // a sender whose result nobody takes resets its stream
	open := func(s Session) {
		c, err := s.Open(octx, service)
		select {
		case results <- result{c, err, s}:
		case <-octx.Done():
			if c != nil {
				c.Abort()
			}
		}
	}
	go open(s)
	asked := time.Now()
	wait, pinged := patience(s)/2, false
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for running := 1; ; {
		select {
		case r := <-results:
			running--
			if r.err == nil || verdict(r.err) || running == 0 {
				return r.conn, r.err
			}
		case <-timer.C:
			if s.Heard().After(asked) { // alive: the origin is slow, not the link
				asked, pinged = time.Now(), false
			} else if pinged {
				h.log.Debug("warm link is silent, probing afresh", "service", service, "for", time.Since(asked))
				running++
				go func() {
					fresh, err := h.cfg.Ways.Fresh(octx, s)
					if err != nil {
						select {
						case results <- result{nil, err, nil}:
						case <-octx.Done():
						}
						return
					}
					open(fresh)
				}()
				continue // the timer rests: one fresh probe is enough
			}
			if !pinged {
				s.Ping()
				pinged = true
			}
			timer.Reset(wait)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
