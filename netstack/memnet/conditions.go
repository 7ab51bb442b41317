package memnet

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Conditions are those of one direction of a link. The zero value is a perfect one.
type Conditions struct {
	Delay     time.Duration `json:"delay,omitempty"`
	Loss      float64       `json:"loss,omitempty"`      // share of packets that vanish
	Duplicate float64       `json:"duplicate,omitempty"` // share of packets that come twice
	Reorder   float64       `json:"reorder,omitempty"`   // share of packets that wait HoldBack longer, so that later ones overtake
	HoldBack  time.Duration `json:"hold_back,omitempty"` // 0: 5 ms
	Rate      float64       `json:"rate,omitempty"`      // bytes per second; 0 is no limit
	Queue     int           `json:"queue,omitempty"`     // bytes that may wait for Rate; 0: 256 KiB
	Cut       bool          `json:"cut,omitempty"`       // everything vanishes
}

const (
	defaultHoldBack = 5 * time.Millisecond
	defaultQueue    = 256 << 10
)

// lane is one direction of a link, or of a fault, with what it remembers.
type lane struct {
	mu   sync.Mutex
	cond Conditions
	rng  *rand.Rand
	free time.Time // when the packets that were sent before have left
}

func newLane(c Conditions, seed, stream uint64) *lane {
	return &lane{cond: c, rng: rand.New(rand.NewPCG(seed, stream))}
}

func (l *lane) set(c Conditions) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cond, l.free = c, time.Time{}
}

// pass says when a packet that enters at a time leaves, and whether twice; false: it is lost.
func (l *lane) pass(size int, at time.Time) (out time.Time, twice, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.cond
	if c.Cut || c.Loss > 0 && l.rng.Float64() < c.Loss {
		return at, false, false
	}
	if c.Rate > 0 {
		queue := c.Queue
		if queue == 0 {
			queue = defaultQueue
		}
		if l.free.Before(at) {
			l.free = at
		}
		if l.free.Sub(at).Seconds()*c.Rate > float64(queue) {
			return at, false, false
		}
		l.free = l.free.Add(time.Duration(float64(size) / c.Rate * float64(time.Second)))
		at = l.free
	}
	at = at.Add(c.Delay)
	if c.Reorder > 0 && l.rng.Float64() < c.Reorder {
		hold := c.HoldBack
		if hold == 0 {
			hold = defaultHoldBack
		}
		at = at.Add(hold)
	}
	return at, c.Duplicate > 0 && l.rng.Float64() < c.Duplicate, true
}
