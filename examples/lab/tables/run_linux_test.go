package tables

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/kernel"
)

var noSandbox error

func TestMain(m *testing.M) {
	noSandbox = kernel.Enter()
	os.Exit(m.Run())
}

// build makes the three programs, with the Makefile's flags so that its cache is used.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=auto", "-ldflags", "-s -w", "-o", dir,
		"./agent/cmd/ms-agent", "./proxyd/cmd/proxyd", "./examples/lab/cmd/ms-lab")
	cmd.Dir = "../../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return dir
}

// TestRunOnTheKernel makes a run with few trials: what must hold on every machine does; its clock is not
// looked at.
func TestRunOnTheKernel(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	bin := build(t)
	o := *options(true)
	o.Bin, o.Lab, o.Out, o.Seed = bin, bin+"/ms-lab", t.ArtifactDir(), 7
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	r := newRun(o)
	r.sizes = sizes{
		warmUp: 1, unprotected: 2, http: 2, ssh: 1, trials: 2, waiting: 1, spells: 1,
		patience: 250 * time.Millisecond, spread: time.Millisecond, spell: 1100 * time.Millisecond, groups: []group{{attacker: "own", p: "1", dests: []string{"p1"}, ssh: true}}, trips: 3,
	}
	r.detected, r.trips = newDetected(r.sizes.spells), newTrips(r.sizes.trips)
	played := r.play(t.Context())
	var out strings.Builder
	if err := r.conclude(&out, played); err != nil && !errors.Is(err, figures.ErrSlow) {
		t.Fatalf("%v\n%s", err, out.String())
	}
	file, complete := r.report(o, r.sizes)
	if !complete {
		t.Error("a run that came to its end is not complete")
	}
	ours := 0
	for _, f := range file.Figures {
		if f.Skipped != "" && os.Getuid() == 0 {
			t.Errorf("%s was not run: %s", describe(f), f.Skipped)
		}
		if strings.HasPrefix(f.ID, "success.") && (f.System == "ms" || f.System == "ms-each") && f.Skipped == "" {
			ours++
			if *f.Value != 1 {
				t.Errorf("%s: %s", describe(f), f.Text())
			}
		}
	}
	if ours < 20 {
		t.Errorf("%d shares of ours, want one of each cell", ours)
	}
	// Counted, not timed: a stall of this machine may look like a round trip more, and nothing makes one less.
	want := map[string]string{"dest": "p1", "app": "http"}
	plain := find(file, "round_trips", "plain", peace, want)
	for _, system := range []string{"ms-each", "paper"} {
		if f := find(file, "round_trips", system, peace, want); f.Value == nil || plain.Value == nil || *f.Value < *plain.Value+1 {
			t.Errorf("%s waits for %s, a plain client for %s: want a round trip more at least", system, f.Text(), plain.Text())
		}
	}
	for _, name := range []string{"paper.json", "paper.html"} {
		if s, err := os.Stat(o.Out + "/" + name); err != nil || s.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
