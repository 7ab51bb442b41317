package paper

import "time"

// bucket is the firewall in front of the SYN Checker: a token bucket that begins full. It looks at
// nothing but the number of SYNs, so the flood takes its share of what passes.
type bucket struct {
	rate, burst float64 // rate 0: everything passes

	tokens float64
	last   time.Time // zero: not used yet
}

func (b *bucket) take(now time.Time) bool {
	if b.rate == 0 {
		return true
	}
	if b.last.IsZero() {
		b.tokens, b.last = b.burst, now
	}
	if passed := now.Sub(b.last); passed > 0 {
		b.tokens = min(b.burst, b.tokens+passed.Seconds()*b.rate)
		b.last = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
