package tables

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
)

// phase is what the start of a spell varies by: the detector's second.
const phase = time.Second

// detect shows the detector floods of both kinds and spells of peace, all with ordinary traffic beside
// them: plain clients and an agent that fetch the file from P1 and P2 again and again. Delays are
// from the first packet, by the flood tool's clock, to the alarm, by proxyd's log: no time of
// reading a status is in them.
func (r *run) detect(ctx context.Context) error {
	s := r.stage
	e := edge(1)
	e.Quiet, e.Suspend = time.Second, time.Second // the least there is: floods follow each other
	for _, name := range []string{"p1", "p2"} {
		if err := s.Restart(ctx, name, e); err != nil {
			return err
		}
	}
	tctx, cancel := context.WithCancel(ctx)
	var traffic sync.WaitGroup
	defer traffic.Wait()
	defer cancel()
	for _, fetch := range []func(context.Context) fleet.Sample{
		s.over(s.World.Plain, lab.P1.V4, fleet.Dial), s.over(s.World.Plain, lab.P2.V4, fleet.Dial), s.over(s.World.Client, lab.P1.V4, fleet.Dial),
	} {
		traffic.Go(func() {
			for tctx.Err() == nil {
				limited, stop := context.WithTimeout(tctx, time.Second) // a plain client is shut out during a flood
				fetch(limited)
				_ = pause(limited, 100*time.Millisecond)
				stop()
			}
		})
	}
	for i := range r.sizes.spells {
		r.progress.Enter("%s: peace %d of %d", partDetect, i+1, r.sizes.spells)
		if err := r.peaceSpell(ctx); err != nil {
			return err
		}
		r.progress.Did(partDetect)
	}
	return r.floodBoth(ctx)
}

// floodBoth floods P1 and P2 at the same time, so that one recovers while the other is flooded; each gets
// half of the floods of each kind, in turn.
func (r *run) floodBoth(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for k, at := range []target{{"p1", lab.P1.V4}, {"p2", lab.P2.V4}} {
		g.Go(func() error {
			for i := range r.sizes.spells {
				r.progress.Enter("%s: flood %d of %d", partDetect, 2*i+1, 2*r.sizes.spells)
				kind := kinds[(i+k)%len(kinds)]
				if err := r.floodSpell(ctx, at, kind); err != nil {
					return fmt.Errorf("%s flood of %s: %w", kind, at.name, err)
				}
				r.progress.Did(partDetect)
			}
			return nil
		})
	}
	return g.Wait()
}

// target is an edge that is flooded.
type target struct {
	name string
	addr netip.Addr
}

// peaceSpell counts alarms where there is no flood, as long as a flood.
func (r *run) peaceSpell(ctx context.Context) error {
	from := time.Now()
	if err := pause(ctx, r.sizes.spell); err != nil {
		return err
	}
	for _, name := range []string{"p1", "p2"} {
		all, err := r.alarms(name)
		if err != nil {
			return err
		}
		for _, a := range all {
			if !a.Time.Before(from) {
				r.detected.alarmed(a.Kind)
				r.progress.Say("an alarm of %s in peace: %s", name, a.Kind)
			}
		}
	}
	r.detected.peaceful()
	return nil
}

// floodSpell floods an entry once and waits until it is at peace again.
func (r *run) floodSpell(ctx context.Context, at target, kind string) error {
	s := r.stage
	if err := pause(ctx, time.Duration(rand.Int64N(int64(phase)))); err != nil {
		return err
	}
	sent, err := s.Flood(ctx, fleet.Attack{
		Kind: flood.Kind(kind), Rate: floodRate, Time: r.sizes.spell, Target: netip.AddrPortFrom(at.addr, lab.WebPort),
	})
	if err != nil {
		return err
	}
	over := sent.First.Add(time.Duration(sent.Seconds * float64(time.Second)))
	all, err := r.alarms(at.name)
	if err != nil {
		return err
	}
	a, ok := firstAlarm(all, sent.First, over)
	r.detected.flooded(kind, ok && a.Kind == kind, a.Time.Sub(sent.First))
	if !ok || a.Kind != kind {
		r.progress.Say("a %s flood of %.0f packets/s on %s was not found (alarm %q)", kind, sent.Rate(), at.name, a.Kind)
	}
	return fleet.Wait(ctx, 15*time.Second, at.name+" comes back", s.Children(), func() (bool, error) {
		st, err := s.ProxyStatus(ctx, at.name)
		if err != nil {
			return false, err
		}
		return st.State == "active" && (!ok || st.Since.After(sent.First)), fmt.Errorf("it is %q since %v", st.State, st.Since)
	})
}

// alarms are all of an edge's so far.
func (r *run) alarms(name string) ([]alarm, error) {
	log, err := os.Open(r.stage.Paths(name).Log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	all, err := alarmsIn(log)
	if err != nil {
		return nil, fmt.Errorf("read the alarms in %s: %w", log.Name(), err)
	}
	return all, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
