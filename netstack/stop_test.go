package netstack_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"migrationsensor/netstack"
	"migrationsensor/netstack/netstacktest"
)

// TestStopAtEveryStageOfAHandshake stops a stack while many connections are on their way: before their endpoints are
// made, while they are, and while the application's answer is under way. An endpoint that comes about in the very moment
// of the stop is in nobody's list.
func TestStopAtEveryStageOfAHandshake(t *testing.T) {
	const flows, rounds = 40, 60
	for round := range rounds {
		near, far := netstacktest.Pair(1500)
		seen := make(chan struct{}, flows)
		s, err := netstack.New(netstack.Config{Device: far, Handler: func(f *netstack.Flow) {
			seen <- struct{}{}
			select { // verdicts come at different times
			case <-time.After(time.Duration(round%7) * time.Millisecond):
			case <-f.Context().Done():
				return
			}
			if c, err := f.Accept(); err == nil {
				<-f.Context().Done()
				c.Abort()
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		h := netstacktest.NewHost(t, near)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		var dials sync.WaitGroup
		for i := range flows {
			dials.Go(func() {
				to := netip.AddrPortFrom(targets["IPv4"].Addr(), uint16(100+i))
				if c, err := h.Dial(ctx, to); err == nil {
					c.Abort()
				}
			})
		}
		for range round * flows / rounds {
			<-seen
		}
		stop()
		if err := receive(t, "end of Run", done); err != nil {
			t.Errorf("round %d: Run: %v", round, err)
		}
		dials.Wait()
	}
}
