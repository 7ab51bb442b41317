package agent

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

// explainEnrol says what it can mean that no entry enrolled us. A foreign token gets no answer at all, on purpose.
func explainEnrol(err error) error {
	switch {
	case untrusted(err):
		return fmt.Errorf("the proxy that answered is not of the fleet that made this token; nothing was sent to it: %w", flat(err))
	case noAnswer(err):
		return fmt.Errorf("no entry of this token answered: the token may be of another fleet, withdrawn or from before its keys changed, the clock may be wrong, or the network may block the way (%w)", flat(err))
	}
	return fmt.Errorf("join: %w", flat(err))
}

// explainConnect says what it can mean that no edge took us.
func explainConnect(err error) error {
	switch {
	case untrusted(err):
		return fmt.Errorf("a proxy that answered is not trusted: %w", flat(err))
	case noAnswer(err):
		return fmt.Errorf("no proxy answered: the network is down or eats it, or this agent's keys are too old or of another fleet; if that stays so, join again with a new token (%w)", flat(err))
	}
	return flat(err)
}

// untrusted reports whether somebody answered who is not who was dialled.
func untrusted(err error) bool {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	return errors.Is(err, link.ErrPeer) || errors.Is(err, proto.ErrIdentity) || errors.As(err, &unknown) || errors.As(err, &invalid)
}

// unreachables are what the system says where the network is away: after a wake-up, or between one network and the next.
var unreachables = []error{
	syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN,
	syscall.EPROTOTYPE, syscall.EADDRNOTAVAIL,
}

// noAnswer reports whether err is only silence.
func noAnswer(err error) bool {
	if errors.Is(err, link.ErrSilent) || errors.Is(err, os.ErrDeadlineExceeded) ||
		slices.ContainsFunc(unreachables, func(e error) bool { return errors.Is(err, e) }) {
		return true
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// flatError is an error of several lines said in one.
type flatError struct{ err error }

func (e flatError) Error() string { return strings.ReplaceAll(e.err.Error(), "\n", "; ") }
func (e flatError) Unwrap() error { return e.err }

func flat(err error) error { return flatError{err} }
