package scenario

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/kernel"
)

// Kernel is the lab on the real kernel, as a World: the programs are processes. Its methods are called by one goroutine, but
// for Dial and Attack.
type Kernel struct{ *fleet.Fleet }

var _ Mortal = Kernel{}

// Start implements Mortal.
func (k Kernel) Start(name string) error { return k.Revive(name) }

// Freeze implements Mortal.
func (k Kernel) Freeze(name string) error { return k.Signal(name, syscall.SIGSTOP) }

// Thaw implements Mortal.
func (k Kernel) Thaw(name string) error { return k.Signal(name, syscall.SIGCONT) }

// StartAgent implements World.
func (k Kernel) StartAgent(name, probe string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := os.Stat(k.Paths(name).State); os.IsNotExist(err) {
		if err := k.AgentToken(ctx, name); err != nil {
			return err
		}
	}
	return k.Fleet.StartAgent(name, probe)
}

// Dial implements World.
func (k Kernel) Dial(ctx context.Context, machine string, to netip.AddrPort) (net.Conn, error) {
	w := k.World
	ns, ok := map[string]*kernel.Namespace{"client": w.Client, "fresh": w.Fresh, "each": w.Each, "plain": w.Plain}[machine]
	if !ok {
		return nil, fmt.Errorf("no application runs on %q", machine)
	}
	return ns.Dial(ctx, "tcp", to.String())
}

// Attack implements World. A flood that was stopped has done what it should.
func (k Kernel) Attack(ctx context.Context, a fleet.Attack) (flood.Result, error) {
	r, err := k.Flood(ctx, a)
	if ctx.Err() != nil {
		return r, nil
	}
	return r, err
}

// Digest implements World.
func (k Kernel) Digest() [sha256.Size]byte { return k.Origin.Digest }

// Wait implements World.
func (k Kernel) Wait(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error {
	return fleet.Wait(ctx, limit, what, k.Children(), ok)
}
