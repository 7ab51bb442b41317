package memory

import (
	"log/slog"
	"testing"
	"time"

	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/scenario"
)

var _ scenario.World = (*World)(nil)

// newWorld is a fleet with thresholds for a small flood. A failing run says how to play its faults again.
func newWorld(t *testing.T, c fleet.Config) *World {
	t.Helper()
	c.Seed = *seed
	c.Edge = fleet.Edge{SYN: 500, ICMP: 500, UDP: 500, Quiet: 2 * time.Second, Suspend: 20 * time.Second}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	w, err := New(t.Context(), Config{Config: c, Log: log}, t.Logf)
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("close the world: %v", err)
		}
		if t.Failed() {
			t.Logf("the faults again: go test -run '^%s$' ./examples/lab/memory -seed %d", t.Name(), w.Seed())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestFloodedProxyMovesItsClient(t *testing.T) {
	w := newWorld(t, fleet.Config{})
	if err := scenario.Flooded(t.Context(), w, false); err != nil {
		t.Error(err)
	}
}
