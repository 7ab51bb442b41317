package scan

import (
	"context"
	"errors"
	"runtime"

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
	r, err := run(ctx, c, port, func(p *frame.Packet) { p.Src, p.SrcMAC, p.DstMAC = port.Src, port.SrcMAC, port.DstMAC })
	return r, errors.Join(err, port.Close())
}
