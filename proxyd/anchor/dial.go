package anchor

import (
	"context"
	"net"
)

// Dialing is a connection to an origin that was begun. Now is called first; if that has no answer yet, Wait.
type Dialing interface {
	// Now does not wait: without an answer yet both results are nil.
	Now() (net.Conn, error)
	// Wait ends with ctx.
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

func (waiting) Now() (net.Conn, error) { return nil, nil }

func (w waiting) Wait(ctx context.Context) (net.Conn, error) {
	return w.a.cfg.Dial(ctx, "tcp", w.origin)
}
