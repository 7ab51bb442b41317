package migrate

import (
	"context"
	"errors"
	"fmt"

	"migrationsensor/examples/lab/app"
)

// scales is what everybody weighs at one moment, in bytes.
type scales map[string]float64

// weigh weighs idle sessions, then idle streams of them: what everybody has more with them than without, divided by their number.
// A proxy's heap can't be asked, so its process is weighed, garbage included; P1 and the anchor are fresh, and collect
// early (GOGC 10), so that little of it is there.
func (r *run) weigh(ctx context.Context) error {
	for _, node := range []string{"a1", "p1"} {
		if err := r.fleet.Stop(node); err != nil {
			return err
		}
		if err := r.fleet.Revive(node, "GOGC=10"); err != nil {
			return err
		}
	}
	for _, n := range r.fleet.Nodes() {
		if err := r.fleet.WaitForPeers(ctx, n); err != nil {
			return err
		}
	}
	few, err := r.join(ctx, 1, still) // whatever is made once is there
	if err != nil {
		return err
	}
	empty, err := r.read(ctx, few)
	if err := errors.Join(err, r.leave(ctx, few)); err != nil {
		return err
	}
	c, err := r.join(ctx, r.sizes.sessions, still)
	if err != nil {
		return err
	}
	err = r.weighStreams(ctx, c, empty)
	return errors.Join(err, r.leave(ctx, c))
}

func (r *run) weighStreams(ctx context.Context, c *crowd, empty scales) error {
	sessions, err := r.read(ctx, c)
	if err != nil {
		return err
	}
	r.put("session", sessions, empty, r.sizes.sessions)
	opened := 0
	if err := c.call(ctx, "Open", r.sizes.streams, &opened); err != nil {
		return fmt.Errorf("open %d streams of each session: %w", r.sizes.streams, err)
	}
	streams, err := r.read(ctx, c)
	if err != nil {
		return err
	}
	r.put("stream", streams, sessions, opened)
	return nil
}

func (r *run) put(what string, with, without scales, n int) {
	r.weighs[what], r.weight[what] = n, map[string]float64{}
	for at := range with {
		r.weight[what][at] = (with[at] - without[at]) / float64(n)
	}
}

// read weighs everybody when they have come to rest.
func (r *run) read(ctx context.Context, c *crowd) (scales, error) {
	if err := sleep(ctx, 2*r.sizes.settle); err != nil { // what was busy with opening collects and gives back
		return nil, err
	}
	s := scales{}
	for at, node := range map[string]string{"edge": "p1", "anchor": "a1"} {
		u, err := r.fleet.Usage(node)
		if err != nil {
			return nil, err
		}
		s[at] = float64(u.RSS)
	}
	var m app.Memory
	if err := c.call(ctx, "Memory", struct{}{}, &m); err != nil {
		return nil, err
	}
	s["agent"] = float64(m.Heap + m.Stacks)
	return s, nil
}
