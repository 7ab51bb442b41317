package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"migrationsensor/agent/connhandler"
	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
)

const (
	sessionTimeout = 5 * time.Second        // from SESSION to its answer
	drainCheck     = 20 * time.Millisecond  // how soon a retired session is looked at, then
	drainCheckMax  = 250 * time.Millisecond // less and less often
)

var errDeadline = errors.New("the migration's deadline has passed")

// dataLink is a link with its session: in this version each link has its own, and both end together.
type dataLink struct {
	link  *link.Link
	sess  *session.Session
	since time.Time
	cand  candidate

	held bool // by the current uplink; guarded by Agent.mu

	retired    chan struct{} // closed by Retire
	retireOnce sync.Once
	done       chan struct{} // closed when the session has ended and the link is closed
}

// openSession makes a session on a link that is up; ctx bounds the question only. run has to follow.
func openSession(ctx context.Context, l *link.Link, now time.Time) (*dataLink, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	ok, err := link.OpenSession(ctx, l, proto.Session{Credit: session.DefaultWindow})
	if err != nil {
		l.Abort()
		return nil, fmt.Errorf("session at proxy %s: %w", l.Target.Node, err)
	}
	return &dataLink{
		link: l, since: now, retired: make(chan struct{}), done: make(chan struct{}),
		sess: session.New(session.Config{PeerWindow: int(ok.Credit), MaxStreams: int(ok.MaxStreams)}),
	}, nil
}

// run carries the session until it ends, by itself, because its link did, or because it was retired and its last
// stream has ended.
func (d *dataLink) run(ctx context.Context) {
	defer close(d.done)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { d.drain(ctx) })
	err := link.Pump(ctx, d.link, d.sess)
	d.sess.Close(err)
	d.link.Abort()
}

// drain ends a retired session when its streams have.
func (d *dataLink) drain(ctx context.Context) {
	select {
	case <-d.retired:
	case <-d.sess.Done():
		return
	}
	wait := drainCheck
	for d.sess.Streams() > 0 {
		select {
		case <-time.After(wait):
		case <-d.sess.Done():
			return
		case <-ctx.Done():
			return
		}
		wait = min(2*wait, drainCheckMax)
	}
	d.sess.Close(nil)
}

// end resets what still runs.
func (d *dataLink) end(why error) { d.sess.Close(why) }

func (d *dataLink) ended() bool { return d.sess.Err() != nil }

// Retire, Ping, Heard, SRTT and Open make it a connhandler.Session.
func (d *dataLink) Retire() { d.retireOnce.Do(func() { close(d.retired) }) }

func (d *dataLink) Ping() { d.sess.Ping() }

func (d *dataLink) Heard() time.Time { return d.sess.Heard() }

// SRTT is the session's, which includes the anchor, or the kernel's before the first PING.
func (d *dataLink) SRTT() time.Duration {
	if rtt := d.sess.SRTT(); rtt > 0 {
		return rtt
	}
	return d.link.RTT()
}

func (d *dataLink) Open(ctx context.Context, service string) (connhandler.Conn, error) {
	st, err := d.sess.Open(ctx, service)
	if err != nil {
		return nil, openError(err)
	}
	return st, nil
}

// openError says the anchor's answer in the Connection Handler's words.
func openError(err error) error {
	e, ok := errors.AsType[*session.OpenError](err)
	if !ok {
		return err
	}
	var is error
	switch e.Code {
	case proto.OpenRefused:
		is = connhandler.ErrRefused
	case proto.OpenUnreachable:
		is = connhandler.ErrUnreachable
	case proto.OpenTimedOut:
		is = connhandler.ErrTimedOut
	case proto.OpenDenied:
		is = connhandler.ErrDenied
	case proto.OpenBusy:
		is = connhandler.ErrBusy
	default:
		return fmt.Errorf("%w: %w", connhandler.ErrUnreachable, err)
	}
	return fmt.Errorf("%w (%w)", is, err)
}
