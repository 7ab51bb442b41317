package detect

import (
	"math/rand/v2"
	"testing"
	"time"
)

const limit = 1000 // packets per second in these tests

// traffic[ms] is how many packets came before that millisecond.
type traffic []uint64

func newTraffic(in func(ms int) uint64) traffic {
	t := make(traffic, 6001)
	for ms := range len(t) - 1 {
		t[ms+1] = t[ms] + in(ms)
	}
	return t
}

// burst is traffic whose rate lies about the limit: spells of any length, some calm, some not.
func burst(rnd *rand.Rand) traffic {
	until, every, most := 0, 1, uint64(0)
	return newTraffic(func(ms int) uint64 {
		if ms >= until {
			until, every, most = ms+1+rnd.IntN(700), 1+rnd.IntN(12), 1+rnd.Uint64N(9)
		}
		if ms%every != 0 {
			return 0
		}
		return rnd.Uint64N(most + 1)
	})
}

// steady is a flood of so many packets/s from a time to the end.
func steady(rate float64, from int) traffic {
	due := func(ms int) uint64 { return uint64(rate * float64(max(0, ms-from)) / 1000) }
	return newTraffic(func(ms int) uint64 { return due(ms+1) - due(ms) })
}

// count returns the packets in [from, to).
func (t traffic) count(from, to int) uint64 { return t[to] - t[max(0, from)] }

// over runs a Detector over the traffic and returns when, in milliseconds, its window was over the limit.
func (t traffic) over(calls []int) (over []int) {
	d, began := New(Config{Threshold: [Kinds]float64{SYN: limit}}), time.Unix(1e9, 0)
	for _, call := range calls {
		now := began.Add(time.Duration(call) * time.Millisecond)
		if v := d.Observe(now, Counts{SYN: t[call]}); v.Over.Equal(now) {
			over = append(over, call)
		}
	}
	return over
}

// calls are those of an exact clock.
func (t traffic) calls() (at []int) {
	for ms := 0; ms < len(t); ms += 100 {
		at = append(at, ms)
	}
	return at
}

// fixed is the paper's detector: the ends of the seconds that reach the limit, the first of which begins
// at the phase.
func (t traffic) fixed(phase int, limit uint64) (over []int) {
	for from := phase; from+1000 < len(t); from += 1000 {
		if t.count(from, from+1000) >= limit {
			over = append(over, from+1000)
		}
	}
	return over
}

// heaviest is the most that a step holds.
func (t traffic) heaviest() (most uint64) {
	for at := 0; at+100 < len(t); at += 100 {
		most = max(most, t.count(at, at+100))
	}
	return most
}

// wantBy fails unless the first of got is there by the first of want, give or take late.
func wantBy(t *testing.T, seed uint64, phase int, got, want []int, late int) {
	t.Helper()
	if len(want) > 0 && (len(got) == 0 || got[0] > want[0]+late) {
		t.Errorf("seed %d: a detector with bins from %d ms on finds the attack at %v, ours at %v", seed, phase, want, got)
	}
}

// What the paper's seconds find, ours finds, and not later: with any phase whose bins begin at our steps,
// at the same time; with any other, if the attack is no matter of where a step is cut.
func TestFindsWhatFixedSecondsFind(t *testing.T) {
	for seed := range uint64(200) {
		in := burst(rand.New(rand.NewPCG(seed, 1)))
		got := in.over(in.calls())
		for phase := range 1000 {
			if phase%100 == 0 {
				wantBy(t, seed, phase, got, in.fixed(phase, limit), 0)
			}
			wantBy(t, seed, phase, got, in.fixed(phase, limit+in.heaviest()), 100)
		}
	}
}

// Ours finds nothing that the paper's seconds, begun at some time, do not find.
func TestFindsNothingElse(t *testing.T) {
	found := 0
	for seed := range uint64(200) {
		in := burst(rand.New(rand.NewPCG(seed, 2)))
		for _, at := range in.over(in.calls()) {
			found++
			if n := in.count(at-1000, at); n < limit {
				t.Errorf("seed %d: over at %d ms, but the second before has %d packets", seed, at, n)
			}
		}
	}
	if found == 0 {
		t.Error("nothing was found: this traffic tests nothing")
	}
}

// However irregular the calls, ours is over only if a second is, or the mean of a longer time between
// calls, which is all that a late call can know.
func TestIrregularCallsInventNothing(t *testing.T) {
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		in := burst(rnd)
		var calls []int
		for at := rnd.IntN(1000); at < len(in); at += 1 + rnd.IntN(50+rnd.IntN(500)) {
			calls = append(calls, at)
		}
		for _, at := range in.over(calls) {
			if !in.explained(at, calls) {
				t.Errorf("seed %d: over at %d ms for no reason; calls at %v", seed, at, calls)
			}
		}
	}
}

func (t traffic) explained(at int, calls []int) bool {
	if t.count(max(calls[0], at-1000), at) >= limit {
		return true
	}
	for _, from := range calls {
		if at-from > 1000 && t.count(from, at)*1000 >= uint64(at-from)*limit {
			return true
		}
	}
	return false
}

// A flood is found limit/rate of a second and one step after its start, whenever it starts: within the
// paper's second if the limit is at most nine tenths of its rate.
func TestFloodIsFoundWithinTheSecond(t *testing.T) {
	for _, share := range []float64{0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1} {
		for start := 0; start < 1000; start += 7 { // the first ones as soon as counting begins
			in := steady(limit/share, start)
			got, by := in.over(in.calls()), start+int(share*1000)+100
			if len(got) == 0 || got[0] > by {
				t.Errorf("limit at %.2f of the rate, flood from %d ms on: found at %v, want by %d", share, start, got, by)
			}
		}
	}
}
