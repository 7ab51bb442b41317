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
	drainCheck    = 20 * time.Millisecond  // how soon a retired session is looked at, then
	drainCheckMax = 250 * time.Millisecond // less and less often
)

var errDeadline = errors.New("the migration's deadline has passed")

// dataLink is a link with its session: in this version each link has its own, and both end together.
type dataLink struct {
	link  *link.Link
	sess  *session.Session
	share *session.Link
	since time.Time
	cand  candidate

	held bool // by the current uplink; guarded by Agent.mu

	retired    chan struct{} // closed by Retire
	retireOnce sync.Once
	done       chan struct{} // closed when the session has ended and the link is closed
}

// newDataLink makes a session on a link that is up: SESSION goes with its first OPEN, and no connection waits for the
// answer. run has to follow.
func newDataLink(l *link.Link, now time.Time) *dataLink {
	d := &dataLink{
		link: l, since: now, retired: make(chan struct{}), done: make(chan struct{}),
		sess: session.New(session.Config{}),
	}
	d.share = d.sess.Ask()
	return d
}

// run carries the session until it ends, by itself, because its link did, or because it was retired and its last
// stream has ended.
func (d *dataLink) run(ctx context.Context) {
	defer close(d.done)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { d.drain(ctx) })
	err := link.Pump(ctx, d.link, d.share)
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

// Retire, Ping, Heard, SRTT and Begin make it a connhandler.Session.
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

// Begin asks for a stream.
func (d *dataLink) Begin(service string) (connhandler.Opening, error) {
	st, err := d.sess.Begin(service)
	if err != nil {
		return nil, openError(err)
	}
	return opening{st}, nil
}

// opening is a stream as the Connection Handler waits for it.
type opening struct{ st *session.Stream }

func (o opening) Done() <-chan struct{} { return o.st.Opened() }
func (o opening) Abort()                { o.st.Abort() }
func (o opening) Result() (connhandler.Conn, error) {
	if err := o.st.Answer(); err != nil {
		return nil, openError(err)
	}
	return o.st, nil
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
