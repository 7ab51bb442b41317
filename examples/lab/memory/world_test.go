package memory

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/scenario"
	"migrationsensor/netstack/memnet"
)

var _ scenario.Mortal = (*World)(nil)

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
			for _, f := range w.Played() {
				t.Logf("fault: %v", f)
			}
			t.Logf("the faults again: go test -run '^%s$' ./examples/lab/memory -seed %d", t.Name(), w.Seed())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestScenarios(t *testing.T) {
	t.Parallel()
	for name, play := range map[string]func(context.Context, scenario.Mortal) error{
		"flooded":     func(ctx context.Context, w scenario.Mortal) error { return scenario.Flooded(ctx, w, true) },
		"transferred": func(ctx context.Context, w scenario.Mortal) error { return scenario.Transferred(ctx, w) },
		"restarted":   scenario.Restarted,
		"frozen":      scenario.Frozen,
		"cut":         scenario.Cut,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := fleet.Config{}
			if name == "transferred" {
				c.Nodes = oneEntry // else a newcomer may be quicker at the other
			}
			if err := play(t.Context(), newWorld(t, c)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLossyLinkMovesItsClientToo has the client behind a bad line: loss, reordering, duplicates.
func TestLossyLinkMovesItsClientToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Config{RTT: 20 * time.Millisecond})
	w.Play(memnet.Fault{Host: "client", Conditions: memnet.Conditions{Loss: 0.01, Reorder: 0.02, Duplicate: 0.02}})
	if err := scenario.Flooded(t.Context(), w, false); err != nil {
		t.Error(err)
	}
}

// TestHiddenProxyLooksLikeNobody scans P2 as an attacker would; P1 answers the same scan, so it would have been seen.
func TestHiddenProxyLooksLikeNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Config{})
	for _, a := range []struct{ hidden, entry, unused netip.Addr }{
		{lab.P2.V4, lab.P1.V4, lab.Unused.V4}, {lab.P2.V6, lab.P1.V6, lab.Unused.V6},
	} {
		r, err := w.Scan(t.Context(), a.hidden, a.unused)
		if err != nil || !r.Alike() || r.Replies() != 0 {
			t.Errorf("hidden %v: %v, %+v", a.hidden, err, r)
		}
		if r, err = w.Scan(t.Context(), a.entry, a.unused); err != nil || r.Replies() == 0 {
			t.Errorf("entry %v: %v, %+v; want answers", a.entry, err, r)
		}
	}
}
