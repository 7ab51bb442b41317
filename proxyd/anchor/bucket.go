package anchor

import (
	"math/rand/v2"
	"time"
)

// Bounds of what an agent that comes too early is told (ours).
const (
	minRetry = 20 * time.Millisecond
	maxRetry = 10 * time.Second // PROTOCOL's longest backoff; an agent tries for 90 s
)

// bucket admits RESUMEs at a rate, and a second's worth of them at once. The default of 2,000 a second is about what one
// core does of TLS handshakes with certificates on both sides, so a herd that comes faster would starve the streams
// that already flow; 10,000 sessions are through in 4 s, well within the 10 s that a move of all may take.
type bucket struct {
	rate    float64
	tokens  float64
	waiting float64 // about how many were told to come again and have not had their turn
	at      time.Time
}

func newBucket(rate int) bucket { return bucket{rate: float64(rate), tokens: float64(rate)} }

// take admits one, or says when to come again: at its turn behind those who wait already, give or take a half, so that a
// herd comes back spread and not as a herd.
func (b *bucket) take(now time.Time) (after time.Duration, ok bool) {
	if !b.at.IsZero() {
		served := b.rate * now.Sub(b.at).Seconds()
		b.tokens = min(b.tokens+served, b.rate)
		b.waiting = max(b.waiting-served, 0)
	}
	b.at = now
	if b.tokens >= 1 {
		b.tokens--
		return 0, true
	}
	b.waiting++
	turn := time.Duration(b.waiting / b.rate * float64(time.Second))
	return min(minRetry+turn/2+rand.N(turn+1), maxRetry+rand.N(maxRetry/2)), false
}
