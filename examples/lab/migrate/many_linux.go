package migrate

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
)

// manyAtOnce moves many sessions from P1 to P2 at once.
func (r *run) manyAtOnce(ctx context.Context) error {
	for _, n := range r.sizes.many {
		r.progress.Enter("%s: %d join", partMany, n)
		c, err := r.join(ctx, n, inCrowds(n))
		if err != nil {
			return err
		}
		r.progress.Enter("%s: %d move at once", partMany, n)
		v := &mover{crowd: c, say: r.progress.Say, settle: r.sizes.settle, used: r.used, m: Many{World: "kernel", Sessions: n}}
		err = v.all(ctx)
		if err := errors.Join(err, r.leave(ctx, c)); err != nil {
			return err
		}
		r.many = append(r.many, v.m)
		r.progress.Did(partMany)
	}
	if r.opts.Memory == nil {
		return nil
	}
	var last *Many
	for _, n := range r.sizes.memory {
		if last != nil {
			if x := last.short(n, runtime.GOMAXPROCS(0)); x != nil {
				r.progress.Say("%s: left out", x)
				r.short = append(r.short, x)
				continue
			}
		}
		r.progress.Enter("%s: %d, in memory", partMany, n)
		m, err := r.opts.Memory(ctx, n, r.progress.Say)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // the figure is missing, and the run incomplete; the others are worth having
			r.progress.Say("%d in memory: %v", n, err)
			continue
		}
		r.many = append(r.many, m)
		last = &m
	}
	return nil
}

// used is what P2 and the anchor have used so far.
func (r *run) used() (map[string]fleet.Usage, error) {
	all := map[string]fleet.Usage{}
	for at, node := range map[string]string{"p2": "p2", "anchor": "a1"} {
		u, err := r.fleet.Usage(node)
		if err != nil {
			return nil, err
		}
		all[at] = u
	}
	return all, nil
}

// mover moves a crowd that is at P1.
type mover struct {
	crowd  *crowd
	say    func(string, ...any)
	settle time.Duration
	used   func() (map[string]fleet.Usage, error)
	begin  time.Time
	m      Many
}

// all moves everybody and waits for the last one. What is left over then is a figure, not an error.
func (v *mover) all(ctx context.Context) error {
	before, err := v.used()
	if err != nil {
		return err
	}
	v.begin = time.Now()
	told := make(chan error, 1)
	go func() { told <- v.crowd.site.Migrate(ctx, "p1", "p2") }()
	err = v.watch(ctx)
	took := time.Since(v.begin)
	after, uerr := v.used()
	if told := <-told; told != nil {
		v.say("%v", told)
	}
	if err := errors.Join(err, uerr); err != nil {
		return err
	}
	v.m.Used = map[string]Used{}
	for at, u := range after {
		v.m.Used[at] = Used{CPU: u.CPU - before[at].CPU, Of: took, RSS: u.RSS}
	}
	if v.m.Stalls, err = felt(ctx, v.crowd, v.begin, v.settle); err != nil && ctx.Err() == nil {
		v.say("%v", err) // what broke is counted when the crowd leaves
		err = nil
	}
	return err
}

// watch waits until all links have moved and notes when the last did.
func (v *mover) watch(ctx context.Context) error {
	n := v.crowd.agents
	err := v.crowd.site.Wait(ctx, 90*time.Second, fmt.Sprintf("%d sessions move to P2", n), seldom(func() (bool, error) {
		all, err := v.crowd.places(ctx)
		if err != nil {
			return false, err
		}
		v.m.note(all, v.begin)
		return v.m.Moved == n && v.m.controls == n, fmt.Errorf("%d data links and %d control links have", v.m.Moved, v.m.controls)
	}))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		v.say("%v", err)
	}
	return nil
}

// note counts whose links have moved, and when the last did.
func (m *Many) note(all []app.Place, begin time.Time) {
	m.Moved, m.controls = 0, 0
	for _, p := range all {
		if fleet.NameOf(p.Data) == "p2" {
			m.Moved++
			m.Last = max(m.Last, p.Since.Sub(begin))
		}
		if fleet.NameOf(p.Control) == "p2" {
			m.controls++
			m.Control = max(m.Control, p.ControlSince.Sub(begin))
		}
	}
}
