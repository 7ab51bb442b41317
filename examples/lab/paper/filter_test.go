package paper

import (
	"net/netip"
	"testing"
	"time"
)

func TestFirewallLetsItsRatePass(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, tc := range []struct {
		rule        string
		rate, burst float64
		offered     int // each second
		seconds     int
		min, max    int
	}{
		{"no firewall: everything passes", 0, 0, 1000, 2, 2000, 2000},
		{"the paper's flood: 24 of 1,000 each second", 24, 1, 1000, 10, 235, 241},
		{"less than the rate passes whole", 24, 1, 10, 5, 50, 50},
		{"a burst passes once, at the start", 10, 5, 1000, 2, 24, 25},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			b, passed := bucket{rate: tc.rate, burst: tc.burst}, 0
			for i := range tc.offered * tc.seconds {
				if b.take(start.Add(time.Duration(i) * time.Second / time.Duration(tc.offered))) {
					passed++
				}
			}
			if passed < tc.min || passed > tc.max {
				t.Errorf("%d passed, want %d to %d", passed, tc.min, tc.max)
			}
		})
	}
}

func TestFirewallHoldsWhenTheClockStepsBack(t *testing.T) {
	now := time.Unix(1000, 0)
	b := bucket{rate: 1, burst: 1}
	for i, want := range []bool{true, false, false} {
		if got := b.take(now.Add(time.Duration(-i) * time.Hour)); got != want {
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
