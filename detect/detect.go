package detect

import (
	"errors"
	"fmt"
)

// Kind is a class of packets that has a threshold of its own.
type Kind int

// The kinds. The paper's experiments flood with SYN and ICMP.
const (
	All  Kind = iota // every packet
	SYN              // TCP segments with SYN and without ACK
	ICMP             // ICMP and ICMPv6
	UDP
)

// Kinds is the number of kinds.
const Kinds = 4

func (k Kind) String() string {
	switch k {
	case All:
		return "all"
	case SYN:
		return "syn"
	case ICMP:
		return "icmp"
	case UDP:
		return "udp"
	default:
		return fmt.Sprintf("kind(%d)", int(k))
	}
}

// Counts are packets seen since a Counter was opened, by Kind.
type Counts [Kinds]uint64

// Counter counts the packets that arrive at an interface. It is for one goroutine.
type Counter interface {
	// Read returns the packets counted since the counter was opened; the numbers never fall. An
	// error leaves the counter usable: the next Read tries again. After an error that
	// wraps ErrGone it counts on when the interface is back.
	Read() (Counts, error)
	// Close is idempotent; Read then returns net.ErrClosed.
	Close() error
}

// ErrGone says that the interface does not exist now (any more).
var ErrGone = errors.New("no such interface")
