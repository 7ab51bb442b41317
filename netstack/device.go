package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Device is where packets come from: a TUN (OpenTUN), or a memory link of package memnet.
type Device interface {
	// Name of the interface in the system; hostnet.Config.Device wants it.
	Name() string

	// LinkEndpoint is what the stack attaches to. Its Wait returns when no packet will be read any more.
	LinkEndpoint() stack.LinkEndpoint

	// Err says why reading ended; nil after Close.
	Err() error

	// Close ends reading and writing and gives the interface back. It is idempotent.
	Close() error
}

// OpenTUN creates the TUN device name with the given MTU; it is left down and without addresses.
//
// On Linux packets cross with segmentation and checksum offload in both directions. A kernel that refuses
// that gets a plain TUN with a large MTU instead, so the MTU asked for is a wish. An error says what is
// missing and how to get it.
func OpenTUN(name string, mtu int) (Device, error) { return openTUN(name, mtu) }
