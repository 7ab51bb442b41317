package tables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
	"migrationsensor/examples/lab/paper"
)

// way is how one cell's trials are made: one fetch, by a new connection.
type way struct {
	cell
	ns    *kernel.Namespace // the client's
	fetch func(context.Context) fleet.Sample

	before, after func(context.Context) error // outside the measurement; may be nil
}

// measure makes n trials of each way, interleaved one by one in another order each round, after
// warmUp rounds that do not count.
func (r *run) measure(ctx context.Context, part string, warmUp, n int, ways []way) error {
	for round := range warmUp + n {
		r.random.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
		for _, w := range ways {
			s, err := w.once(ctx)
			if err != nil {
				return err
			}
			if round >= warmUp {
				r.took(w.cell, trial{s})
			}
		}
		if err := r.stage.Healthy(); err != nil {
			return err
		}
		r.progress.Did(part)
	}
	return nil
}

func (w way) once(ctx context.Context) (s fleet.Sample, err error) {
	for _, f := range []func(context.Context) error{w.before, func(ctx context.Context) error { s = w.fetch(ctx); return nil }, w.after} {
		if f == nil {
			continue
		}
		if err := f(ctx); err != nil {
			return s, err
		}
	}
	return s, ctx.Err() // a fetch that the end cut off does not count
}

// took keeps a trial and tells of the first failure of each cell of ours.
func (r *run) took(c cell, t trial) {
	if why, first := r.results.add(c, t); first && c.ours() {
		r.progress.Say("%s (%s, %s, %s %s): a fetch failed: %s", c.System, c.When, c.Dest, c.App, c.Memory, why)
	}
}

// unprotected is Table 2. The agent's client runs one; two others have none, so that direct can be
// compared with direct.
func (r *run) unprotected(ctx context.Context) error {
	s := r.stage
	if err := s.AgentToken(ctx, "client"); err != nil {
		return err
	}
	if err := s.StartAgent("client", "warm"); err != nil {
		return err
	}
	if err := s.WaitForAgent(ctx, "client", 20*time.Second); err != nil {
		return err
	}
	before, err := s.QuietTUN(ctx, s.World.Client)
	if err != nil {
		return err
	}
	direct, ms := cell{When: unprotected, System: "direct", App: "http"}, cell{When: unprotected, System: "ms", App: "http"}
	site, _ := lab.Site.Port(lab.WebPort)
	clients := []struct {
		cell
		ns      *kernel.Namespace
		samples []fleet.Sample
	}{{cell: direct, ns: s.World.Plain}, {cell: direct, ns: s.World.Fresh}, {cell: ms, ns: s.World.Client}}
	order := []int{0, 1, 2}
	for round := range r.sizes.warmUp + r.sizes.unprotected {
		r.random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, i := range order {
			got := s.Origin.Fetch(ctx, clients[i].ns, site)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if round >= r.sizes.warmUp {
				clients[i].samples = append(clients[i].samples, got)
			}
		}
		r.progress.Did(partUnprotected)
	}
	for i := range r.sizes.unprotected { // direct: its two clients in turn, as judgeUnprotected expects them
		for _, c := range clients {
			r.took(c.cell, trial{c.samples[i]})
		}
	}
	after, err := s.QuietTUN(ctx, s.World.Client)
	r.strays, r.siteFetches, r.tun = int(after-before), r.sizes.unprotected+r.sizes.warmUp, err == nil
	return err
}

// peaceHTTP is Table 3, and Table 4 over HTTP: one fetch gives both.
func (r *run) peaceHTTP(ctx context.Context) error {
	s := r.stage
	if err := s.Stop("client"); err != nil { // startAgents starts all three
		return err
	}
	if err := s.startAgents(ctx); err != nil {
		return err
	}
	ways := r.httpWays()
	fresh := cell{When: peace, System: "ms", Dest: "p1", App: "http", Memory: "fresh"}
	ways = append(ways, way{
		cell:   fresh,
		ns:     s.World.Fresh,
		fetch:  s.over(s.World.Fresh, s.msAt["p1"], fleet.Dial),
		before: func(ctx context.Context) error { return s.Forget(ctx, "fresh") },
		after:  func(ctx context.Context) error { return s.WaitForAgent(ctx, "fresh", 10*time.Second) },
	})
	if err := r.measure(ctx, partHTTP, r.sizes.warmUp, r.sizes.http, ways); err != nil {
		return err
	}
	return r.countTrips(ctx, ways, tripCells())
}

