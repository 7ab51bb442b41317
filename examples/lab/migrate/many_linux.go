package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
)

// watchers are how many of many sessions are watched: the others' echoes would be most of the machine's work.
const watchers = 100

// manyAtOnce moves many sessions from P1 to P2 at once.
func (r *run) manyAtOnce(ctx context.Context) error {
	for _, n := range r.sizes.many {
		r.progress.Enter("%s: %d join", partMany, n)
		c, err := r.join(ctx, n, min(watchers, n))
		if err != nil {
			return err
		}
		r.progress.Enter("%s: %d move at once", partMany, n)
		m, err := r.moveAll(ctx, c)
		if err := errors.Join(err, r.leave(ctx, c)); err != nil {
			return err
		}
		r.many = append(r.many, m)
		r.progress.Did(partMany)
	}
	if r.opts.Memory == nil {
		return nil
	}
	for _, n := range r.sizes.memory {
		r.progress.Enter("%s: %d, in memory", partMany, n)
		m, err := r.opts.Memory(ctx, n, r.progress.Say)
		if err != nil {
			return fmt.Errorf("%d in memory: %w", n, err)
		}
		r.many = append(r.many, m)
	}
	return nil
}

// moveAll moves a crowd and waits for the last of it.
func (r *run) moveAll(ctx context.Context, c *crowd) (m Many, err error) {
	m = Many{World: "kernel", Sessions: c.agents, Used: map[string]Used{}}
	nodes := map[string]string{"p2": "p2", "anchor": "a1"}
	before := map[string]fleet.Usage{}
	for at, node := range nodes {
		if before[at], err = r.fleet.Usage(node); err != nil {
			return m, err
		}
	}
	begin := time.Now()
	told := make(chan error, 1)
	go func() { told <- r.fleet.Migrate(ctx, "p1", "p2") }()
	err = r.moving(ctx, c, begin, &m)
	if told := <-told; told != nil { // a figure says how many are left
		r.progress.Say("%v", told)
	}
	if err != nil {
		return m, err
	}
	for at, node := range nodes {
		u, err := r.fleet.Usage(node)
		if err != nil {
			return m, err
		}
		m.Used[at] = Used{CPU: u.CPU - before[at].CPU, Of: time.Since(begin), RSS: u.RSS}
	}
	if m.Stalls, err = felt(ctx, r.fleet, c, begin, r.sizes.settle); err != nil && ctx.Err() == nil {
		r.progress.Say("%v", err) // what broke is counted when the crowd leaves
		err = nil
	}
	return m, err
}

// moving waits until all links have moved and notes when the last did.
func (r *run) moving(ctx context.Context, c *crowd, begin time.Time, m *Many) error {
	err := fleet.Wait(ctx, 90*time.Second, fmt.Sprintf("%d sessions move to P2", c.agents), r.fleet.Children(), func() (bool, error) {
		all, err := c.places(ctx)
		if err != nil {
			return false, err
		}
		m.note(all, begin)
		controls := at(all, control)["p2"]
		if controls == c.agents && m.Control == 0 {
			m.Control = time.Since(begin)
		}
		return m.Moved == c.agents && m.Control > 0, fmt.Errorf("%d data links and %d control links have", m.Moved, controls)
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil { // a figure says how many are left
		r.progress.Say("%v", err)
	}
	return nil
}

// note counts whose data link has moved, and when the last did.
func (m *Many) note(all []app.Place, begin time.Time) {
	m.Moved = 0
	for _, p := range all {
		if fleet.NameOf(p.Data) == "p2" {
			m.Moved++
			m.Last = max(m.Last, p.Since.Sub(begin))
		}
	}
}
