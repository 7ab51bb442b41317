package tables

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"migrationsensor/examples/lab/figures"
)

// The comparison of Table 2. What goes to an unprotected destination must cost no more with an agent
// than without one; "no more" needs the noise of this run. Two clients without an agent, each on a
// link of its own, are measured in the same loop as the client with one. Their samples are pooled
// and split at random into halves, each as large as the agent's sample, many times over: the noise
// is the difference of medians that 99 of 100 splits stay below, or the difference between the two
// clients themselves, if that is larger. The figure meets its goal if the median with agent is no
// farther above the median without than that. (A larger distance in the other direction would say
// that the comparison is not fair; it is printed, and no goal.)

// noiseSplits and noiseShare define it.
const (
	noiseSplits = 2000
	noiseShare  = 0.99
)

// noise is the difference between medians that direct against direct shows.
func noise(a, b []time.Duration, seed uint64) time.Duration {
	if len(a) == 0 || len(b) == 0 {
		return 0
	}
	pool := slices.Concat(a, b)
	random := rand.New(rand.NewPCG(seed, 2))
	diffs := make([]time.Duration, noiseSplits)
	for i := range diffs {
		random.Shuffle(len(pool), func(x, y int) { pool[x], pool[y] = pool[y], pool[x] })
		diffs[i] = (median(pool[:len(a)]) - median(pool[len(a):])).Abs()
	}
	slices.Sort(diffs)
	return max(diffs[int(noiseShare*float64(noiseSplits))], (median(a) - median(b)).Abs())
}

func median(v []time.Duration) time.Duration {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// judgeUnprotected sets the goal of the times of an unprotected destination and returns the noise as
// figures. The trials of direct are of its two clients in turn.
func (r *results) judgeUnprotected(all []figures.Figure, seed uint64) (noises []figures.Figure) {
	c := cell{When: unprotected, System: "direct", App: "http"}
	for i, f := range all {
		if f.When != unprotected || f.System != "ms" || f.Unit != "ms" || f.Value == nil || f.Baseline == nil {
			continue
		}
		of := trial.connected
		if f.ID == "download_760k" {
			of = trial.downloaded
		}
		var clients [2][]time.Duration
		r.mu.Lock()
		for k, t := range r.trials[c] {
			if d, ok := of(t, 0); ok {
				clients[k%2] = append(clients[k%2], d)
			}
		}
		r.mu.Unlock()
		limit := noise(clients[0], clients[1], seed)
		over := *f.Value - f.Baseline.Value
		ms := float64(limit) / float64(time.Millisecond)
		all[i] = f.Want(fmt.Sprintf("value - baseline <= %.3f ms, the noise of direct", ms), over <= ms)
		n := figures.Times(f.ID+".noise", "direct", unprotected, []time.Duration{limit})
		n.N, n.Spread, n.Labels = len(clients[0])+len(clients[1]), nil, c.labels()
		noises = append(noises, n)
	}
	return noises
}
