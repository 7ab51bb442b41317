package tables

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/figures/page"
	"migrationsensor/examples/lab/live"
	"migrationsensor/examples/lab/paper"
)

// Run measures everything inside kernel.Enter's sandbox, prints the tables and writes out/paper.json
// and out/paper.html. nil is PASS; figures.ErrSlow and figures.ErrWrong tell what was missed; another error is why it
// did not come to its end, and then what was complete is written all the same.
func Run(ctx context.Context, o Options, out *os.File) error {
	if err := o.Check(); err != nil {
		return err
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
	random   *rand.Rand // of the order of measurements; one goroutine's
	assumed  paper.Assumed
	stage    *stage
	*measured
}

func newRun(o Options) *run {
	s := o.sizes()
	return &run{
		opts: o, sizes: s, progress: newProgress(s, o.RTT), measured: newMeasured(s),
		random: rand.New(rand.NewPCG(o.Seed, 3)), assumed: paper.Assume(o.RTT),
	}
}

// play measures, table by table. It returns after everything that it started has ended.
func (r *run) play(ctx context.Context) (err error) {
	r.progress.Enter(partWorld)
	r.stage, err = newStage(ctx, r)
	defer func() { err = errors.Join(err, r.stage.close()) }()
	if err != nil {
		return err
	}
	if r.congestion, err = r.stage.World.P1.Congestion(); err != nil {
		return err
	}
	r.progress.Finish(partWorld)
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{partUnprotected, r.unprotected}, {partHTTP, r.peaceHTTP}, {partSSH, r.peaceSSH},
		{partFlood, r.flood}, {partDetect, r.detect},
	} {
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

// conclude prints and writes, also of a run that did not come to its end.
func (r *run) conclude(out io.Writer, played error) error {
	file, complete := r.report(r.opts, r.sizes)
	verdict := figures.Judge(file, complete && played == nil, "ms")
	name := filepath.Join(r.opts.Out, "paper.json")
	if err := file.Write(name); err != nil {
		return errors.Join(played, err)
	}
	html := filepath.Join(r.opts.Out, "paper.html")
	if err := page.Paper(file, facts(r.assumed)...).Write(html); err != nil {
		return errors.Join(played, err)
	}
	if r.results.empty() { // there is nothing to show but why
		return fmt.Errorf("the run stopped: %w", played)
	}
	if err := Print(out, file, r.assumed.Lines()); err != nil {
		return errors.Join(played, err)
	}
	for _, f := range r.results.failures() {
		fmt.Fprintf(out, "failed: %s\n", f)
	}
	fmt.Fprintf(out, "\n%s\nfigures: %s   page: %s   logs: %s\n", summary(file, verdict, played), name, html, r.logs())
	if played != nil {
		return fmt.Errorf("%w: %w", figures.ErrWrong, played)
	}
	return verdict
}

// facts are the assumptions as the page shows them.
func facts(a paper.Assumed) (all []page.Fact) {
	for _, line := range assumptions(a.Lines()) {
		name, text, _ := strings.Cut(line, ": ")
		all = append(all, page.Fact{Name: name, Text: text})
	}
	return all
}

func (r *run) logs() string { return filepath.Join(r.opts.Out, "paper-logs") }
