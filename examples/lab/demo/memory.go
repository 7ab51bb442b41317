package demo

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/memory"
	"migrationsensor/examples/lab/scan"
	"migrationsensor/examples/lab/scenario"
)

// RunMemory plays the scenario in memory, as Run does on the real kernel. why is told: the reason for this world.
func RunMemory(ctx context.Context, o Options, why string, out *os.File) error {
	if err := o.check(); err != nil {
		return err
	}
	name := filepath.Join(o.Out, "demo-logs", "memory.log")
	r := newRun(&o, "memory", "in memory")
	r.logs = fmt.Sprintf("log: %s   seed: %d\nin memory: the programs are goroutines of this process, and their times say little about a real machine", name, o.Seed)
	r.board.say("the lab in memory: %s", why)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	log, err := os.Create(name)
	if err != nil {
		return err
	}
	defer log.Close()
	r.open = func(ctx context.Context, say func(string, ...any)) (world, error) {
		w, err := memory.New(ctx, memory.Config{
			Config: o.fleet(), Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		}, say)
		return &memoryWorld{w, o.light}, err
	}
	return r.show(ctx, out)
}

// memoryWorld is the lab in memory: programs and applications are goroutines, on hosts that are gVisor stacks.
type memoryWorld struct {
	*memory.World
	light bool
}

var _ world = (*memoryWorld)(nil)

func (w *memoryWorld) flood(ctx context.Context, a fleet.Attack) (string, error) {
	r, err := w.Attack(ctx, a)
	return fmt.Sprintf("%d packets, %.0f/s", r.Sent, r.Rate()), err
}

func (w *memoryWorld) scan(ctx context.Context, target, unused netip.Addr) (scan.Result, error) {
	return w.Scan(ctx, target, unused)
}

func (w *memoryWorld) fetch(ctx context.Context, machine string, at netip.AddrPort) fleet.Sample {
	return scenario.Fetch(ctx, w, machine, at, "/file", fleet.FetchLimit)
}

// packets are of a TUN that carries nothing by itself.
func (w *memoryWorld) packets(ctx context.Context, machine string) (uint64, error) {
	st, err := w.AgentStatus(ctx, machine)
	return st.Counts.TUNPackets, err
}
