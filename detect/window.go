package detect

import "time"

// steps is how many parts of an interval the window slides by: a tenth of the paper's second.
const steps = 10

// kept is how many readings are remembered: at most two a step lie within an interval, for Observe takes
// none that comes sooner, and one is older.
const kept = 2*steps + 1

// reading is how many packets there had been at a time.
type reading struct {
	at  time.Time
	sum Counts
}

// window remembers the last readings. It is a ring: the oldest one makes room.
type window struct {
	interval time.Duration
	step     time.Duration

	ring [kept]reading
	next int // where the next one goes
	n    int
}

func (w *window) add(s reading) {
	w.ring[w.next] = s
	w.next = (w.next + 1) % kept
	w.n = min(w.n+1, kept)
}

// back returns the reading i before the next one: back(1) is the newest.
func (w *window) back(i int) *reading { return &w.ring[(w.next-i+kept)%kept] }

// edges returns the oldest reading within the interval that ends now, and the newest one before it; nil
// where there is none.
func (w *window) edges(now time.Time) (within, before *reading) {
	for i := 1; i <= w.n; i++ {
		s := w.back(i)
		if now.Sub(s.at) > w.interval {
			return within, s
		}
		within = s
	}
	return within, nil
}

// rates returns packets per second over the interval that ends with s.
//
// What came since a reading within the interval counts against the whole of it: a window that is too
// short, as every one just after the start, finds too little and never too much. If calls were late
// and no reading is near the interval's begin, the mean since the reading before it counts too: it is
// what a late call of a fixed second would find.
func (w *window) rates(s reading) (out [Kinds]float64) {
	within, before := w.edges(s.at)
	if within != nil {
		out = s.since(within, w.interval)
		if s.at.Sub(within.at) >= w.interval-w.step/2 {
			return out
		}
	}
	if before != nil {
		for k, r := range s.since(before, s.at.Sub(before.at)) {
			out[k] = max(out[k], r)
		}
	}
	return out
}

func (s reading) since(old *reading, took time.Duration) (out [Kinds]float64) {
	for k := range out {
		out[k] = float64(s.sum[k]-old.sum[k]) / took.Seconds()
	}
	return out
}
