package synchecker

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// threadTime is the processor time of the calling thread, what the kernel did for it included. Zero:
// unknown.
func threadTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// hugePages asks for large pages where b is still untouched. Memory that is looked up at random would
// else cost a miss of the TLB each time, several hundred ns in a virtual machine. It is only advice.
func hugePages(b []byte) {
	const page = 2 << 20
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & (page - 1))
	if end := skip + (len(b)-skip)/page*page; skip < end {
		_ = unix.Madvise(b[skip:end], unix.MADV_HUGEPAGE)
	}
}
