package agent

import (
	"fmt"
	"math/rand/v2"
	"time"

	"migrationsensor/proto"
)

// movesWindow is the time over which moves are counted. Ours.
const movesWindow = 10 * time.Minute

// moves decides which migration notification is obeyed, and when. It is owned by the supervisor.
type moves struct {
	dwell time.Duration
	max   int

	counter map[proto.NodeID]uint64
	at      []time.Time // moves within the window
}

// judge says whether m, which came on the control link to the edge current, is to be obeyed; if not, why. moving
// reports whether a move is under way already.
func (v *moves) judge(m *proto.Migrate, current proto.NodeID, moving bool, now time.Time) (bool, string) {
	seen, known := v.counter[m.ID.Edge]
	for len(v.at) > 0 && now.Sub(v.at[0]) > movesWindow {
		v.at = v.at[1:]
	}
	switch {
	case m.ID.Edge != current:
		return false, fmt.Sprintf("it names edge %s, the current one is %s", m.ID.Edge, current)
	case known && m.ID.Counter < seen:
		return false, fmt.Sprintf("older than one seen already (%d, %d)", m.ID.Counter, seen)
	case known && m.ID.Counter == seen && moving:
		return false, "under way already"
	case len(m.Targets) == 0:
		return false, "it names no target"
	case v.max > 0 && len(v.at) >= v.max:
		return false, fmt.Sprintf("%d moves in %v are enough", len(v.at), movesWindow)
	}
	if v.counter == nil {
		v.counter = make(map[proto.NodeID]uint64)
	}
	if len(v.counter) > 64 { // of edges left long ago
		clear(v.counter)
	}
	v.counter[m.ID.Edge] = m.ID.Counter
	return true, ""
}

// wait is how long to wait before the move: within the spread that the edge asks for, and not sooner than the dwell
// after the last one.
func (v *moves) wait(m *proto.Migrate, now time.Time) time.Duration {
	var d time.Duration
	if m.StartAfter > 0 {
		d = rand.N(m.StartAfter)
	}
	if len(v.at) > 0 {
		d = max(d, v.dwell-now.Sub(v.at[len(v.at)-1]))
	}
	return d
}

// done notes a move.
func (v *moves) done(now time.Time) { v.at = append(v.at, now) }

// Backoff between attempts; from the protocol.
const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 10 * time.Second
)

// backoff counts failures: 0–100 ms, then doubling to 10 s, with full jitter.
type backoff struct {
	failures int
	last     time.Duration // what next said
}

func (b *backoff) next() time.Duration {
	ceil := min(firstBackoff<<min(b.failures, 10), maxBackoff)
	b.failures++
	b.last = rand.N(ceil)
	return b.last
}

func (b *backoff) reset() { *b = backoff{} }
