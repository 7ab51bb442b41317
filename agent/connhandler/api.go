package connhandler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// Flow is an application's connection whose handshake is not answered yet. Exactly one of Accept, Refuse,
// Unreachable and Drop is called.
type Flow interface {
	Src() netip.AddrPort
	Dst() netip.AddrPort
	Early() Early          // what [Handler.Arrive] said to its SYN
	Accept() (Conn, error) // finishes the handshake; an error means that the application has gone
	Refuse()               // connect() gives ECONNREFUSED
	Unreachable()          // connect() gives EHOSTUNREACH
	Drop()                 // silence: connect() times out when the application says so
	Context() context.Context
}

// Early is what was begun for a flow before it was handled.
type Early interface{ Abort() }

// Conn is one end of a byte stream. CloseWrite is TCP's half-close; Abort ends it with a reset.
type Conn interface {
	net.Conn
	CloseWrite() error
	Abort()
}

// Session opens streams by way of a proxy. It outlives its links, and moves from proxy to proxy.
type Session interface {
	// Begin asks for a stream and does not wait.
	Begin(service string) (Opening, error)
	// Ping asks its links for a sign of life; it does not wait.
	Ping()
	// Heard is since when one of its links says nothing.
	Heard() time.Time
	SRTT() time.Duration
	// Retire lets the session end when its streams have ended.
	Retire()
}

// Opening is a stream that was asked for.
type Opening interface {
	Done() <-chan struct{} // closed when there is an answer
	// Result is, once Done is closed, a stream that the origin has accepted, or one of the errors below, or what ended
	// the session.
	Result() (Conn, error)
	Abort() // gives it up
}

// Ways are the sessions there are, or can be made.
type Ways interface {
	// Warm is the session for a service's new streams; nil when there is none that has a link.
	Warm(service string) Session
	// Fresh gives the service's session a link that was made just now; callers at the same time share it. That session is
	// old while old lives: it asks again by itself for the streams whose OPEN was not answered, and none is opened twice at
	// the origin. Nobody who speaks our protocol: [ErrNobody].
	Fresh(ctx context.Context, service string, old Session) (Session, error)
	// Each asks the proxy at dst where one connection should go: the paper's first handshake, with a bounded wait. The
	// answer is warm if that will do, else a session made for this connection: the second one. warm may be nil. Nobody
	// who speaks our protocol: [ErrNobody].
	Each(ctx context.Context, dst netip.AddrPort, service string, warm Session) (Session, error)
}

// What became of a connection. The first three carry the system's own error, so a caller of [Handler.Dial] may
// treat them as it treats what a socket gives.
var (
	ErrRefused     = fmt.Errorf("the origin refused: %w", syscall.ECONNREFUSED)
	ErrUnreachable = fmt.Errorf("the origin is unreachable: %w", syscall.EHOSTUNREACH)
	ErrTimedOut    = fmt.Errorf("the origin did not answer: %w", os.ErrDeadlineExceeded)
	ErrDenied      = fmt.Errorf("this agent's groups may not use the service: %w", syscall.EACCES)
	ErrBusy        = errors.New("the proxy is busy")
	ErrNobody      = fmt.Errorf("no proxy answers: %w", syscall.EHOSTUNREACH)
	ErrUnprotected = fmt.Errorf("no service of the fleet has this address: %w", syscall.EADDRNOTAVAIL)
)

// verdict reports whether err is the proxy's answer about the origin; asking another link would not change it.
func verdict(err error) bool {
	for _, e := range []error{ErrRefused, ErrUnreachable, ErrTimedOut, ErrDenied} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
