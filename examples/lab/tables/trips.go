package tables

import (
	"fmt"
	"slices"
	"sync"

	"migrationsensor/examples/lab/figures"
)

// waits is how many round trips ours may wait for before connect() returns, by when, system and memory: the number
// that no machine can change. The probe of `probe = "each"` is two; without a session TCP, TLS and OPEN are three; a
// TRANSFER by an attacked P1 is two more.
func (c cell) waits() (most int, ours bool) {
	if !c.ours() {
		return 0, false
	}
	n := 1
	switch {
	case c.Memory == "fresh":
		n = 3
	case c.System == "ms-each":
		n = 2
	}
	if c.When == flooded && c.Memory != "remembers" {
		n = 5 // under the flood ms-each begins fresh too
	}
	return n, true
}

// tripCells are the connections whose round trips are counted on the wire.
func tripCells() (all []cell) {
	p1 := cell{When: peace, Dest: "p1", App: "http"}
	all = append(all, cell{When: peace, System: "direct", Dest: "site", App: "http"})
	for _, x := range []struct{ system, memory string }{{"plain", ""}, {"paper", ""}, {"ms-each", ""}, {"ms", ""}, {"ms", "fresh"}} {
		c := p1
		c.System, c.Memory = x.system, x.memory
		all = append(all, c)
	}
	return append(all, floodTripCells()...)
}

// floodTripCells are those of ours under the flood; many clients of the others wait at the same time.
func floodTripCells() (all []cell) {
	for _, c := range (group{attacker: "own", p: "1", dests: []string{"p1"}}).cells() {
		if c.ours() {
			all = append(all, c)
		}
	}
	return all
}

// trips gathers counts of round trips.
type trips struct {
	mu  sync.Mutex
	n   int // of each cell
	all map[cell][]int
}

func newTrips(n int) *trips { return &trips{n: n, all: map[cell][]int{}} }

func (t *trips) add(c cell, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all[c] = append(t.all[c], n)
}

// figures are the least counts: what a connection can't do without. A stall of the machine may look like a round trip more,
// nothing makes one less. complete is false if a cell has too few.
func (t *trips) figures() (out []figures.Figure, complete bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	complete = true
	for _, c := range tripCells() {
		counts := slices.Sorted(slices.Values(t.all[c]))
		if len(counts) < t.n || len(counts) == 0 {
			complete = false
			out = append(out, c.label(figures.Skip("round_trips", c.System, c.When, incomplete), ""))
			continue
		}
		f := figures.Count("round_trips", c.System, c.When, counts[0], len(counts))
		if most, ours := c.waits(); ours {
			f = f.AtMost(float64(most))
		}
		out = append(out, c.label(f, ""))
	}
	return out, complete
}

// trips prints how often a connection waits for the other side.
func (t *text) trips() {
	t.line("")
	t.line("Round trips that connect() waits for, counted on the wire (the least; the paper's client also waits for a time)")
	for _, c := range tripCells() {
		want := c.labels()
		f := find(t.file, "round_trips", c.System, c.When, want)
		when := "in peace"
		if c.When == flooded {
			when = "under the flood"
		}
		name := fmt.Sprintf("%s, %s", named(c), when)
		if f.Value == nil {
			t.line("  %-52s not run: %s", name, f.Skipped)
			continue
		}
		t.line("  %-52s %s   of %d", name, f.Text(), f.N)
	}
}
