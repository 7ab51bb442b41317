package memory

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/scan"
	"migrationsensor/netstack/memnet"
)

// Attack floods from the attacker's machine until the flood's time is over or ctx is done, and says what was sent.
func (w *World) Attack(ctx context.Context, a fleet.Attack) (flood.Result, error) {
	sources := lab.FloodSources4
	if a.Target.Addr().Is6() {
		sources = lab.FloodSources6
	}
	return flood.Over(ctx, flood.Config{
		Kind: a.Kind, Target: a.Target, Sources: sources, Rate: a.Rate, Time: a.Time, Seed: w.cfg.Seed,
	}, w.attacker)
}

// Scan looks for a hidden proxy from the attacker's machine, and compares with an address that nobody has. Routers are
// not there in memory, so nothing answers a short TTL.
func (w *World) Scan(ctx context.Context, target, unused netip.Addr) (scan.Result, error) {
	src := lab.Attacker.V4
	if target.Is6() {
		src = lab.Attacker.V6
	}
	w.attacker.listen(true)
	defer w.attacker.listen(false)
	return scan.Over(ctx, scan.Config{Target: target, Unused: unused, Link: lab.LinkPort, Rate: scan.MaxRate}, w.attacker, src)
}

// attacker is the attacker's raw access to its link: what comes in goes to who listens, and not to the host's stack,
// whose resets would spoil a scan.
type attacker struct {
	i         *memnet.Interface
	frames    chan []byte // from the tap; full: counted in lost
	listening atomic.Bool
	lost      atomic.Uint32
}

func newAttacker(i *memnet.Interface) *attacker {
	a := &attacker{i: i, frames: make(chan []byte, 1024)}
	i.SetTap(memnet.Tap{In: a.in})
	return a
}

func (a *attacker) listen(on bool) { a.listening.Store(on) }

func (a *attacker) in(head []byte) bool {
	if !a.listening.Load() {
		return true
	}
	select {
	case a.frames <- append(ether(head), head...):
	default:
		a.lost.Add(1)
	}
	return false
}

// Send puts frames on the link.
func (a *attacker) Send(frames [][]byte) (int, error) {
	for _, f := range frames {
		a.i.Send(slices.Clone(f[etherLen:]))
	}
	return len(frames), nil
}

// Receive implements scan.Port.
func (a *attacker) Receive(b []byte, limit time.Duration) (int, error) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case f := <-a.frames:
		return copy(b, f), nil
	case <-t.C:
		return 0, nil
	}
}

// Dropped implements scan.Port.
func (a *attacker) Dropped() (uint32, error) { return a.lost.Swap(0), nil }
