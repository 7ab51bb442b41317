package app

import (
	"time"

	"golang.org/x/sys/unix"
)

// nap sleeps by the thread's own clock: Go's timers would add up to 12 ms.
func nap(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&ts, nil) // a signal only ends it early
}
