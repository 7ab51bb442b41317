package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/figures/page"
	"migrationsensor/examples/lab/kernel"
	"migrationsensor/examples/lab/live"
)

// proofLen is how long a proof in a SYN is: the preamble.
const proofLen = 76

// Run measures everything inside kernel.Enter's sandbox, prints the table and writes out/edge.json and out/edge.html. nil is PASS;
// figures.ErrSlow and figures.ErrWrong tell what was missed; another error is why it did not come to its end, and then what was
// complete is written all the same.
func Run(ctx context.Context, o Options, out *os.File) error {
	if err := o.Check(); err != nil {
		return err
	}
	if runtime.NumCPU() < 2 {
		return errors.New("the bench needs two processors: one is the attacked edge's alone")
	}
	r := newRun(o)
	played := r.progress.Play(ctx, out, r.play)
	if ctx.Err() != nil { // whatever else went wrong followed from that
		played = errors.New("interrupted")
	}
	return r.conclude(out, played)
}

// run is one run of the whole.
type run struct {
	opts     Options
	sizes    sizes
	progress *live.Progress
	stage    *stage
	proofs   [][]byte
	*found
}

// Names of the parts.
const (
	partWorld     = "the world"
	partBaselines = "what Linux has"
	partOurs      = "Migration Sensor"
	partMoved     = "agents that were sent on"
	partCost      = "processor time of a SYN"
)

func newRun(o Options) *run {
	s := o.sizes()
	each := s.warm + time.Duration(s.connects)*s.gap + s.patience/2
	base, ours, sent := 0, 0, 0
	for _, path := range paths {
		if s.sendsOn(path) {
			sent++
		}
	}
	for range baselines {
		base += len(s.of(baselineCells("")))
	}
	for _, x := range settings() {
		ours += len(s.of(x.cells()))
	}
	return &run{opts: o, sizes: s, found: newFound(), progress: live.NewProgress("An edge under a flood of SYNs",
		live.Part{Name: partWorld, Units: 1, Each: 8 * time.Second},
		live.Part{Name: partBaselines, Units: base, Each: each + s.fetch},
		live.Part{Name: partOurs, Units: ours, Each: each},
		live.Part{Name: partMoved, Units: sent, Each: 2*s.quiet + 5*time.Second},
		live.Part{Name: partCost, Units: len(baselines) + len(s.kinds())*len(paths), Each: time.Duration(s.costs) * (s.cost + 200*time.Millisecond)},
	)}
}

// play measures, part by part. It returns after everything that it started has ended.
func (r *run) play(ctx context.Context) (err error) {
	r.progress.Enter(partWorld)
	if err := kernel.StayHere(restCPU, ahead); err != nil {
		return err
	}
	r.stage, err = newStage(ctx, r.opts, r.progress.Say)
	defer func() { err = errors.Join(err, r.stage.close()) }()
	if err != nil {
		return err
	}
	r.unpin = r.stage.unpin
	r.progress.Finish(partWorld)
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{{partBaselines, r.baselines}, {partOurs, r.ours}} {
		r.progress.Enter("%s", step.name)
		began := time.Now()
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if err := r.stage.Healthy(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		r.progress.Finish(step.name)
		r.progress.Say("%s: done in %.0f s", step.name, time.Since(began).Seconds())
	}
	r.progress.Enter("the end")
	return nil
}

// baselines measures the systems that are not ours: connects and downloads under each flood, then what a SYN costs.
func (r *run) baselines(ctx context.Context) error {
	for _, system := range baselines {
		if !r.opts.wants(system) {
			r.leave(system, "not asked for")
			continue
		}
		for _, c := range r.sizes.of(baselineCells(system)) {
			r.progress.Enter("%s", c)
			skip, err := r.baseline(ctx, c)
			if err != nil {
				return fmt.Errorf("%s: %w", c, err)
			}
			if skip != "" {
				r.leave(system, skip)
				break
			}
			r.progress.Did(partBaselines)
		}
		if _, no := r.priceNo[system]; no {
			continue
		}
		r.progress.Enter("%s: what a SYN costs", system)
		if err := r.priceBaseline(ctx, system); err != nil {
			return fmt.Errorf("what a SYN costs %s: %w", system, err)
		}
		r.progress.Did(partCost)
	}
	return nil
}

// leave leaves out a system that is not ours.
func (r *run) leave(system, why string) {
	r.leaveOut(system, why)
	for range r.sizes.of(baselineCells(system)) {
		r.progress.Did(partBaselines)
	}
	r.progress.Did(partCost)
}

// baseline measures one cell, with a program that has just started.
func (r *run) baseline(ctx context.Context, c cell) (skip string, err error) {
	s := r.stage
	end, skip, err := s.begin(ctx, c.system)
	if err != nil || skip != "" {
		return skip, err
	}
	defer func() { err = errors.Join(err, end()) }()
	web := netip.AddrPortFrom(s.base.at, lab.WebPort)
	fetch := Fetch{URL: "http://" + web.String() + "/", Time: r.sizes.fetch, Patience: 10 * time.Second}
	if _, ok := r.peace[c.system]; !ok {
		var got Got
		if err := s.visitor.ask(ctx, "Download", fetch, &got); err != nil {
			return "", err
		}
		r.peace[c.system] = got
	}
	a, err := s.attack(ctx, s.base, lab.WebPort, c, nil, r.sizes.warm)
	if err != nil {
		return "", err
	}
	var visits []Visit
	err = s.visitor.ask(ctx, "Connect", Plan{To: web, N: r.sizes.connects, Gap: r.sizes.gap, Patience: r.sizes.patience}, &visits)
	w, counted := a.window()
	var got Got
	if err == nil {
		err = s.visitor.ask(ctx, "Download", fetch, &got)
	}
	later, lateCounted := a.window()
	if err := errors.Join(err, counted, lateCounted, a.end(), s.Healthy()); err != nil {
		return "", err
	}
	x := w.seen()
	x.visits, x.got, x.later = visits, &got, later.seen().offered
	r.cells[c] = x
	return "", nil
}

// conclude prints and writes, also of a run that did not come to its end.
func (r *run) conclude(out io.Writer, played error) error {
	file, complete := r.report(r.opts, r.sizes)
	verdict := figures.Judge(file, complete && played == nil, ofTime...)
	name, html := filepath.Join(r.opts.Out, "edge.json"), filepath.Join(r.opts.Out, "edge.html")
	if err := file.Write(name); err != nil {
		return errors.Join(played, err)
	}
	if err := page.Edge(file, r.facts()...).Write(html); err != nil {
		return errors.Join(played, err)
	}
	if err := printTable(out, file); err != nil {
		return errors.Join(played, err)
	}
	fmt.Fprintf(out, "\n%s\n", notes)
	fmt.Fprintf(out, "\n%s\nfigures: %s   page: %s   logs: %s\n", summary(file, verdict, played), name, html, filepath.Join(r.opts.Out, "edge-logs"))
	if played != nil {
		return fmt.Errorf("%w: %w", figures.ErrWrong, played)
	}
	return verdict
}
