package app

import (
	"context"
	"runtime"
	"time"
)

// pace gives each of n tickers a tick every so often, evenly spread over it, until ctx is done; then it closes them. A tick that
// nobody took yet is not repeated. Ticks come from one thread: a timer for each would be late by more, and together.
func pace(ctx context.Context, n int, every time.Duration) []chan struct{} {
	ticks := make([]chan struct{}, n)
	for i := range ticks {
		ticks[i] = make(chan struct{}, 1)
	}
	if n == 0 {
		return ticks
	}
	step := every / time.Duration(n)
	go func() {
		runtime.LockOSThread()
		defer func() {
			for _, t := range ticks {
				close(t)
			}
		}()
		due := time.Now()
		for i := 0; ctx.Err() == nil; i = (i + 1) % n {
			due = due.Add(step)
			if wait := time.Until(due); wait > 0 {
				nap(wait)
			} else if wait < -every { // the machine was busy: what is missed is missed
				due = time.Now()
			}
			select {
			case ticks[i] <- struct{}{}:
			default:
			}
		}
	}()
	return ticks
}
