package demo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/figures"
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
	f, err := newFleet(ctx, &o, said)
	if err == nil {
		err = f.measureConnects(ctx, n, file, said)
	}
	err = errors.Join(err, f.close())
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
	samples []Sample
}

func (f *fleet) measureConnects(ctx context.Context, n int, file *figures.File, say func(string, ...any)) error {
	for name, probe := range map[string]string{"client": "warm", "each": "each"} {
		if err := f.makeToken(ctx, name, "--role", "agent"); err != nil {
			return err
		}
		if err := f.startAgent(name, probe); err != nil {
			return err
		}
	}
	for _, name := range []string{"client", "each"} {
		if err := f.waitForAgent(ctx, name, 20*time.Second); err != nil {
			return err
		}
	}
	systems := []*measurement{
		{system: "plain", ns: f.world.Plain}, {system: "ms", ns: f.world.Client}, {system: "ms-each", ns: f.world.Each},
	}
	say("%d fetches of each: plain, ms, ms-each, one after the other", n)
	at, _ := lab.P1.Port(lab.WebPort)
	for i := range warmUp + n {
		for _, m := range systems {
			s := f.fetchRaw(ctx, m.ns, at)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if i >= warmUp {
				m.samples = append(m.samples, s)
			}
		}
	}
	rtt := strconv.FormatFloat(float64(f.opts.RTT)/float64(time.Millisecond), 'f', -1, 64)
	for _, x := range connectFigures(systems) {
		file.Add(x.Label("rtt_ms", rtt))
	}
	return f.healthy()
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

// fetchRaw fetches by blocking system calls on a thread in the namespace.
func (f *fleet) fetchRaw(ctx context.Context, ns *kernel.Namespace, at netip.AddrPort) Sample {
	s := Sample{When: phasePeace, Start: time.Now()}
	body := &counting{Hash: sha256.New()}
	var t times
	err := ns.Block(func() (err error) {
		t, err = rawFetch(ctx, at, "/file", func(b []byte) error { _, err := body.Write(b); return err })
		return err
	})
	s.Connect, s.Total, s.Connected = t.connect, t.total, t.connect > 0
	s.Whole = err == nil && t.status == 200 && body.n == FileSize
	s.Wrong = s.Whole && [sha256.Size]byte(body.Sum(nil)) != f.origin.digest
	if err != nil {
		s.Err = err.Error()
	}
	return s
}
