package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
)

// warmUp are fetches of each system that do not count.
const warmUp = 5

// Connect measures, in peace, connect() and the 760 KB file through MS against the plain proxy:
// n fetches of each, interleaved one by one so that both meet the same machine. It writes
// out/connect.json.
func Connect(ctx context.Context, o Options, n int, out *os.File) error {
	if err := o.Check(); err != nil {
		return err
	}
	file := figures.New(o.Command, "kernel")
	said := func(format string, args ...any) { fmt.Fprintf(out, "• "+format+"\n", args...) }
	f, err := fleet.New(ctx, o.fleet(), said)
	if err == nil {
		err = measureConnects(ctx, f, o.RTT, n, file, said)
	}
	err = errors.Join(err, f.Close())
	pass := file.Decide(err == nil)
	name := filepath.Join(o.Out, "connect.json")
	err = errors.Join(err, file.Write(name), file.Table(out))
	fmt.Fprintf(out, "\n%s\nfigures: %s   logs: %s\n", summary(file, err), name, filepath.Join(o.Out, "demo-logs"))
	if err == nil && !pass {
		return ErrFailed
	}
	return err
}

// measurement is one system's samples.
type measurement struct {
	system  string
	ns      *kernel.Namespace
	samples []fleet.Sample
}

func measureConnects(ctx context.Context, f *fleet.Fleet, rtt time.Duration, n int, file *figures.File, say func(string, ...any)) error {
	for name, probe := range map[string]string{"client": "warm", "each": "each"} {
		if err := f.AgentToken(ctx, name); err != nil {
			return err
		}
		if err := f.StartAgent(name, probe); err != nil {
			return err
		}
	}
	for _, name := range []string{"client", "each"} {
		if err := f.WaitForAgent(ctx, name, 20*time.Second); err != nil {
			return err
		}
	}
	systems := []*measurement{
		{system: "plain", ns: f.World.Plain}, {system: "ms", ns: f.World.Client}, {system: "ms-each", ns: f.World.Each},
	}
	say("%d fetches of each: plain, ms, ms-each, one after the other", n)
	at, _ := lab.P1.Port(lab.WebPort)
	for i := range warmUp + n {
		for _, m := range systems {
			s := f.Origin.Fetch(ctx, m.ns, at)
			s.When = phasePeace
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if i >= warmUp {
				m.samples = append(m.samples, s)
			}
		}
	}
	ms := strconv.FormatFloat(float64(rtt)/float64(time.Millisecond), 'f', -1, 64)
	for _, x := range connectFigures(systems) {
		file.Add(x.Label("rtt_ms", ms))
	}
	return f.Healthy()
}

func connectFigures(systems []*measurement) (all []figures.Figure) {
	base := clientFigures("plain", phasePeace, systems[0].samples)
	for _, m := range systems {
		for i, x := range clientFigures(m.system, phasePeace, m.samples) {
			if m.system != "plain" && i < 2 { // the two times
				x = x.Against(base[i])
			}
			if m.system == "ms" && x.ID == "connect" {
				x = x.RatioAtMost(1.05)
			}
			all = append(all, x)
		}
	}
	return all
}
