package tables

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/figures/page"
	"migrationsensor/examples/lab/paper"
)

// Run measures everything inside kernel.Enter's sandbox, prints the tables and writes out/paper.json
// and out/paper.html. nil is PASS; ErrSlow and ErrWrong tell what was missed; another error is why it
// did not come to its end, and then what was complete is written all the same.
func Run(ctx context.Context, o Options, out *os.File) error {
	if err := o.Check(); err != nil {
		return err
	}
	r := newRun(o)
	show := lines
	if term.IsTerminal(int(out.Fd())) {
		show = screen
	}
	return r.conclude(out, show(ctx, out, r.progress, r.play))
}

// run is one run of the whole.
type run struct {
	opts     Options
	sizes    sizes
	progress *progress
	results  *results
	random   *rand.Rand // of the order of measurements; one goroutine's
	assumed  paper.Assumed
	stage    *stage

	strays, siteFetches int // TUN packets caused by unprotected traffic
	tunQuiet            bool
	detected            *detected
}

func newRun(o Options) *run {
	s := o.sizes()
	r := &run{
		opts: o, sizes: s, progress: newProgress(s, o.RTT), results: newResults(),
		random: rand.New(rand.NewPCG(o.Seed, 3)), assumed: paper.Assume(o.RTT),
	}
	r.detected = newDetected(s.spells)
	return r
}

// play measures, table by table. It returns after everything that it started has ended.
func (r *run) play(ctx context.Context) (err error) {
	r.progress.enter(partWorld)
	r.stage, err = newStage(ctx, r)
	defer func() { err = errors.Join(err, r.stage.close()) }()
	if err != nil {
		return err
	}
	r.progress.finish(partWorld)
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{partUnprotected, r.unprotected}, {partHTTP, r.peaceHTTP}, {partSSH, r.peaceSSH},
		{partFlood, r.flood}, {partDetect, r.detect},
	} {
		r.progress.enter("%s", step.name)
		began := time.Now()
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if err := r.stage.Healthy(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		r.progress.finish(step.name)
		r.progress.say("%s: done in %.0f s", step.name, time.Since(began).Seconds())
	}
	r.progress.enter("the end")
	return nil
}

// report turns what was measured into figures.
func (r *run) report() (file *figures.File, complete bool) {
	file = figures.New(r.opts.Command, "kernel")
	all, complete := r.results.figures(r.sizes.plan())
	all = append(all, r.results.judgeUnprotected(all, r.opts.Seed)...)
	stray := figures.Count("tun.unprotected", "ms", unprotected, r.strays, r.siteFetches).AtMost(0)
	if !r.tunQuiet {
		stray, complete = figures.Skip("tun.unprotected", "ms", unprotected, incomplete), false
	}
	found, whole := r.detected.figures()
	all = append(append(all, stray), found...)
	rtt := strconv.FormatFloat(float64(r.opts.RTT)/float64(time.Millisecond), 'f', -1, 64)
	for _, f := range all {
		file.Add(f.Label("rtt_ms", rtt))
	}
	file.Add(Published()...)
	return file, complete && whole
}

// conclude prints and writes, also of a run that did not come to its end.
func (r *run) conclude(out io.Writer, played error) error {
	file, complete := r.report()
	verdict := judge(file, complete && played == nil)
	name := filepath.Join(r.opts.Out, "paper.json")
	if err := file.Write(name); err != nil {
		return errors.Join(played, err)
	}
	html := filepath.Join(r.opts.Out, "paper.html")
	if err := page.Paper(file, facts(r.assumed)...).Write(html); err != nil {
		return errors.Join(played, err)
	}
	if err := Print(out, file, r.assumed.Lines()); err != nil {
		return errors.Join(played, err)
	}
	for _, f := range r.results.failures() {
		fmt.Fprintf(out, "failed: %s\n", f)
	}
	fmt.Fprintf(out, "\n%s\nfigures: %s   page: %s   logs: %s\n", summary(file, verdict, played), name, html, r.logs())
	if played != nil {
		return fmt.Errorf("the run stopped: %w", played)
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
