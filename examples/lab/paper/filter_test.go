package paper

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func TestFirewallLetsItsRatePass(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, tc := range []struct {
		rule             string
		rate             float64
		burst            int
		offered, seconds int // each second; in all
		min, max         int
	}{
		{"no firewall: everything passes", 0, 0, 1000, 2, 2000, 2000},
		{"the paper's flood: 24 of 1,000 each second", 24, 10, 1000, 10, 235, 245},
		{"less than the rate passes whole", 24, 10, 10, 5, 50, 50},
		{"one at a time", 10, 1, 1000, 2, 20, 20},
		{"an hour of silence opens one window, not all of them", 1, 5, 0, 1, 5, 5},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			f, passed := firewall{rate: tc.rate, burst: tc.burst}, 0
			count := func(at time.Time) {
				if f.take(at) {
					passed++
				}
			}
			if tc.offered == 0 {
				f.start = start.Add(-time.Hour)
				for range 100 {
					count(start)
				}
			}
			for i := range tc.offered * tc.seconds {
				count(start.Add(time.Duration(i) * time.Second / time.Duration(tc.offered)))
			}
			if passed < tc.min || passed > tc.max {
				t.Errorf("%d passed, want %d to %d", passed, tc.min, tc.max)
			}
		})
	}
}

// TestClientGetsItsShare: beside a flood that keeps time like the paper's, a client that comes at any
// time passes about as often as any SYN of the flood, not half as often.
func TestClientGetsItsShare(t *testing.T) {
	const tries = 20000
	random, f, passed := rand.New(rand.NewPCG(1, 2)), firewall{rate: 24, burst: 10}, 0
	now := time.Unix(1000, 0)
	next := now // SYN of the flood
	for range tries {
		now = now.Add(time.Duration(random.Int64N(int64(2 * time.Second))))
		for ; next.Before(now); next = next.Add(time.Millisecond) {
			f.take(next)
		}
		if f.take(now) {
			passed++
		}
	}
	if share := float64(passed) / tries; share < 0.020 || share > 0.028 {
		t.Errorf("%.4f of the client's SYNs passed, want about 0.024", share)
	}
}

func TestFirewallHoldsWhenTheClockStepsBack(t *testing.T) {
	now := time.Unix(1000, 0)
	f := firewall{rate: 1, burst: 1}
	for i, want := range []bool{true, false, false} {
		if got := f.take(now.Add(time.Duration(-i) * time.Hour)); got != want {
			t.Errorf("SYN %d: got %v, want %v", i, got, want)
		}
	}
}

func TestAdmission(t *testing.T) {
	now := time.Unix(1000, 0)
	a, b, c := netip.MustParseAddr("198.18.1.1"), netip.MustParseAddr("198.18.2.1"), netip.MustParseAddr("198.18.3.1")
	l := newAdmission(Assumed{RatifiedFor: 10 * time.Second, RatifiedMax: 2})
	want := func(rule string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %v, want %v", rule, got, want)
		}
	}
	want("nobody is admitted at first", l.admits(now, a), false)
	want("ratify a", l.ratify(now, a), true)
	want("ratify b, later", l.ratify(now.Add(5*time.Second), b), true)
	want("the list is full", l.ratify(now.Add(6*time.Second), c), false)
	want("c was not admitted", l.admits(now.Add(6*time.Second), c), false)
	want("a full list still renews", l.ratify(now.Add(7*time.Second), b), true)
	want("a holds until its end", l.admits(now.Add(10*time.Second-1), a), true)
	want("and not longer", l.admits(now.Add(10*time.Second), a), false)
	want("an expired one makes room", l.ratify(now.Add(11*time.Second), c), true)
	want("b was renewed", l.admits(now.Add(16*time.Second), b), true)
}
