package tables

import (
	"strings"
	"testing"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/paper"
)

func TestNotesFollowTheFigures(t *testing.T) {
	r, d := good(options(true).sizes())
	all := printed(t, r, d)
	for want, n := range map[string]int{
		"beside an OPEN on a link that is already open":  1,
		"adds to P1's 1902.30 ms +53.70 ms as published": 1,
		"ms re-created here":                             1,
		"Our P1 is flooded at two ports":                 1,
		"p says little about ours":                       1,
		"Linux has cookies on by default":                1,
		"the site took longer":                           0, // it did not
	} {
		if got := strings.Count(all, want); got != n {
			t.Errorf("%q stands there %d times, want %d", want, got, n)
		}
	}
	mean := func(ms float64) (f figures.Figure) { f.Spread = &figures.Spread{Mean: ms}; return f }
	for rule, c := range map[string]struct {
		site, plain figures.Figure
		says        bool
	}{"longer": {mean(548), mean(518), true}, "shorter": {mean(518), mean(548), false}, "the same": {mean(15.34), mean(15.31), false}, "not run": {mean(548), figures.Figure{}, false}} {
		var x text
		if x.reference(c.site, c.plain); (x.b.Len() > 0) != c.says {
			t.Errorf("%s: %q", rule, x.b.String())
		}
	}
}

// TestEveryAssumptionHasAText holds that the page can cut each line into a name and what it is.
func TestEveryAssumptionHasAText(t *testing.T) {
	for _, line := range assumptions(paper.Assume(0).Lines()) {
		if name, text, _ := strings.Cut(line, ": "); name == "" || text == "" {
			t.Errorf("no name and text: %q", line)
		}
	}
}
