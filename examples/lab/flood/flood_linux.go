package flood

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/examples/lab/frame"
	"migrationsensor/examples/lab/kernel"
)

// Run sends the flood from the calling thread's namespace, which must be one of the lab's, until
// its time or count is over or ctx is done. It holds the calling goroutine's thread meanwhile.
func Run(ctx context.Context, c Config) (Result, error) {
	if err := c.Check(); err != nil {
		return Result{}, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := kernel.CheckInside(); err != nil {
		return Result{}, err
	}
	port, err := frame.OpenPort(c.Target.Addr(), false)
	if err != nil {
		return Result{}, err
	}
	defer port.Close()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0)
	t := c.template()
	t.SrcMAC, t.DstMAC = port.SrcMAC, port.DstMAC
	return send(ctx, c, t, port, func() {
		pause := unix.NsecToTimespec(int64(200 * time.Microsecond))
		_ = unix.Nanosleep(&pause, nil)
	})
}