// over fetches over HTTP.
func (s *stage) over(ns *kernel.Namespace, to netip.Addr, dial fleet.Dialer) func(context.Context) fleet.Sample {
	at := netip.AddrPortFrom(to, lab.WebPort)
	return func(ctx context.Context) fleet.Sample { return s.Origin.FetchBy(ctx, ns, at, dial) }
}

// dialPaper is the paper's client. Only P1's address is hard-coded in it, so only P1 is probed.
func (s *stage) dialPaper(ctx context.Context, to netip.AddrPort) (int, error) {
	fd, _, err := paper.Dial(ctx, to, s.assumed)
	return fd, err
}

// dialTransferred is the paper's client when P1 is attacked: a connection that it was not sent on with was answered by
// the SYN Checker, and leads nowhere.
func (s *stage) dialTransferred(ctx context.Context, to netip.AddrPort) (int, error) {
	fd, told, err := paper.Dial(ctx, to, s.assumed)
	if err == nil && !told.Transferred {
		return -1, errors.Join(errors.New("the notification came too late: connected to the attacked P1"), unix.Close(fd))
	}
	return fd, err
}

// httpWays are the systems in peace.
func (r *run) httpWays() (ways []way) {
	s := r.stage
	w := s.World
	ways = append(ways, way{cell: cell{When: peace, System: "direct", Dest: "site", App: "http"}, ns: w.Plain, fetch: s.over(w.Plain, lab.Site.V4, fleet.Dial)})
	for _, dest := range []string{"p1", "p2"} {
		paperDial := fleet.Dial
		if dest == "p1" {
			paperDial = s.dialPaper
		}
		for _, x := range []struct {
			system string
			ns     *kernel.Namespace
			at     netip.Addr
			dial   fleet.Dialer
		}{
			{"plain", w.Plain, s.plainAt[dest], fleet.Dial}, {"paper", w.Plain, s.paperAt[dest], paperDial},
			{"ms-each", w.Each, s.msAt[dest], fleet.Dial}, {"ms", w.Client, s.msAt[dest], fleet.Dial},
		} {
			c := cell{When: peace, System: x.system, Dest: dest, App: "http"}
			ways = append(ways, way{cell: c, ns: x.ns, fetch: s.over(x.ns, x.at, x.dial)})
		}
	}
	return ways
}

// peaceSSH is Table 4.
func (r *run) peaceSSH(ctx context.Context) error {
	s := r.stage
	if s.sshd == nil {
		for _, p := range r.sizes.plan() {
			if p.App == "ssh" {
				r.results.skip(p.cell, s.noSSH)
			}
		}
		r.progress.Say("no ssh rows: %s", s.noSSH)
		return nil
	}
	w := s.World
	ways := []way{{cell: cell{When: peace, System: "direct", Dest: "site", App: "ssh"}, fetch: s.sshd.over(w.Plain, lab.Site.V4, false)}}
	for _, dest := range []string{"p1", "p2"} {
		for system, fetch := range map[string]func(context.Context) fleet.Sample{
			"plain":   s.sshd.over(w.Plain, s.plainAt[dest], false),
			"paper":   s.sshd.over(w.Plain, s.paperAt[dest], dest == "p1"),
			"ms-each": s.sshd.over(w.Each, s.msAt[dest], false),
			"ms":      s.sshd.over(w.Client, s.msAt[dest], false),
		} {
			ways = append(ways, way{cell: cell{When: peace, System: system, Dest: dest, App: "ssh"}, fetch: fetch})
		}
	}
	if err := r.measure(ctx, partSSH, r.sizes.warmUpSSH, r.sizes.ssh, ways); err != nil {
		return fmt.Errorf("ssh: %w", err)
	}
	return nil
}
