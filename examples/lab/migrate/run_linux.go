package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/figures/page"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
	"migrationsensor/examples/lab/live"
)

// Run measures everything inside kernel.Enter's sandbox, prints the table and writes out/migrate.json and out/migrate.html. nil is
// PASS; figures.ErrSlow and figures.ErrWrong tell what was missed; another error is why it did not come to its end, and then
// what was complete is written all the same.
func Run(ctx context.Context, o Options, out *os.File) error {
	if err := o.Check(); err != nil {
		return err
	}
	if o.Memory == nil {
		o.Memory = InMemory
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
	opts      Options
	sizes     sizes
	progress  *live.Progress
	fleet     *fleet.Fleet
	crowdNS   *kernel.Namespace
	crowdLink *kernel.Link
	joined    int // agents so far, of all crowds
	*found
}

// Names of the parts.
const (
	partWorld    = "the world"
	partStalls   = "stalls"
	partTransfer = "transfers"
	partMany     = "many sessions"
	partWeight   = "memory"
)

func newRun(o Options) *run {
	s := o.sizes()
	sum, events, felt := 0, 0, 0
	for _, h := range s.herds {
		events += len(rtts) * h.events()
		felt += h.agents * h.rounds
	}
	for _, n := range s.many {
		sum += n
	}
	seconds := func(x float64) time.Duration { return time.Duration(x * float64(time.Second)) }
	return &run{opts: o, sizes: s, found: newFound(), progress: live.NewProgress("What a connection feels of a move",
		live.Part{Name: partWorld, Units: 1, Each: 6 * time.Second},
		live.Part{Name: partStalls, Units: events, Each: 3*time.Second + 2*s.settle + seconds(0.02*float64(felt)/float64(len(s.herds)))},
		live.Part{Name: partTransfer, Units: 3, Each: time.Second + seconds(float64(s.transfer)/60e6)},
		live.Part{Name: partMany, Units: len(s.many), Each: seconds(2 + 0.03*float64(sum))},
		live.Part{Name: partWeight, Units: 1, Each: seconds(4 + 0.02*float64(s.sessions))},
	)}
}

// play measures, part by part. It returns after everything that it started has ended.
func (r *run) play(ctx context.Context) (err error) {
	r.progress.Enter(partWorld)
	if r.fleet, err = world(ctx, r.opts, rtts[0], r.logs(), r.progress.Say); err == nil {
		r.crowdNS, r.crowdLink, err = r.fleet.World.AddCrowd(rtts[0])
	}
	defer func() { err = errors.Join(err, r.fleet.Close()) }()
	if err != nil {
		return err
	}
	if r.congestion, err = r.fleet.World.P1.Congestion(); err != nil {
		return err
	}
	r.progress.Finish(partWorld)
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{{partStalls, r.stall}, {partTransfer, r.transfer}, {partMany, r.manyAtOnce}, {partWeight, r.weigh}} {
		r.progress.Enter("%s", step.name)
		began := time.Now()
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if err := r.fleet.Healthy(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		r.progress.Finish(step.name)
		r.progress.Say("%s: done in %.0f s", step.name, time.Since(began).Seconds())
	}
	r.progress.Enter("the end")
	return nil
}

// world is the fleet of the demo, whose agents move as often as they are told. Its detectors are off: what is moved is told to.
func world(ctx context.Context, o Options, rtt time.Duration, logs string, say func(string, ...any)) (*fleet.Fleet, error) {
	return fleet.New(ctx, fleet.Config{
		Bin: o.Bin, Lab: o.Lab, Logs: logs, RTT: rtt, Restless: true,
		Edge: fleet.Edge{Quiet: 5 * time.Second, Suspend: 30 * time.Second},
	}, say)
}

func (r *run) logs() string { return filepath.Join(r.opts.Out, "migrate-logs") }

// join makes a crowd whose agents are all at P1.
func (r *run) join(ctx context.Context, agents int, how rhythm) (*crowd, error) {
	c, err := newCrowd(ctx, r.fleet, r.crowdNS, agents, r.joined, how, time.Minute+time.Duration(agents)*30*time.Millisecond)
	r.joined += agents
	if err != nil {
		return nil, err
	}
	if err := c.gather(ctx, "p1"); err != nil { // on a busy machine some have come in by the other entry
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// leave ends a crowd and counts what came of its connections.
func (r *run) leave(ctx context.Context, c *crowd) error {
	e, err := c.end(ctx)
	r.echoed, r.lost, r.connections = r.echoed+e.Sent, r.lost+e.Lost, r.connections+c.agents
	for i := range e.Failed {
		why := "one more"
		if i < len(e.Broken) {
			why = e.Broken[i]
			r.progress.Say("a connection broke: %s", why)
		}
		r.broken = append(r.broken, why)
	}
	return errors.Join(err, c.close())
}

// conclude prints and writes, also of a run that did not come to its end.
func (r *run) conclude(out io.Writer, played error) error {
	file, complete := r.report(r.opts, r.sizes)
	verdict := figures.Judge(file, complete && played == nil, ofTime...)
	name, html := filepath.Join(r.opts.Out, "migrate.json"), filepath.Join(r.opts.Out, "migrate.html")
	if err := file.Write(name); err != nil {
		return errors.Join(played, err)
	}
	if err := page.Migrate(file, facts...).Write(html); err != nil {
		return errors.Join(played, err)
	}
	if err := printTable(out, file); err != nil {
		return errors.Join(played, err)
	}
	fmt.Fprintf(out, "\n%s\n", notes)
	fmt.Fprintf(out, "\n%s\nfigures: %s   page: %s   logs: %s\n", summary(file, verdict, played), name, html, r.logs())
	if played != nil {
		return fmt.Errorf("%w: %w", figures.ErrWrong, played)
	}
	return verdict
}
