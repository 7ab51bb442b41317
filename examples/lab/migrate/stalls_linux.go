package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/kernel"
)

// stall measures what each kind of event does to few and to many agents at once, at each round trip.
func (r *run) stall(ctx context.Context) error {
	for _, h := range r.sizes.herds {
		if err := r.stallOf(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) stallOf(ctx context.Context, h herd) error {
	c, err := r.join(ctx, h.agents, h.rhythm())
	if err != nil {
		return err
	}
	for _, rtt := range rtts {
		if err := r.crowdLink.Set(kernel.Conditions{Delay: rtt / 2}); err != nil {
			return errors.Join(err, c.close())
		}
		for round := range h.rounds {
			for _, kind := range kinds {
				if round >= h.times(kind) {
					continue
				}
				r.progress.Enter("%s: %s, %d agents, %v round trip", partStalls, kind, h.agents, rtt)
				if err := r.oneStall(ctx, c, event{kind, rtt, h.agents}); err != nil {
					return errors.Join(fmt.Errorf("%s at %v: %w", kind, rtt, err), r.leave(ctx, c))
				}
				r.progress.Did(partStalls)
			}
		}
	}
	if err := r.crowdLink.Set(kernel.Conditions{Delay: rtts[0] / 2}); err != nil {
		return errors.Join(err, c.close())
	}
	return r.leave(ctx, c)
}

// oneStall makes one event happen to all agents, who are at P1 before and after.
func (r *run) oneStall(ctx context.Context, c *crowd, e event) error {
	if err := sleep(ctx, r.sizes.settle); err != nil { // after the one before, and for the round trips to be learnt
		return err
	}
	from := time.Now()
	undo, err := r.cause(ctx, e.kind)
	if err != nil {
		return err
	}
	felt, err := felt(ctx, c, from, r.sizes.settle)
	if err := errors.Join(err, undo()); err != nil {
		return err
	}
	r.stalls[e] = append(r.stalls[e], felt...)
	return c.gather(ctx, "p1")
}

// cause makes the event happen at P1.
func (r *run) cause(ctx context.Context, kind string) (undo func() error, err error) {
	nothing := func() error { return nil }
	switch kind {
	case planned:
		return nothing, r.fleet.Migrate(ctx, "p1", "p2")
	case reset:
		_, err := r.fleet.ResetLinks("p1")
		return nothing, err
	case silent:
		return r.fleet.World.Silence(lab.P1, lab.Both)
	}
	return nothing, nil
}

// quiet is how lately an echo must have come for a connection to be well.
const quiet = 200 * time.Millisecond

// felt waits until every connection has been well for a while again and tells what each felt since from.
func felt(ctx context.Context, c *crowd, from time.Time, settle time.Duration) (stalls []time.Duration, err error) {
	if err := sleep(ctx, settle+quiet); err != nil {
		return nil, err
	}
	err = c.site.Wait(ctx, 30*time.Second, "every connection goes on", func() (bool, error) {
		var s app.Stalls
		if err := c.call(ctx, "Stalls", app.Window{From: from, To: time.Now().Add(-quiet)}, &s); err != nil {
			return false, err
		}
		stalls = s.Longest
		return s.Open == 0, fmt.Errorf("%d of %d still wait", s.Open, len(s.Longest))
	})
	return stalls, err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
