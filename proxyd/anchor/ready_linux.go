package anchor

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// carryReady carries the origin's bytes to the agent until the origin's end, nil, or an error. It waits for them without
// any buffer: the kernel says when there is something to read. Not ok: that can't be had of this connection.
func (r *relaying) carryReady() (ok bool, err error) {
	c, ok := r.origin.(*net.TCPConn)
	if !ok {
		return false, nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true, err
	}
	var b *[bufferSize]byte // nil while nothing flows
	var n int
	var got error
	try := func(fd uintptr) bool {
		if b == nil {
			b = r.borrow()
		}
		for {
			if n, got = unix.Read(int(fd), b[:]); got != unix.EINTR {
				break
			}
		}
		if got != unix.EAGAIN {
			return true
		}
		r.giveBack(b)
		b = nil
		return false
	}
	defer func() {
		if b != nil {
			r.giveBack(b)
		}
	}()
	v := &activity{src: c}
	for {
		n = 0
		if err = raw.Read(try); err == nil && got != nil {
			err = os.NewSyscallError("read", got)
		}
		if err == nil && n == 0 {
			return true, nil
		}
		if err = v.read(n, err); err != nil {
			return true, err
		}
		if n > 0 {
			if err := r.toAgent(b[:n]); err != nil {
				return true, err
			}
		}
	}
}
