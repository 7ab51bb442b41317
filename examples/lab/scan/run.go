package scan

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"migrationsensor/examples/lab/frame"
)

// Port sends and receives Ethernet frames where the attacker is.
type Port interface {
	Send(frames [][]byte) (int, error)
	// Receive reads one frame into b, waiting at most for limit; n is 0 when none came.
	Receive(b []byte, limit time.Duration) (n int, err error)
	// Dropped is how many frames were lost because Receive was late.
	Dropped() (uint32, error)
}

// Over scans from src over a port, such as an interface of the lab in memory.
func Over(ctx context.Context, c Config, port Port, src netip.Addr) (Result, error) {
	c = c.Default()
	if err := c.Check(); err != nil {
		return Result{}, err
	}
	mac := make(net.HardwareAddr, 6)
	return run(ctx, c, port, func(p *frame.Packet) { p.Src, p.SrcMAC, p.DstMAC = src, mac, mac })
}

func run(ctx context.Context, c Config, port Port, stamp func(*frame.Packet)) (r Result, err error) {
	target, unused := c.probes(c.Target), c.probes(c.Unused)
	r.Probes = len(target)
	gap := time.Second / time.Duration(c.Rate)
	next := time.Now()
	for i := range target { // side by side, so that both meet the same weather
		for _, p := range []frame.Packet{target[i], unused[i]} {
			stamp(&p)
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
func listen(ctx context.Context, c Config, port Port, r *Result, until time.Time) error {
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
