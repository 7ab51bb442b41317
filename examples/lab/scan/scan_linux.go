package scan

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"migrationsensor/examples/lab/frame"
	"migrationsensor/examples/lab/kernel"
)

// Run scans from the calling thread's namespace, which must be one of the lab's.
func Run(ctx context.Context, c Config) (Result, error) {
	c = c.Default()
	if err := c.Check(); err != nil {
		return Result{}, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := kernel.CheckInside(); err != nil {
		return Result{}, err
	}
	port, err := frame.OpenPort(c.Target, true)
	if err != nil {
		return Result{}, err
	}
	r, err := run(ctx, c, port)
	return r, errors.Join(err, port.Close())
}

func run(ctx context.Context, c Config, port *frame.Port) (r Result, err error) {
	target, unused := c.probes(c.Target), c.probes(c.Unused)
	r.Probes = len(target)
	gap := time.Second / time.Duration(c.Rate)
	next := time.Now()
	for i := range target { // side by side, so that both meet the same weather
		for _, p := range []frame.Packet{target[i], unused[i]} {
			p.Src, p.SrcMAC, p.DstMAC = port.Src, port.SrcMAC, port.DstMAC
			if _, err := port.Send([][]byte{p.Append(nil)}); err != nil {
				return r, fmt.Errorf("probe %d: %w", i, err)
			}
			next = next.Add(gap)
			if err := listen(ctx, c, port, &r, next); err != nil {
				return r, err
			}
		}
	}
	if err := listen(ctx, c, port, &r, time.Now().Add(c.Wait)); err != nil {
		return r, err
	}
	r.Dropped, err = port.Dropped()
	return r, err
}

// listen notes what comes in until a moment.
func listen(ctx context.Context, c Config, port *frame.Port, r *Result, until time.Time) error {
	b := make([]byte, 65536)
	for {
		left := time.Until(until)
		if left <= 0 {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := port.Receive(b, min(left, 100*time.Millisecond))
		if err != nil {
			return fmt.Errorf("listen for answers: %w", err)
		}
		r.note(c, b[:n])
	}
}
