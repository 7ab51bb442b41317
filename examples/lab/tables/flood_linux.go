package tables

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"sync"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/kernel"
)

// floodLimit ends floods that nobody ended.
const floodLimit = 5 * time.Minute

// flood is Table 5.
func (r *run) flood(ctx context.Context) error {
	_, missing := exec.LookPath("hping3")
	for _, g := range r.sizes.groups {
		if g.attacker == "hping3" && missing != nil {
			for _, c := range g.cells() {
				r.results.skip(c, "no hping3 here: install it (apt install hping3)")
			}
			for range r.sizes.trials {
				r.progress.Did(partFlood)
			}
			continue
		}
		r.progress.Enter("%s: by %s, p = %s", partFlood, map[string]string{"own": "our tool", "hping3": "hping3"}[g.attacker], g.p)
		if err := r.floodOnce(ctx, g); err != nil {
			return fmt.Errorf("flood by %s, p = %s: %w", g.attacker, g.p, err)
		}
	}
	return nil
}

// floodOnce floods the P1 of every system and makes the group's trials. P1 starts anew, so that it
// has admitted nobody; and so do our clients, after it took the flood for one: none has a link to P1.
func (r *run) floodOnce(ctx context.Context, g group) (err error) {
	s := r.stage
	p, err := number(g.p)
	if err != nil {
		return err
	}
	if err := s.stopAgents(); err != nil {
		return err
	}
	if err := s.Restart(ctx, "p1", edge(p)); err != nil {
		return err
	}
	if err := s.attackPaper(ctx, g.p); err != nil {
		return err
	}
	fctx, cancel := context.WithCancel(ctx)
	var floods sync.WaitGroup
	targets := floodTargets()
	failed := make(chan error, len(targets))
	defer floods.Wait()
	defer cancel()
	for _, target := range targets {
		floods.Go(func() {
			a := fleet.Attack{Kind: flood.SYN, Rate: floodRate, Time: floodLimit, Target: target, Attacker: g.attacker}
			if _, err := s.Attack(fctx, a); err != nil && fctx.Err() == nil {
				failed <- fmt.Errorf("flood of %s: %w", target, err)
			}
		})
	}
	if err := s.waitForFlood(ctx); err != nil {
		return err
	}
	if err := s.startAgents(ctx); err != nil {
		return err
	}
	if err := r.trials(ctx, g); err != nil {
		return err
	}
	if err := r.countTrips(ctx, r.floodWays(g), floodTripCells()); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return s.Healthy()
	}
}

// floodTargets are where each system's clients connect. Ours dial P1's link port, where the SYN Checker stands; its web
// port, which the attacker knows, is flooded as well.
func floodTargets() []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(lab.P1.V4, lab.WebPort), netip.AddrPortFrom(lab.P1.V4, lab.LinkPort),
		netip.AddrPortFrom(lab.PlainP1.V4, lab.WebPort), netip.AddrPortFrom(lab.PaperAttacked.V4, lab.WebPort),
	}
}

// waitForFlood waits until P1 has noticed, and the plain P1 has got more than its backlog holds.
func (s *stage) waitForFlood(ctx context.Context) error {
	before := map[*kernel.Namespace]uint64{}
	for _, ns := range []*kernel.Namespace{s.plainP1, s.paperAttacked} {
		t, err := ns.Traffic(lab.Uplink)
		if err != nil {
			return err
		}
		before[ns] = t.RxPackets
	}
	return fleet.Wait(ctx, 15*time.Second, "the flood arrives and P1 notices it", s.Children(), func() (bool, error) {
		for ns, was := range before {
			t, err := ns.Traffic(lab.Uplink)
			if err != nil {
				return false, err
			}
			if t.RxPackets < was+2*128 {
				return false, fmt.Errorf("%s has got %d packets", ns.Name, t.RxPackets-was)
			}
		}
		st, err := s.ProxyStatus(ctx, "p1")
		if err != nil {
			return false, err
		}
		return st.State == "defending" || st.State == "suspended", fmt.Errorf("p1 is %q at %.0f SYN/s", st.State, st.Rates["syn"])
	})
}

