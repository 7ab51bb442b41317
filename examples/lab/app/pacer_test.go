package app

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

func TestPaceTicksAllAndEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ticks := pace(ctx, 3, 3*time.Millisecond)
	for range 4 {
		for i, c := range ticks {
			if _, ok := <-c; !ok {
				t.Fatalf("ticker %d ended", i)
			}
		}
	}
	cancel()
	for _, c := range ticks {
		for range c { // ends when it is closed
		}
	}
}

func TestEveryAgentHasAnAddress(t *testing.T) {
	p := netip.MustParsePrefix("198.18.32.0/20")
	for n, want := range map[int]string{0: "198.18.32.1", 254: "198.18.32.255", 255: "198.18.33.0", 2000: "198.18.39.209"} {
		if got := nth(p, n); got.String() != want || !p.Contains(got) {
			t.Errorf("agent %d has %s, want %s", n, got, want)
		}
	}
}
