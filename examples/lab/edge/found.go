package edge

import "time"

// seen is what was found in one cell.
type seen struct {
	visits   []Visit
	got      *Got    // nil: downloads were not measured
	later    float64 // offered meanwhile
	offered  float64
	taken    float64
	answered float64 // all three in packets per second
	lost     float64 // share of what was sent, clients' frames too, that the ring had no room for
}

// priced is the processor time of one SYN, as often as it was measured.
type priced struct {
	system, path, kind string
	ns                 []float64
	program            []float64 // of them, in the edge's program
	answered           float64   // share
}

// moved is a real agent's downloads, in peace and while its own proxy is flooded at the most.
type moved struct {
	path         string
	peace, flood Got
	lost         int // sessions that were open when the flood began, of sessions
	sessions     int
}

// found is all that a run found.
type found struct {
	cells   map[cell]seen
	skipped map[cell]string
	peace   map[string]Got // downloads without a flood, by system
	prices  []priced
	priceNo map[string]string // system or path: why there is no price
	moved   []moved
	movedNo map[string]string
	unpin   string
}

func newFound() *found {
	return &found{cells: map[cell]seen{}, skipped: map[cell]string{}, peace: map[string]Got{}, priceNo: map[string]string{}, movedNo: map[string]string{}}
}

// leaveOut says why a system that is not ours has no figures.
func (r *found) leaveOut(system, why string) {
	for _, c := range baselineCells(system) {
		delete(r.cells, c)
		r.skipped[c] = why
	}
	r.priceNo[system] = why
}

// window is what happened to a target between two moments.
type window struct {
	took                     time.Duration
	syn, clients, taken, ans uint64
}

func (w window) seen() (s seen) {
	t := max(w.took.Seconds(), 1e-9)
	s.offered, s.taken, s.answered = float64(w.syn)/t, float64(w.taken)/t, float64(w.ans)/t
	if sent := float64(w.syn + w.clients); sent > 0 {
		s.lost = max(0, 1-float64(w.taken)/sent)
	}
	return s
}
