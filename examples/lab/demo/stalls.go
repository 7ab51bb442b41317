package demo

import (
	"slices"
	"time"

	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/fleet"
)

// mark is the time of something that happens to the sessions; to is zero while it goes on.
type mark struct{ from, to time.Time }

// What a session that lives through the run may feel, in milliseconds: it is the demo's to show that it lives, and the bench's
// (make bench-migrate) to measure. A flood shares this machine's processors with everything else. Peace is there to compare.
var stallLimit = map[string]float64{phaseFlood: 3000, phaseKilled: 3000, phaseOrphan: 3000, phaseDrained: 1000, phaseHome: 1000}

var stallKinds = []string{phasePeace, phaseFlood, phaseKilled, phaseDrained, phaseHome}

// kinds are what happens to the sessions in this run.
func (o *Options) kinds() []string {
	if !o.entryDies {
		return stallKinds
	}
	return slices.Insert(slices.Clone(stallKinds), slices.Index(stallKinds, phaseDrained), phaseOrphan)
}

// goesOn is the goal of a session that stands still.
const goesOn = "it goes on"

// kindOf is what a phase belongs to: what a session feels until P1 is back is the flood's.
func kindOf(phase string) string {
	if phase == phaseReturn {
		return phaseFlood
	}
	return phase
}

// sessionFigures are what the ssh session and the download felt, and that every line and byte of them arrived.
func (r *run) sessionFigures() (fs []figures.Figure) {
	l := r.lasting
	if l == nil {
		l = &sessions{}
	}
	var reads, keys *app.Trace
	if l.reader != nil {
		reads = &l.reader.Trace
	}
	if l.typist != nil {
		keys = &l.typist.Trace
	}
	marks := r.board.marksNow()
	fs = append(felt(r.opts.kinds(), "ssh", keys, typing, marks, l.noSSH), felt(r.opts.kinds(), "download", reads, fleet.StreamEvery, marks, "")...)
	if l.noSSH == "" {
		fs = append(fs, l.sshFigure())
	}
	return append(fs, l.downloadFigures()...)
}

// felt are the stalls of one session.
func felt(kinds []string, name string, t *app.Trace, usual time.Duration, marks map[string]mark, skipped string) (fs []figures.Figure) {
	for _, kind := range kinds {
		f := figures.Times("stall", "ms", "", nil)
		m := marks[kind]
		limit, limited := stallLimit[kind]
		switch {
		case skipped != "":
			f, limited = figures.Skip("stall", "ms", "", skipped), false
		case m.to.IsZero() || t == nil: // it did not come to that: not met
		default:
			longest, open := t.Longest(m.from, m.to)
			f = figures.Times("stall", "ms", "", []time.Duration{app.Stall(longest, usual)})
			if open && m.to.Sub(m.from) > time.Second && longest > time.Second {
				f, limited = f.Want(goesOn, false), false
			}
		}
		if limited {
			f = f.AtMost(limit)
		}
		fs = append(fs, f.Label("app", name).Label("kind", kind))
	}
	return fs
}

// sshFigure counts lines that were typed and not echoed in their turn; a session that did not end by itself counts too.
func (s *sessions) sshFigure() figures.Figure {
	missing, typed := 1, 0
	if s.typist != nil && s.finished {
		seen, wrong := 0, ""
		typed, seen, wrong = s.typist.Counts()
		missing = typed - seen
		if wrong != "" || s.sshErr != nil {
			missing++
		}
	}
	return figures.Count("lines.lost", "ms", "", missing, typed).Label("app", "ssh").AtMost(0)
}

func (s *sessions) downloadFigures() []figures.Figure {
	wrong := 1
	if s.finished && s.downloadErr == nil && s.got == s.served && s.gotN > 0 {
		wrong = 0
	}
	return []figures.Figure{
		figures.Count("digest.mismatch", "ms", "", wrong, 1).Label("app", "download").AtMost(0),
		figures.Count("bytes.lost", "ms", "", int(s.servedN-s.gotN), int(s.servedN)).Label("app", "download").AtMost(0),
	}
}
