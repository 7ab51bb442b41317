package paper

import "time"

// firewall is what stands in front of the SYN Checker: of each window of time the first burst SYNs
// pass, whoever sent them. The window is as long as the rate wants it.
//
// It is no token bucket that gains its tokens one by one: the attacker of the paper sends like a
// clock, every 1,000 µs, and would be there for each token after half of that on average, so a client,
// which comes at any time, would get half of the share that its SYN has among the SYNs. (Seen here:
// 5 of 400 through a bucket of 24/s.) A whole burst is open to all for as long as it lasts.
type firewall struct {
	rate  float64 // SYN/s; 0: everything passes
	burst int

	start time.Time // of the window; zero: not used yet
	left  int
}

func (f *firewall) take(now time.Time) bool {
	if f.rate == 0 {
		return true
	}
	window := time.Duration(float64(f.burst) / f.rate * float64(time.Second))
	if f.start.IsZero() {
		f.start, f.left = now, f.burst
	}
	if passed := now.Sub(f.start); passed >= window {
		f.start, f.left = f.start.Add(passed.Truncate(window)), f.burst
	}
	if f.left == 0 {
		return false
	}
	f.left--
	return true
}
