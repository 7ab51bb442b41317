package link

import (
	"errors"
	"fmt"
	"io"
	"net"

	"migrationsensor/proto"
)

// Errors of an attempt.
var (
	// ErrGarbage is an answer that is neither TLS nor a sealed reply to this attempt.
	ErrGarbage = errors.New("the answer is not from a proxy of this fleet")
	// ErrSilent is no answer at all to the first flight: a proxy says nothing to a preamble it can't verify.
	ErrSilent = errors.New("no answer to the preamble")
)

const (
	recordHandshake = 0x16
	recordAlert     = 0x15
)

// SealedError is a proxy's sealed answer in place of TLS.
type SealedError struct{ Reply proto.Reply }

func (e *SealedError) Error() string {
	r := e.Reply
	switch r.Kind {
	case proto.ReplyGo:
		return "the proxy serves its clients itself (GO)"
	case proto.ReplyTransfer:
		return "the proxy sends this client to another one (TRANSFER)"
	case proto.ReplyRetry:
		return fmt.Sprintf("the proxy asks to come again in %v (RETRY)", r.After)
	case proto.ReplyBusy:
		return fmt.Sprintf("the proxy is full, for %v (BUSY)", r.After)
	}
	switch r.Code {
	case proto.RejectClock:
		return "the proxy rejects this machine's clock (REJECT); set it right, then try again"
	case proto.RejectVersion:
		return "the proxy speaks another version of the protocol (REJECT); update ms-agent"
	case proto.RejectRevoked:
		return "the proxy says that this agent was revoked (REJECT); join again with a new token"
	case proto.RejectAnchor:
		return "the proxy says that the anchor of this session is gone (REJECT)"
	}
	return fmt.Sprintf("the proxy rejects this client with code %d (REJECT)", r.Code)
}

// flight is the TCP connection under a dialler's TLS. It puts the preamble in front of the first
// write, and looks at the first byte that comes back.
type flight struct {
	net.Conn
	preamble []byte
	keys     proto.Admission

	sent bool  // owned by the writer
	seen bool  // owned by the reader, as err
	err  error // what the first byte meant, when it was not TLS
}

func (f *flight) Write(b []byte) (int, error) {
	if f.sent {
		return f.Conn.Write(b)
	}
	f.sent = true
	n := len(f.preamble) + len(b)
	if n > proto.FirstFlightMax {
		return 0, fmt.Errorf("BUG: first flight of %d bytes, at most %d", n, proto.FirstFlightMax)
	}
	n, err := f.Conn.Write(append(f.preamble[:len(f.preamble):len(f.preamble)], b...))
	return max(0, n-len(f.preamble)), err
}

func (f *flight) Read(b []byte) (int, error) {
	if f.seen || len(b) == 0 {
		return f.Conn.Read(b)
	}
	n, err := f.Conn.Read(b)
	if n == 0 {
		return n, err
	}
	f.seen = true
	switch b[0] {
	case recordHandshake, recordAlert:
		return n, err
	case proto.SealedFirst:
		f.err = f.sealed(b[:n])
	default:
		f.err = ErrGarbage
	}
	return 0, f.err
}

// probe sends the preamble alone and waits for the sealed reply that is all of the answer; it never
// returns nil.
func (f *flight) probe() error {
	if _, err := f.Write(nil); err != nil {
		return err
	}
	var first [1]byte
	if _, err := io.ReadFull(f.Conn, first[:]); err != nil {
		return err
	}
	f.seen = true
	if first[0] != proto.SealedFirst {
		f.err = ErrGarbage // TLS is no answer to a probe
	} else {
		f.err = f.sealed(first[:])
	}
	return f.err
}

// sealed reads the rest of a sealed reply; it never returns nil.
func (f *flight) sealed(begin []byte) error {
	var b [proto.SealedLen]byte
	n := copy(b[:], begin)
	if _, err := io.ReadFull(f.Conn, b[n:]); err != nil {
		return fmt.Errorf("%w: sealed reply cut off: %w", ErrGarbage, err)
	}
	r, err := proto.OpenReply(b[:], f.preamble, f.keys)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGarbage, err)
	}
	return &SealedError{Reply: r}
}
