package edge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
)

// ours measures every setting of a real proxyd whose fleet is not attacked.
func (r *run) ours(ctx context.Context) error {
	if !r.opts.wants(ms) {
		for _, x := range settings() {
			r.leaveSetting(x, "not asked for")
		}
		return nil
	}
	s := r.stage
	token, err := s.CrowdToken(ctx)
	if err != nil {
		return err
	}
	var joined int
	if err := s.visitor.ask(ctx, "Join", JoinArgs{Agents: r.sizes.agents, Token: token, Entry: lab.P1.V4}, &joined); err != nil {
		return fmt.Errorf("the newcomers join: %w", err)
	}
	for _, x := range settings() {
		if len(r.sizes.of(x.cells())) == 0 {
			r.leaveSetting(x, quickWhy)
			continue
		}
		if err := r.setting(ctx, x); err != nil {
			return fmt.Errorf("%s, p = %s: %w", x.path, x.p, err)
		}
	}
	return nil
}

// leaveSetting leaves out a setting, and what is measured once for its data path.
func (r *run) leaveSetting(x setting, why string) {
	for _, c := range x.cells() {
		r.skipped[c] = why
		r.progress.Did(partOurs)
	}
	if x.p == budget {
		r.priceNo[x.path], r.movedNo[x.path] = why, why
	}
}

// setting measures one: newcomers under every flood, one after the other, while the edge defends; with the budget also agents that
// were sent on, and what a SYN costs.
func (r *run) setting(ctx context.Context, x setting) error {
	s := r.stage
	r.progress.Enter("p1 by %s, p = %s", x.path, x.p)
	if err := s.Restart(ctx, "p1", x.edge()); err != nil {
		return err
	}
	if err := errors.Join(s.p1.ns.ForgetPeers(), s.near.ForgetPeers()); err != nil {
		return err
	}
	if x.p == budget && r.sizes.sendsOn(x.path) {
		if err := r.sentOn(ctx, x.path); err != nil {
			return fmt.Errorf("an agent that is sent on: %w", err)
		}
	}
	if err := s.visitor.ask(ctx, "Proofs", Plan{To: netip.AddrPortFrom(s.p1.at, lab.LinkPort), N: 64}, &r.proofs); err != nil {
		return err
	}
	for _, c := range r.sizes.of(x.cells()) {
		r.progress.Enter("%s", c)
		if err := r.newcomers(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		r.progress.Did(partOurs)
	}
	if x.p != budget {
		return nil
	}
	return r.priceOurs(ctx, x.path)
}

// newcomers measures one cell.
func (r *run) newcomers(ctx context.Context, c cell) error {
	s := r.stage
	a, err := s.attack(ctx, s.p1, lab.LinkPort, c, r.proofs, r.sizes.warm)
	if err != nil {
		return err
	}
	visits, err := r.come(ctx, c)
	w, counted := a.window()
	if err := errors.Join(err, counted, a.end(), s.Healthy()); err != nil {
		return err
	}
	x := w.seen()
	x.visits = visits
	r.cells[c] = x
	return nil
}

// come has newcomers dial once the edge defends.
func (r *run) come(ctx context.Context, c cell) (visits []Visit, err error) {
	s := r.stage
	if err := s.defends(ctx); err != nil {
		return nil, err
	}
	err = s.visitor.ask(ctx, "Come", Plan{
		To: netip.AddrPortFrom(s.p1.at, lab.LinkPort), N: r.sizes.connects, Gap: r.sizes.gap, Patience: r.sizes.patience, Keyed: c.keyed,
	}, &visits)
	return visits, err
}

// defends waits until p1 has taken the flood for one.
func (s *stage) defends(ctx context.Context) error {
	return fleet.Wait(ctx, 10*time.Second, "p1 notices the flood", s.Children(), func() (bool, error) {
		st, err := s.ProxyStatus(ctx, "p1")
		return st.State == "defending" || st.State == "suspended", errors.Join(err, fmt.Errorf("it is %q at %.0f SYN/s", st.State, st.Rates["syn"]))
	})
}

// priceOurs is price of a data path that answers everybody, for every kind of flood.
func (r *run) priceOurs(ctx context.Context, path string) error {
	s := r.stage
	if err := s.Restart(ctx, "p1", setting{path, all}.edge()); err != nil {
		return err
	}
	a, err := s.attack(ctx, s.p1, lab.LinkPort, cell{rate: paperRate, kind: fresh}, nil, r.sizes.warm)
	if err != nil {
		return err
	}
	if err := errors.Join(s.defends(ctx), a.end()); err != nil {
		return err
	}
	for _, kind := range r.sizes.kinds() {
		r.progress.Enter("%s: what a SYN costs, %s", path, kind)
		err := r.price(ctx, r.stage.p1, lab.LinkPort, priced{system: ms, path: path, kind: kind})
		if errors.Is(err, kernel.ErrNoThreads) {
			r.priceNo[path], err = err.Error(), nil
		}
		if err != nil {
			return fmt.Errorf("what a SYN costs, %s: %w", kind, err)
		}
		r.progress.Did(partCost)
	}
	return nil
}
