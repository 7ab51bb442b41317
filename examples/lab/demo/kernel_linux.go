package demo

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
	"migrationsensor/examples/lab/scan"
	"migrationsensor/examples/lab/scenario"
)

// Run plays the scenario inside kernel.Enter's sandbox: on a terminal with a live screen, elsewhere
// with a line a second. It writes out/demo.json and prints the table; nil means PASS.
func Run(ctx context.Context, o Options, out *os.File) error {
	if err := o.Check(); err != nil {
		return err
	}
	r := newRun(&o, "kernel", "on this machine's kernel")
	r.logs = "logs: " + filepath.Join(o.Out, "demo-logs")
	r.open = func(ctx context.Context, say func(string, ...any)) (world, error) {
		f, err := fleet.New(ctx, o.fleet(), say)
		if err != nil {
			return &kernelWorld{Kernel: scenario.Kernel{Fleet: f}}, err
		}
		w := &kernelWorld{Kernel: scenario.Kernel{Fleet: f}}
		w.fetcher, err = newFetcher(f.Origin.Digest)
		return w, err
	}
	return r.show(ctx, out)
}

// kernelWorld is the lab on the real kernel: every program is a process, and the applications are curl and ssh.
type kernelWorld struct {
	scenario.Kernel
	fetcher *fetcher
}

var _ world = (*kernelWorld)(nil)

// Start implements world.
func (w *kernelWorld) Start(name string) error { return w.Revive(name) }

func (w *kernelWorld) flood(ctx context.Context, a fleet.Attack) (string, error) {
	return w.Fleet.Attack(ctx, a)
}

func (w *kernelWorld) scan(ctx context.Context, target, unused netip.Addr) (r scan.Result, err error) {
	err = w.World.Attacker.Block(func() (err error) {
		r, err = scan.Run(ctx, scanOf(target, unused))
		return err
	})
	return r, err
}

func (w *kernelWorld) fetch(ctx context.Context, machine string, at netip.AddrPort) fleet.Sample {
	ns, err := w.machine(machine)
	if err != nil {
		return fleet.Sample{Err: err.Error()}
	}
	return w.fetcher.fetch(ctx, ns, at)
}

func (w *kernelWorld) packets(ctx context.Context, machine string) (uint64, error) {
	ns, err := w.machine(machine)
	if err != nil {
		return 0, err
	}
	return w.QuietTUN(ctx, ns)
}

func (w *kernelWorld) machine(name string) (*kernel.Namespace, error) {
	if name == "plain" {
		return w.World.Plain, nil
	}
	if ns := w.Namespace(name); ns != nil {
		return ns, nil
	}
	return nil, fmt.Errorf("no application runs on %q", name)
}
