package scenario_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
	"migrationsensor/examples/lab/scenario"
)

var noSandbox error

func TestMain(m *testing.M) {
	noSandbox = kernel.Enter()
	os.Exit(m.Run())
}

// build makes the three programs, with the Makefile's flags so that its cache is used.
func build(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=auto", "-ldflags", "-s -w", "-o", bin,
		"./agent/cmd/ms-agent", "./proxyd/cmd/proxyd", "./examples/lab/cmd/ms-lab")
	cmd.Dir = "../../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return bin
}

// TestOnTheRealKernel plays what package memory's tests play in memory.
func TestOnTheRealKernel(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	bin := build(t)
	for name, play := range map[string]func(context.Context, scenario.Mortal) error{
		"flooded":     func(ctx context.Context, w scenario.Mortal) error { return scenario.Flooded(ctx, w, true) },
		"transferred": func(ctx context.Context, w scenario.Mortal) error { return scenario.Transferred(ctx, w) },
		"restarted":   scenario.Restarted,
		"frozen":      scenario.Frozen,
		"cut":         scenario.Cut,
	} {
		t.Run(name, func(t *testing.T) {
			var nodes []fleet.Node
			if name == "transferred" {
				nodes = fleet.PaperNodes() // with a second entry a newcomer may be quicker there
			}
			f, err := fleet.New(t.Context(), fleet.Config{
				Nodes: nodes,
				Bin:   bin, Lab: filepath.Join(bin, "ms-lab"), Logs: filepath.Join(t.ArtifactDir(), "logs"), RTT: 15 * time.Millisecond, Seed: 1,
				Edge: fleet.Edge{SYN: 500, ICMP: 500, UDP: 500, Quiet: 2 * time.Second, Suspend: 20 * time.Second},
			}, t.Logf)
			defer func() {
				if err := f.Close(); err != nil {
					t.Errorf("close the world: %v", err)
				}
			}()
			if err != nil {
				t.Fatal(err)
			}
			if err := play(t.Context(), scenario.Kernel{Fleet: f}); err != nil {
				t.Error(err)
			}
		})
	}
}
