package demo

import (
	"time"

	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/figures"
)

// mark is the time of something that happens to the sessions.
type mark struct{ from, to time.Time }

// What a session that lives through the run may feel, in milliseconds: it is the demo's to show that it lives, and the bench's
// (make bench-migrate) to measure. A flood shares this machine's processors with everything else.
var stallLimit = map[string]float64{phaseFlood: 3000, phaseKilled: 3000, phaseDrained: 1000}

var stallKinds = []string{phaseFlood, phaseKilled, phaseDrained}

// felt are the stalls of one session.
func felt(name string, t *app.Trace, usual time.Duration, marks map[string]*mark, skipped string) (fs []figures.Figure) {
	for _, kind := range stallKinds {
		f := figures.Times("stall", "ms", "", nil)
		m := marks[kind]
		switch {
		case skipped != "":
			f = figures.Skip("stall", "ms", "", skipped)
		case m == nil || m.to.IsZero() || t == nil:
			f = f.AtMost(stallLimit[kind]) // not met: it did not come to that
		default:
			longest, open := t.Longest(m.from, m.to)
			f = figures.Times("stall", "ms", "", []time.Duration{app.Stall(longest, usual)})
			f = f.AtMost(stallLimit[kind])
			if open && m.to.Sub(m.from) > time.Second && longest > time.Second {
				f = f.Want("it goes on", false)
			}
		}
		fs = append(fs, f.Label("app", name).Label("kind", kind))
	}
	return fs
}
