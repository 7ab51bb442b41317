package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/session"
)

// Times of a Pump (the first two ours, the others the protocol's).
const (
	advanceEvery = 5 * time.Millisecond    // a busy writer tells the session the time no oftener: that looks at every stream
	stuckEvery   = 250 * time.Millisecond  // how often a blocked write is looked at
	silentAfter  = 750 * time.Millisecond  // or 3 SRTT: then a link is asked
	deadAfter    = 1500 * time.Millisecond // or 4 SRTT: then it is dead
	lateAfter    = 250 * time.Millisecond  // who looks later than that stood still himself: that is no silence
)

// Pump carries a session's frames over one of its links until the link or the session ends or ctx is done.
// It closes both, and says why it ended; io.EOF: the other end closed it. The session goes on over its other
// links, or waits for one.
func Pump(ctx context.Context, l net.Conn, s *session.Link) error {
	p := &pump{l: l, s: s, kick: make(chan struct{}, 1), stop: make(chan struct{})}
	if u, ok := l.(interface{ Unread() bool }); ok {
		s.Unread(u.Unread)
	}
	unwatch := context.AfterFunc(ctx, func() { p.end(context.Cause(ctx)) })
	defer unwatch()
	var wg sync.WaitGroup
	wg.Go(func() { p.end(p.read()) })
	wg.Go(func() { p.end(p.write()) })
	wg.Go(func() { p.end(p.watch()) })
	wg.Wait()
	s.Close(p.cause)
	return p.cause
}

// pump is one reader, one writer, and a watch for what happens while the writer is blocked.
type pump struct {
	l net.Conn
	s *session.Link

	once  sync.Once
	cause error         // set once, before stop is closed
	stop  chan struct{} // closed at the end
	kick  chan struct{} // 1-buffered, to the watch: the session may want to be told of a time earlier

	mu      sync.Mutex // guards what follows
	told    time.Time  // when Advance was called
	due     time.Time  // when it wants to be called
	writing time.Time  // since when a write is under way; zero: none
}

func (p *pump) end(err error) {
	p.once.Do(func() {
		p.cause = err
		close(p.stop)
		p.hangUp()
	})
}

// hangUp closes the link, politely where somebody may be listening. It frees a blocked Read and Write.
func (p *pump) hangUp() {
	a, ok := p.l.(interface{ Abort() })
	if ok && (errors.Is(p.cause, session.ErrSilent) || errors.Is(p.cause, session.ErrProtocol)) {
		a.Abort()
		return
	}
	p.l.Close()
}

func (p *pump) read() error {
	r := proto.NewReader(p.l, 0)
	for {
		h, payload, err := r.Next()
		if errors.Is(err, io.EOF) {
			return err
		}
		if err != nil {
			return fmt.Errorf("read from link: %w", err)
		}
		if err := p.s.Handle(h, payload, time.Now()); err != nil {
			return err
		}
		switch h.Type {
		case proto.TypeOpen, proto.TypeOpenOK, proto.TypeOpenFail:
			runtime.Gosched() // somebody waits in connect(): whoever was woken for it goes before the next read
		}
	}
}

// write writes what the session has, a TLS record at a time.
func (p *pump) write() error {
	buf := make([]byte, 0, proto.HeaderLen+proto.MaxPayload)
	for {
		p.tick(time.Now())
		for out := p.s.Next(buf); len(out) > 0; out = p.s.Next(buf) {
			p.busy(time.Now())
			p.wake()
			if _, err := p.l.Write(out); err != nil {
				return fmt.Errorf("write to link: %w", err)
			}
			p.busy(time.Time{})
		}
		p.wake()
		select {
		case <-p.s.Ready():
		case <-p.stop:
			return net.ErrClosed
		}
	}
}

// wake has the watch look again: there is something outstanding, or an ACK to come.
func (p *pump) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

func (p *pump) busy(since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writing = since
}

// tick tells the session the time, if it is due or a while ago.
func (p *pump) tick(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !now.Before(p.due) || now.Sub(p.told) >= advanceEvery {
		p.due, p.told = p.s.Advance(now), now
	}
}

// watch keeps the session's time. The session asks a silent link for a sign of life; when the writer
// is blocked it can't ask, so a write that stands still while nothing is heard counts as asking.
func (p *pump) watch() error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	at := time.Now()
	for {
		select {
		case <-timer.C:
			now := time.Now()
			p.late(now.Sub(at))
			p.tick(now)
			if p.stuck(now) {
				return fmt.Errorf("write to link: %w", session.ErrSilent)
			}
			at = p.next(false)
		case <-p.kick:
			at = p.next(true)
		case <-p.s.Done():
			return p.s.Err()
		case <-p.stop:
			return net.ErrClosed
		}
		timer.Reset(time.Until(at))
	}
}

// late does not count the time for which a blocked write could not be looked at.
func (p *pump) late(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if by > lateAfter && !p.writing.IsZero() {
		p.writing = p.writing.Add(by)
	}
}

// next is when to look again; after a kick at most advanceEvery after the last time.
func (p *pump) next(kicked bool) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.due
	if kicked {
		at = earlier(at, p.told.Add(advanceEvery))
	}
	if !p.writing.IsZero() {
		at = earlier(at, time.Now().Add(stuckEvery))
	}
	return at
}

func (p *pump) stuck(now time.Time) bool {
	p.mu.Lock()
	since := p.writing
	p.mu.Unlock()
	if since.IsZero() {
		return false
	}
	if heard := p.s.Heard(); heard.After(since) {
		since = heard
	}
	srtt := p.s.SRTT()
	return now.Sub(since) >= max(3*srtt, silentAfter)+max(4*srtt, deadAfter)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
