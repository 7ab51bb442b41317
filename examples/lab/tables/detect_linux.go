package tables

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
)

// phase is what the start of a spell varies by: the detector's second.
const phase = time.Second

// detect shows the detector floods of both kinds and spells of peace, all with ordinary traffic beside
// them: a plain client and an agent that fetch the file from P1's address again and again. Delays are
// from the first packet, by the flood tool's clock, to the alarm, by proxyd's log; both are this
// machine's.
func (r *run) detect(ctx context.Context) error {
	s := r.stage
	e := edge(1)
	e.Quiet, e.Suspend = time.Second, time.Second // the least there is: floods follow each other
	if err := s.Restart(ctx, "p1", e); err != nil {
		return err
	}
	tctx, cancel := context.WithCancel(ctx)
	var traffic sync.WaitGroup
	defer traffic.Wait()
	defer cancel()
	for _, fetch := range []func(context.Context) fleet.Sample{
		s.over(s.World.Plain, lab.P1.V4, fleet.Dial), s.over(s.World.Client, lab.P1.V4, fleet.Dial),
	} {
		traffic.Go(func() {
			for tctx.Err() == nil {
				limited, stop := context.WithTimeout(tctx, time.Second) // a plain client is shut out during a flood
				fetch(limited)
				stop()
			}
		})
	}
	for i := range r.sizes.spells {
		r.progress.enter("%s: flood and peace %d of %d", partDetect, i+1, r.sizes.spells)
		if err := r.peaceSpell(ctx); err != nil {
			return err
		}
		for _, kind := range kinds {
			if err := r.floodSpell(ctx, kind); err != nil {
				return fmt.Errorf("%s flood: %w", kind, err)
			}
		}
		r.progress.did(partDetect)
	}
	return nil
}

// peaceSpell counts alarms where there is no flood, as long as a flood.
func (r *run) peaceSpell(ctx context.Context) error {
	from := time.Now()
	if err := pause(ctx, r.sizes.spell); err != nil {
		return err
	}
	all, err := r.alarms()
	if err != nil {
		return err
	}
	for _, a := range all {
		if !a.Time.Before(from) {
			r.detected.alarms[a.Kind]++
			r.progress.say("an alarm in peace: %s", a.Kind)
		}
	}
	r.detected.spellsDone++
	return nil
}

// floodSpell floods P1 once and waits until it is at peace again.
func (r *run) floodSpell(ctx context.Context, kind string) error {
	s := r.stage
	if err := pause(ctx, time.Duration(rand.Int64N(int64(phase)))); err != nil {
		return err
	}
	sent, err := s.Flood(ctx, fleet.Attack{
		Kind: flood.Kind(kind), Rate: floodRate, Time: r.sizes.spell, Target: netip.AddrPortFrom(lab.P1.V4, lab.WebPort),
	})
	if err != nil {
		return err
	}
	over := sent.First.Add(time.Duration(sent.Seconds * float64(time.Second)))
	all, err := r.alarms()
	if err != nil {
		return err
	}
	r.detected.floods[kind]++
	a, ok := firstAlarm(all, sent.First, over)
	if !ok || a.Kind != kind {
		r.progress.say("a %s flood of %.0f packets/s was not found (alarm %q)", kind, sent.Rate(), a.Kind)
	} else {
		r.detected.delays[kind] = append(r.detected.delays[kind], a.Time.Sub(sent.First))
	}
	return fleet.Wait(ctx, 15*time.Second, "P1 comes back", s.Children(), func() (bool, error) {
		st, err := s.ProxyStatus(ctx, "p1")
		if err != nil {
			return false, err
		}
		return st.State == "active" && (!ok || st.Since.After(sent.First)), fmt.Errorf("it is %q since %v", st.State, st.Since)
	})
}

// alarms are all of P1's so far.
func (r *run) alarms() ([]alarm, error) {
	log, err := os.Open(r.stage.Paths("p1").Log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	all, err := alarmsIn(log)
	if err != nil {
		return nil, fmt.Errorf("read P1's alarms in %s: %w", log.Name(), err)
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
