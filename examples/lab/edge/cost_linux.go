package edge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/kernel"
)

// price measures what a SYN costs: the flood's thread does the work of the edge's kernel itself, as far as it can, so its own time
// tells, without what the flood costs alone. To it come what the kernel leaves to its softirq threads, and the edge's program.
func (r *run) price(ctx context.Context, t *target, port uint16, p priced) (err error) {
	s := r.stage
	if err := s.ring(t, false); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.ring(t, true)) }()
	cfg := flood.Config{Kind: flood.SYN, Target: netip.AddrPortFrom(t.at, port), Sources: lab.FloodSources4, Rate: flood.MostStorm, Time: r.sizes.cost}
	switch p.kind {
	case random:
		cfg.Size = proofLen
	case replay:
		cfg.Data = r.proofs
	}
	for range r.sizes.costs {
		alone, err := t.wire.Alone(ctx, cfg, t.cable.MAC, restCPU)
		if err != nil {
			return err
		}
		before, err := s.used(t)
		if err != nil {
			return err
		}
		storm, err := t.wire.Storm(ctx, cfg, t.cable.MAC, restCPU)
		if err != nil {
			return err
		}
		after, err := s.used(t)
		if err != nil {
			return err
		}
		taken := float64(after.taken - before.taken)
		if taken == 0 || alone.Sent == 0 {
			return errors.New("nothing of the flood arrived")
		}
		making := float64(alone.CPU) / float64(alone.Sent) * float64(storm.Sent)
		program := float64(after.program - before.program)
		p.program = append(p.program, program/taken)
		p.ns = append(p.ns, (float64(storm.CPU+after.softirq-before.softirq)+program-making)/taken)
		p.answered += float64(after.answered-before.answered) / taken / float64(r.sizes.costs)
	}
	r.prices = append(r.prices, p)
	return nil
}

// use is what a target has used so far.
type use struct {
	softirq, program time.Duration // the kernel's threads for it, and the edge's program
	taken, answered  uint64
}

func (s *stage) used(t *target) (u use, err error) {
	if u.softirq, err = kernel.ThreadUsed("ksoftirqd/"); err != nil {
		return u, err
	}
	pid, err := s.PID(t.child)
	if err != nil {
		return u, err
	}
	if u.program, err = processCPU(pid); err != nil {
		return u, fmt.Errorf("time of %s: %w", t.child, err)
	}
	x, err := t.snapshot()
	u.taken, u.answered = x.taken, x.counts.Answered
	return u, err
}

// processCPU is what all threads of a process have used, by its clock (clock_getcpuclockid).
func processCPU(pid int) (time.Duration, error) {
	var ts unix.Timespec
	const schedClock = 2
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}

// priceBaseline is price of a system that is not ours.
func (r *run) priceBaseline(ctx context.Context, system string) (err error) {
	end, skip, err := r.stage.begin(ctx, system)
	if err != nil || skip != "" {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	err = r.price(ctx, r.stage.base, lab.WebPort, priced{system: system, kind: fresh})
	if errors.Is(err, kernel.ErrNoThreads) {
		r.priceNo[system], err = err.Error(), nil
	}
	return err
}
