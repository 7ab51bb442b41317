package app

import (
	"slices"
	"sync"
	"time"
)

// Trace is when something arrived.
type Trace struct {
	mu    sync.Mutex
	times []time.Time // rising
}

// Add notes that something arrived now.
func (t *Trace) Add(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.times = append(t.times, now)
}

// Count is how often something arrived.
func (t *Trace) Count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.times)
}

// Longest is the longest wait between two arrivals that has a part in the time from from to to. A wait that has not ended
// by to counts as far as to, and open says that there is one.
func (t *Trace) Longest(from, to time.Time) (longest time.Duration, open bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first, _ := slices.BinarySearchFunc(t.times, from, time.Time.Compare) // the first at or after from
	last := from
	if first > 0 {
		last = t.times[first-1]
	}
	for _, at := range t.times[first:] {
		longest = max(longest, at.Sub(last))
		if !at.Before(to) {
			return longest, false
		}
		last = at
	}
	return max(longest, to.Sub(last)), true
}

// Stall is what is felt of the longest wait: it less the usual one.
func Stall(longest, usual time.Duration) time.Duration { return max(0, longest-usual) }

// Forget drops what arrived before a moment but for the last of it, so that a trace without an end does not grow.
func (t *Trace) Forget(before time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first, _ := slices.BinarySearchFunc(t.times, before, time.Time.Compare)
	t.times = slices.Delete(t.times, 0, max(0, first-1))
}
