package anchor

import (
	"context"
	"net"
)

// Dialing is a connection to an origin that was begun. Now is called first. Where that has an answer and no error, Conn
// follows; where it has none yet, Wait.
type Dialing interface {
	// Now says, without waiting, whether the origin has answered, and its error.
	Now() (answered bool, err error)
	// Conn is the connection that the origin has accepted.
	Conn() (net.Conn, error)
	// Wait waits for the connection until ctx is done.
	Wait(ctx context.Context) (net.Conn, error)
}

// begin begins to connect to an origin. What Begin can't do, a host name for one, Dial does, which waits.
func (a *Anchor) begin(origin string) Dialing {
	if a.cfg.Begin != nil {
		if d, ok := a.cfg.Begin(origin); ok {
			return d
		}
	}
	return waiting{a, origin}
}

// waiting is a connection for which Dial waits.
type waiting struct {
	a      *Anchor
	origin string
}

func (waiting) Now() (bool, error)      { return false, nil }
func (waiting) Conn() (net.Conn, error) { panic("BUG: Conn of a dial that is waited for") }

func (w waiting) Wait(ctx context.Context) (net.Conn, error) {
	return w.a.cfg.Dial(ctx, "tcp", w.origin)
}