// atOnce is how many trials of the plain and the paper's clients run at a time: most of them wait for
// nothing. Ours are made one at a time, since a fresh trial makes the whole agent forget.
const atOnce = 200

// trials makes the group's trials, a round of all systems after the other.
func (r *run) trials(ctx context.Context, g group) error {
	ways := r.floodWays(g)
	slots := make(chan struct{}, atOnce)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	for round := range r.sizes.trials {
		r.random.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
		for _, w := range ways {
			if w.App == "ssh" && round >= r.sizes.sshTrials() {
				continue
			}
			if w.ours() {
				if err := r.try(ctx, w); err != nil {
					return err
				}
				continue
			}
			for range r.sizes.waiting {
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					return ctx.Err()
				}
				begin := time.Duration(r.random.Int64N(int64(r.sizes.spread)))
				waiting.Go(func() {
					defer func() { <-slots }()
					if pause(ctx, begin) == nil {
						_ = r.try(ctx, w) // it has no error but the end of ctx, which the loop sees
					}
				})
			}
		}
		if err := r.stage.Healthy(); err != nil {
			return err
		}
		r.progress.Did(partFlood)
	}
	waiting.Wait()
	return ctx.Err()
}

// try makes one trial: a user who tries again, within a moment, when the file did not come. Not at once: his
// connect() gives up on a tick of the kernel's coarse timers, and on the same ticks a full backlog lets go of
// what has waited too long, since client and server share this kernel. Retries in step with it would get
// through far more often than anybody's on a machine of his own.
func (r *run) try(ctx context.Context, w way) error {
	if w.before != nil {
		if err := w.before(ctx); err != nil {
			return err
		}
	}
	var t trial
	for i := range maxRetries + 1 {
		if i > 0 {
			if err := pause(ctx, time.Duration(rand.Int64N(int64(r.sizes.spread)))); err != nil {
				return err
			}
		}
		s := w.fetch(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		t = append(t, s)
		if s.OK() {
			break
		}
	}
	r.took(w.cell, t)
	return nil
}

// floodWays are the systems under the flood.
func (r *run) floodWays(g group) (ways []way) {
	for _, c := range g.cells() {
		if c.App == "ssh" && r.stage.sshd == nil {
			r.results.skip(c, r.stage.noSSH)
			continue
		}
		ways = append(ways, r.floodWay(c))
	}
	return ways
}

// floodWay is one of them: ms-each and fresh forget before each trial.
func (r *run) floodWay(c cell) way {
	s := r.stage
	w := s.World
	client := map[string]struct {
		ns     *kernel.Namespace
		at     map[string]netip.Addr
		forget string
	}{
		"plain": {w.Plain, s.plainAt, ""}, "paper": {w.Plain, s.paperAt, ""},
		"ms-each": {w.Each, s.msAt, "each"}, "msfresh": {w.Fresh, s.msAt, "fresh"}, "msremembers": {w.Client, s.msAt, ""},
	}[c.System+c.Memory]
	x := way{cell: c, ns: client.ns}
	if client.forget != "" {
		x.before = func(ctx context.Context) error { return s.Forget(ctx, client.forget) }
	}
	switch {
	case c.App == "ssh":
		x.fetch = s.sshd.over(x.ns, client.at[c.Dest], false)
	case c.System == "paper" && c.Dest == "p1":
		x.fetch = s.over(x.ns, lab.PaperAttacked.V4, impatient(s.dialTransferred, r.sizes.patience))
	default:
		x.fetch = s.over(x.ns, client.at[c.Dest], impatient(fleet.Dial, r.sizes.patience))
	}
	return x
}

// impatient gives a connect() less time than the default.
func impatient(dial fleet.Dialer, limit time.Duration) fleet.Dialer {
	return func(ctx context.Context, to netip.AddrPort) (int, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return dial(ctx, to)
	}
}
