package app

import (
	"testing"
	"time"
)

func TestLongestWait(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	trace := &Trace{}
	for _, ms := range []int{0, 10, 20, 70, 80, 90, 300, 310} {
		trace.Add(at(ms))
	}
	for _, c := range []struct {
		rule     string
		from, to int
		want     int
		open     bool
	}{
		{"a wait inside", 15, 85, 50, false},
		{"a wait that began before", 30, 85, 50, false},
		{"one that ends after", 75, 100, 210, false},
		{"both cut waits count in full", 50, 200, 210, false},
		{"peace", 2, 18, 10, false},
		{"a moment that an arrival ends", 95, 96, 210, false},
		{"nothing any more", 305, 405, 95, true},
		{"nothing before", -100, 5, 100, false},
	} {
		got, open := trace.Longest(at(c.from), at(c.to))
		if got != time.Duration(c.want)*time.Millisecond || open != c.open {
			t.Errorf("%s: got %v, open %v, want %d ms, open %v", c.rule, got, open, c.want, c.open)
		}
	}
	if got, open := (&Trace{}).Longest(at(0), at(7)); got != 7*time.Millisecond || !open {
		t.Errorf("nothing ever came: %v, open %v", got, open)
	}
}

func TestStallIsNeverNegative(t *testing.T) {
	if got := Stall(9*time.Millisecond, 10*time.Millisecond); got != 0 {
		t.Errorf("got %v", got)
	}
	if got := Stall(25*time.Millisecond, 10*time.Millisecond); got != 15*time.Millisecond {
		t.Errorf("got %v", got)
	}
}
