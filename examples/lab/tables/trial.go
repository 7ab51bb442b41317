package tables

import (
	"fmt"
	"sync"
	"time"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/fleet"
)

// trial is one user's try to get the file: the first attempt, and retries after those that failed.
type trial []fleet.Sample

// connected is how long the user waited for a connection, with at most so many retries.
func (t trial) connected(retries int) (time.Duration, bool) {
	for i, s := range t[:min(len(t), retries+1)] {
		if s.Connected {
			return t.waited(i) + s.Connect, true
		}
	}
	return 0, false
}

// downloaded is how long the user waited for the file.
func (t trial) downloaded(retries int) (time.Duration, bool) {
	for i, s := range t[:min(len(t), retries+1)] {
		if s.OK() {
			return t.waited(i) + s.Total, true
		}
	}
	return 0, false
}

// waited is the time that attempts before the i-th took.
func (t trial) waited(i int) time.Duration { return t[i].Start.Sub(t[0].Start) }

// results gathers trials. Its methods may be called from many goroutines.
type results struct {
	mu      sync.Mutex
	trials  map[cell][]trial
	skipped map[cell]string
	why     map[cell]string // the first failure of a cell
}

func newResults() *results {
	return &results{trials: map[cell][]trial{}, skipped: map[cell]string{}, why: map[cell]string{}}
}

// add takes a trial; it reports the failure if it is the cell's first.
func (r *results) add(c cell, t trial) (failure string, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trials[c] = append(r.trials[c], t)
	for _, s := range t {
		if !s.OK() && r.why[c] == "" {
			r.why[c] = s.Err
			if s.Wrong {
				r.why[c] = "the digest is wrong"
			}
			return r.why[c], true
		}
	}
	return "", false
}

// skip says why a cell is not measured.
func (r *results) skip(c cell, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.skipped[c] = why
}

// empty reports whether nothing was measured.
func (r *results) empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.trials) == 0
}

// incomplete is why a cell has no figures.
const incomplete = "the run ended before this was complete"

// figures turns all trials into figures, with baselines and goals. complete is false if a cell has
// fewer trials than planned.
func (r *results) figures(all []planned) (out []figures.Figure, complete bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	complete = true
	for _, p := range all {
		why := r.skipped[p.cell]
		if why == "" && len(r.trials[p.cell]) < p.n {
			why, complete = incomplete, false
		}
		for _, retries := range p.retries() {
			for _, id := range p.ids {
				f := figures.Skip(id, p.System, p.When, why)
				if why == "" {
					f = timesOrShare(id, p.cell, r.trials[p.cell], retries)
				}
				out = append(out, p.label(f, retries))
			}
		}
	}
	for i := range out {
		out[i] = withGoal(compared(out[i], out))
	}
	return append(out, r.mismatches()), complete
}

// timesOrShare is one figure of a cell: failures are in the shares, not in the times.
func timesOrShare(id string, c cell, trials []trial, retries string) figures.Figure {
	n := 0
	if retries == "2" {
		n = maxRetries
	}
	of := trial.connected
	if id == "download_760k" || id == "success.download" {
		of = trial.downloaded
	}
	var took []time.Duration
	for _, t := range trials {
		if d, ok := of(t, n); ok {
			took = append(took, d)
		}
	}
	if id == "success.connect" || id == "success.download" {
		return figures.Share(id, c.System, c.When, len(took), len(trials))
	}
	return figures.Times(id, c.System, c.When, took)
}

// mismatches counts files that came whole and were not the file.
func (r *results) mismatches() figures.Figure {
	wrong, whole := 0, 0
	for _, trials := range r.trials {
		for _, t := range trials {
			for _, s := range t {
				if s.Whole {
					whole++
				}
				if s.Wrong {
					wrong++
				}
			}
		}
	}
	return figures.Count("digest.mismatch", "", "", wrong, whole).AtMost(0)
}

// failures lists the first failure of each cell of ours.
func (r *results) failures() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, why := range r.why {
		if c.ours() {
			out = append(out, fmt.Sprintf("%s %s %v: %s", c.System, c.When, c.labels(), why))
		}
	}
	return out
}
