package edge

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/figures/page"
)

// visits are so many attempts that took so long, and so many that failed.
func visits(n int, took time.Duration, failed int) (all []Visit) {
	for range n {
		all = append(all, Visit{Took: took, All: 2 * took})
	}
	for range failed {
		all = append(all, Visit{Error: "too late"})
	}
	return all
}

// good is a run in which every goal is met.
func good(s sizes) *found {
	r := newFound()
	for _, system := range baselines {
		for _, c := range s.of(baselineCells(system)) {
			r.cells[c] = seen{visits: visits(5, time.Second, 5), got: &Got{Bytes: 1e6, Whole: 1, Took: time.Second}, offered: 1000, lost: 0.5}
		}
		r.prices = append(r.prices, priced{system: system, kind: fresh, ns: []float64{3000, 2900, 3100}, program: []float64{1, 0, 1}})
	}
	for _, x := range settings() {
		for _, c := range s.of(x.cells()) {
			rate := float64(c.rate)
			if c.rate == top {
				rate = 5e6
			}
			r.cells[c] = seen{visits: visits(10, 3*time.Millisecond, 0), offered: rate}
		}
	}
	for _, path := range paths {
		for _, kind := range []string{fresh, random, replay} {
			r.prices = append(r.prices, priced{system: ms, path: path, kind: kind, ns: []float64{200}, program: []float64{10}})
		}
		r.moved = append(r.moved, moved{path: path, peace: Got{Bytes: 100, Took: time.Second}, flood: Got{Bytes: 99, Took: time.Second}, sessions: 10})
	}
	return r
}

func whole() sizes { return (&Options{}).sizes() }
func quick() sizes { return (&Options{Quick: true}).sizes() }

var strongest = cell{system: ms, path: native, p: budget, keyed: true, rate: top, kind: fresh}

func TestVerdict(t *testing.T) {
	line := strongest
	line.rate = 4_000_000
	change := func(c cell, f func(*seen)) func(*found) {
		return func(r *found) {
			x := r.cells[c]
			f(&x)
			r.cells[c] = x
		}
	}
	for rule, x := range map[string]struct {
		change func(*found)
		want   error
		missed string
	}{
		"all goals are met":                  {func(*found) {}, nil, "PASS"},
		"one newcomer stays out":             {change(line, func(x *seen) { x.visits = visits(9, time.Millisecond, 1) }), figures.ErrWrong, "success.connect of ms xdp-native p=budget keyed 4000000/s"},
		"some stay out of a full ring":       {change(strongest, func(x *seen) { x.visits = visits(99, time.Millisecond, 1); x.lost = 0.3 }), nil, "PASS"},
		"many stay out of a full ring":       {change(strongest, func(x *seen) { x.visits = visits(9, time.Millisecond, 1); x.lost = 0.3 }), figures.ErrWrong, "success.second"},
		"within two seconds is not one":      {change(strongest, func(x *seen) { x.visits = visits(9, 2*time.Second, 0); x.lost = 0.3 }), figures.ErrWrong, "success.second"},
		"slow":                               {change(line, func(x *seen) { x.visits = visits(9, 6*time.Millisecond, 0) }), figures.ErrSlow, "connect of ms xdp-native"},
		"a machine that makes too few":       {change(strongest, func(x *seen) { x.offered = 3e6 }), figures.ErrSlow, "offered"},
		"a SYN costs too much":               {func(r *found) { r.prices[4].ns = []float64{251} }, figures.ErrSlow, "cpu.syn ms xdp-native fresh"},
		"or more than a tenth of a cookie's": {func(r *found) { r.prices[1].ns = []float64{1900} }, figures.ErrSlow, "cpu.syn ms xdp-native"},
		"a session was lost":                 {func(r *found) { r.moved[0].lost = 1 }, figures.ErrWrong, "sessions.lost ms xdp-native moved"},
		"downloads suffer":                   {func(r *found) { r.moved[2].flood.Bytes = 94 }, figures.ErrSlow, "goodput ms af_packet moved"},
		"a cell is missing":                  {func(r *found) { delete(r.cells, line) }, figures.ErrWrong, "FAIL: incomplete"},
		"a cell is left out and says why":    {func(r *found) { delete(r.cells, line); r.skipped[line] = "no driver" }, nil, "PASS"},
		"the others may fail as they like":   {change(cell{system: backlog, rate: top, kind: fresh}, func(x *seen) { x.visits = visits(0, 0, 10) }), nil, "PASS"},
	} {
		t.Run(rule, func(t *testing.T) {
			r := good(whole())
			x.change(r)
			file, complete := r.report(Options{}, whole())
			err := figures.Judge(file, complete, ofTime...)
			if !errors.Is(err, x.want) || (err == nil) != (x.want == nil) {
				t.Errorf("got %v, want %v", err, x.want)
			}
			if s := summary(file, err, nil); !strings.Contains(s, x.missed) {
				t.Errorf("%q does not say %q", s, x.missed)
			}
		})
	}
}

// TestQuickHasTheSameFigures holds that a quick run names every figure that a whole one has, and says why it leaves some out.
func TestQuickHasTheSameFigures(t *testing.T) {
	names := func(s sizes) (all []string) {
		file, complete := good(s).report(Options{}, s)
		if !complete {
			t.Error("not complete")
		}
		for _, f := range file.Figures {
			all = append(all, f.ID+" "+cellTitle(f)+" "+f.When)
			if f.Value == nil && f.Skipped == "" {
				t.Errorf("%s has neither a value nor a reason", all[len(all)-1])
			}
		}
		return all
	}
	if a, b := names(whole()), names(quick()); !slices.Equal(a, b) {
		t.Errorf("whole %d figures, quick %d", len(a), len(b))
	}
}

func TestRingLossOfAWindow(t *testing.T) {
	s := window{took: 2 * time.Second, syn: 900, clients: 100, taken: 250, ans: 200}.seen()
	if s.offered != 450 || s.taken != 125 || s.answered != 100 || s.lost != 0.75 {
		t.Errorf("got %+v", s)
	}
	if s := (window{took: time.Second, syn: 10, taken: 12}).seen(); s.lost != 0 { // what arrived before it began
		t.Errorf("lost %v of nothing", s.lost)
	}
}

func TestTableAndPage(t *testing.T) {
	r := good(whole())
	r.leaveOut(haproxy, "no haproxy here")
	gone := strongest
	gone.path = generic
	delete(r.cells, gone)
	r.skipped[gone] = quickWhy
	file, _ := r.report(Options{Command: "make bench-edge"}, whole())
	file.Decide(true)
	var table strings.Builder
	if err := printTable(&table, file); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"haproxy max/s fresh                            not run: no haproxy here", "ms xdp-native p=budget keyed max/s replay       100.0 %  100.0 %      3.0",
		"5.00 M", quickWhy, "cpu.syn ms xdp-native fresh", "0.067 of syncookies", "0.990 of ms",
	} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, table.String())
		}
	}
	var html strings.Builder
	if err := page.Edge(file, r.facts()...).Render(&html); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"the most this machine makes, replay", "not run: no haproxy here", "xdp-generic budget keyed", "Agents that were sent on", "mixed packet by packet"} {
		if !strings.Contains(html.String(), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

func TestOptions(t *testing.T) {
	o := Options{Bin: t.TempDir()}
	if err := o.Check(); err == nil || !strings.Contains(err.Error(), "build it with `make`") {
		t.Errorf("without programs: %v", err)
	}
	if !o.wants(ms) || !o.wants(backlog) {
		t.Error("by default everything is measured")
	}
}
