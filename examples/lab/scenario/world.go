// Package scenario holds what is played in both labs: in memory and on the real kernel. A scenario is written once against
// [World].
package scenario

import (
	"context"
	"crypto/sha256"
	"net"
	"net/netip"
	"time"

	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
)

// World is a lab with the fleet in it: *memory.World, or Kernel around a *fleet.Fleet. Machines and programs have the same
// names: client, each, fresh, plain, p1, p2, p3, sign.
type World interface {
	// StartAgent starts an agent, which joins with a token of its own; probe is "warm" or "each".
	StartAgent(name, probe string) error
	WaitForAgent(ctx context.Context, name string, limit time.Duration) error
	// Dial connects as an unmodified application on a machine.
	Dial(ctx context.Context, machine string, to netip.AddrPort) (net.Conn, error)
	// Attack floods from the attacker's machine until the flood is over or ctx is done.
	Attack(ctx context.Context, a fleet.Attack) (flood.Result, error)

	// Stop asks a program to end, as SIGTERM does, and waits. It keeps its files.
	Stop(name string) error

	ProxyStatus(ctx context.Context, name string) (fleet.ProxyStatus, error)
	AgentStatus(ctx context.Context, name string) (fleet.AgentStatus, error)
	Digest() [sha256.Size]byte // of the origin's file

	// Wait waits until ok, at most for limit; what runs must live meanwhile.
	Wait(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error
	Healthy() error
	Close() error
}

// Mortal is a world whose programs can die: Kill, Freeze and Thaw do what SIGKILL, SIGSTOP and SIGCONT do; Start runs a
// node again.
type Mortal interface {
	World
	Kill(name string) error
	Freeze(name string) error
	Thaw(name string) error
	Start(name string) error
	// ResetLinks cuts all links that end at a proxy, by resets to both ends, and says how many.
	ResetLinks(name string) (int, error)
}
