package proxyd

import (
	"sync"
	"time"
)

// Bounds of what a link that is not admitted yet is told to wait (ours; a sealed reply can say 25.5 s).
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 25 * time.Second

	maxOpening = 128 // a second's work of a machine that is ten times slower than it should be
)

// intake lets new links in at a rate, so that a thousand clients that come at once cost this proxy
// no more handshakes a second than it has time for. It reads no clock.
//
// Who comes too early is told a time drawn from the whole of the time that those before him take: the
// backlog, which grows with each that is turned away and shrinks at the rate.
type intake struct {
	rate, burst float64 // set once

	mu      sync.Mutex
	tokens  float64
	backlog float64
	at      time.Time
}

func newIntake(rate, burst float64, now time.Time) *intake {
	return &intake{rate: rate, burst: burst, tokens: burst, at: now}
}

// take admits a link now, or says when to come again. opening is how many were taken in and are not answered yet: what a
// machine can do in a second nobody knows, so too many of them are too many whatever the rate. jitter draws from the
// duration that it is given.
func (a *intake) take(now time.Time, opening int, jitter func(time.Duration) time.Duration) (again time.Duration, ok bool) {
	if a.rate <= 0 {
		return 0, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	passed := max(now.Sub(a.at).Seconds(), 0) * a.rate
	a.at = now
	a.tokens = min(a.tokens+passed, a.burst)
	a.backlog = max(a.backlog-passed, 0)
	if a.tokens >= 1 && opening < maxOpening {
		a.tokens--
		return 0, true
	}
	a.backlog++
	all := time.Duration(a.backlog / a.rate * float64(time.Second))
	return minRetry + jitter(min(max(all, minRetry), maxRetry-minRetry)), false
}
