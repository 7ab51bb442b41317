package agent

import (
	"errors"
	"fmt"
	"time"

	"migrationsensor/agent/connhandler"
	"migrationsensor/proto"
	"migrationsensor/proto/session"
)

// A tether as the Connection Handler's session. What a new connection waits for takes no lock of the tether.

// Retire lets the tether end with its last stream, if it was made for that one.
func (t *tether) Retire() {
	if t.single {
		t.setRetired(true)
	}
}

// Ping asks every link that carries streams for a sign of life: the stream may be on any of them.
func (t *tether) Ping() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range t.links {
		if d.role != parked {
			d.share.Ping()
		}
	}
}

// Heard is since when one of those links says nothing; zero: there is none.
func (t *tether) Heard() (at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := true
	for _, d := range t.links {
		if d.role == carrying || d.role == joining && !d.extra {
			if h := d.share.Heard(); first || h.Before(at) {
				at, first = h, false
			}
		}
	}
	return at
}

// SRTT is that of the link that streams are asked for on; 0: unknown.
func (t *tether) SRTT() time.Duration {
	if d := t.current.Load(); d != nil {
		return d.SRTT()
	}
	return 0
}

// Begin asks for a stream.
func (t *tether) Begin(service string) (connhandler.Opening, error) {
	st, err := t.sess.Begin(service)
	if err != nil {
		return nil, openError(err)
	}
	if t.begun.Add(1)%poolStreams == 0 { // perhaps there are more now than the links are for
		t.look()
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
