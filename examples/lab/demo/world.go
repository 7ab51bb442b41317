package demo

import (
	"context"
	"net/netip"
	"time"

	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/scan"
)

// world is the lab that the scenario is played in: kernelWorld or memoryWorld. Machines and programs have the same names in
// both: client, each, fresh, plain, p1, p2, p3, e2, a1.
type world interface {
	StartAgent(name, probe string) error
	WaitForAgent(ctx context.Context, name string, limit time.Duration) error
	Forget(ctx context.Context, name string) error

	Stop(name string) error
	Kill(name string) error
	Start(name string) error // a node that was killed
	Drain(ctx context.Context, name string) error
	Undrain(ctx context.Context, name string) error
	Home(ctx context.Context, name string) error

	ProxyStatus(ctx context.Context, name string) (fleet.ProxyStatus, error)
	AgentStatus(ctx context.Context, name string) (fleet.AgentStatus, error)
	Wait(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error
	Healthy() error
	Close() error

	flood(ctx context.Context, a fleet.Attack) (told string, err error)
	scan(ctx context.Context, target, unused netip.Addr) (scan.Result, error)
	fetch(ctx context.Context, machine string, at netip.AddrPort) fleet.Sample
	packets(ctx context.Context, machine string) (uint64, error) // in its TUN, when that is quiet
	sessions(ctx context.Context) (*sessions, error)             // begins them; what is returned must be finished, also with an error
}

// nodes are the demo's. Each edge has the neighbours that show one thing: P1's clients go to P2, P2's to P3 or home to P1. The
// second entry is where agents turn by themselves if P1 is silent.
func nodes() []fleet.Node {
	return []fleet.Node{
		{Name: "p1", Kind: fleet.Entry, Neighbours: []string{"p2"}},
		{Name: "p2", Kind: fleet.Hidden, Neighbours: []string{"p1", "p3"}},
		{Name: "p3", Kind: fleet.Hidden, Neighbours: []string{"p2", "e2"}},
		{Name: "e2", Kind: fleet.Entry, Neighbours: []string{"p3"}},
		{Name: "a1", Kind: fleet.Anchor},
	}
}
