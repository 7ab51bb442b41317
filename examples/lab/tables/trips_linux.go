package tables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/capture"
	"migrationsensor/examples/lab/kernel"
)

// countTrips counts the round trips of a few connections of each way, with a capture at its client, apart from the
// trials whose times count: whoever captures takes time.
func (r *run) countTrips(ctx context.Context, ways []way, cells []cell) (err error) {
	captures := map[*kernel.Namespace]*capture.Capture{}
	defer func() {
		for _, c := range captures {
			err = errors.Join(err, c.Close())
		}
	}()
	for _, w := range ways {
		if !slices.Contains(cells, w.cell) {
			continue
		}
		c := captures[w.ns]
		if c == nil {
			if c, err = capture.Open(w.ns, lab.Uplink); err != nil {
				return err
			}
			captures[w.ns] = c
		}
		for range r.sizes.trips {
			s, err := w.once(ctx)
			if err != nil {
				return err
			}
			if !s.Connected {
				return fmt.Errorf("count round trips: %s did not connect: %s", w.System, s.Err)
			}
			r.trips.add(w.cell, capture.RoundTrips(c.Between(s.Start, s.Start.Add(s.Connect)), r.opts.RTT))
		}
	}
	return nil
}
