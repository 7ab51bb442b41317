package migrate

import (
	"fmt"
	"testing"
	"time"

	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/memory"
)

// TestF51SlowAnchorIsNoStorm: the anchor of many sessions stands still for 5 s, twice as long as a link is waited for. None
// breaks, and those that come back do not dial more than that takes: in a storm each dial that is late makes another.
func TestF51SlowAnchorIsNoStorm(t *testing.T) {
	const (
		agents = 300
		pause  = 5 * time.Second
		most   = 10 * agents // dials: by two edges, again when it is back, and control links that follow
	)
	w, err := memory.New(t.Context(), inMemory(), t.Logf)
	t.Cleanup(func() { try(t, w.Close()) })
	try(t, err)
	sockets, err := w.Crowd(agents)
	try(t, err)
	c, err := crowdIn(t.Context(), w, sockets, agents, rhythm{watched: agents, every: time.Second})
	try(t, err)
	t.Cleanup(func() { try(t, c.close()) })
	before := sockets.Dials()
	from := time.Now()
	try(t, w.Freeze("a1"))
	timer := time.NewTimer(pause)
	defer timer.Stop()
	<-timer.C
	try(t, w.Thaw("a1"))
	thawed := time.Now()
	err = w.Wait(t.Context(), time.Minute, "every connection goes on", seldom(func() (bool, error) {
		var s app.Stalls
		err := c.call(t.Context(), "Stalls", app.Window{From: from, To: thawed}, &s)
		return err == nil && s.Open == 0, fmt.Errorf("%d still wait, %v", s.Open, err)
	}))
	try(t, err)
	t.Logf("all went on %v after the pause, with %d dials", time.Since(thawed).Round(time.Millisecond), sockets.Dials()-before)
	e, err := c.end(t.Context())
	try(t, err)
	if e.Failed != 0 || e.Lost != 0 {
		t.Errorf("%d connections broke, %d bytes of %d are lost: %v", e.Failed, e.Lost, e.Sent, e.Broken)
	}
	if n := sockets.Dials() - before; n > most {
		t.Errorf("%d dials of %d agents, want %d at most", n, agents, most)
	}
}
