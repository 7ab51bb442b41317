package edge

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// HoldArgs say which sessions are opened: so many, to an echo.
type HoldArgs struct {
	To netip.AddrPort
	N  int
}

// Held is what became of sessions that were held open.
type Held struct {
	Sessions, Lost int
	Why            string // of the first that was lost
}

// A held session sends a byte now and then and waits for it to come back; it is lost when it has an error or waits longer than
// anybody would.
const (
	holdEvery = 100 * time.Millisecond
	holdLimit = 10 * time.Second
)

// holding are sessions that are open.
type holding struct {
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex // guards held
	held Held
}

// Hold opens sessions and keeps them busy until Release.
func (v *Visitor) Hold(a HoldArgs, open *int) error {
	ctx, cancel := context.WithTimeout(v.ctx, holdLimit)
	defer cancel()
	conns := make([]net.Conn, 0, a.N)
	for range a.N {
		c, err := dial(ctx, a.To.String())
		if err != nil {
			for _, c := range conns {
				c.Close()
			}
			return fmt.Errorf("hold %d sessions to %s: %w", a.N, a.To, err)
		}
		conns = append(conns, c)
	}
	h := &holding{held: Held{Sessions: a.N}}
	ctx, h.cancel = context.WithCancel(v.ctx)
	for _, c := range conns {
		h.running.Go(func() { h.keep(ctx, c) })
	}
	v.holding = h
	*open = a.N
	return nil
}

// keep keeps one session busy.
func (h *holding) keep(ctx context.Context, c net.Conn) {
	defer c.Close()
	tick := time.NewTicker(holdEvery)
	defer tick.Stop()
	b := []byte{0}
	for {
		err := c.SetDeadline(time.Now().Add(holdLimit))
		if err == nil {
			_, err = c.Write(b)
		}
		if err == nil {
			_, err = io.ReadFull(c, b)
		}
		if err != nil {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.held.Lost++; h.held.Why == "" {
				h.held.Why = err.Error()
			}
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Release ends the held sessions, each after one more answer, and says how many were lost.
func (v *Visitor) Release(_ struct{}, held *Held) error {
	h := v.holding
	if h == nil {
		return fmt.Errorf("no session is held")
	}
	v.holding = nil
	h.cancel()
	h.running.Wait()
	*held = h.held
	return nil
}
