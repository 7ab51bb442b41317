package anchor

import (
	"context"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// connecting is a TCP connection that connect() has begun, on a socket that does not block. An origin beside the
// anchor has answered by the time connect() returns, and then no goroutine has to be woken for it: that was a fifth
// of all that a new connection costs over the plain proxy.
type connecting struct {
	fd  int
	to  netip.AddrPort
	err error // of the beginning
}

// Begin begins to connect to an address. It leaves names, which take time to resolve, and zones to Config.Dial.
func Begin(origin string) (Dialing, bool) {
	to, err := netip.ParseAddrPort(origin)
	if err != nil || to.Addr().Zone() != "" {
		return nil, false
	}
	c := &connecting{fd: -1, to: to}
	c.err = c.begin()
	return c, true
}

func (c *connecting) begin() error {
	addr := c.to.Addr().Unmap()
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(c.to.Port()), Addr: addr.As16()})
	if addr.Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(c.to.Port()), Addr: addr.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	// A signal does not end a connect() that does not block: it goes on, as with EINPROGRESS.
	if err = unix.Connect(fd, sa); err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	c.fd = fd
	return nil
}

func (c *connecting) Now() (bool, error) {
	if c.err != nil {
		return true, c.failed(c.err)
	}
	if !answered(c.fd) {
		return false, nil
	}
	if err := c.outcome(); err != nil {
		unix.Close(c.fd)
		return true, c.failed(err)
	}
	return true, nil
}

func (c *connecting) Conn() (net.Conn, error) {
	f := os.NewFile(uintptr(c.fd), "origin")
	defer f.Close()
	conn, err := net.FileConn(f) // with Go's own settings: no delay, keep-alive
	if err != nil {
		return nil, c.failed(err)
	}
	return conn, nil
}

func (c *connecting) Wait(ctx context.Context) (net.Conn, error) {
	f := os.NewFile(uintptr(c.fd), "origin") // does not block: it waits in the runtime's poller
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, c.failed(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	err = raw.Write(func(fd uintptr) bool { return answered(int(fd)) })
	if !stop() {
		f.Close()
		return nil, c.failed(ctx.Err())
	}
	if err == nil {
		err = c.outcome()
	}
	if err != nil {
		f.Close()
		return nil, c.failed(err)
	}
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, c.failed(err)
	}
	return conn, nil
}

// outcome is how connect() ended. A socket that chose for itself the very port it connects to has met itself (TCP's
// simultaneous open): nobody listens there.
func (c *connecting) outcome() error {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err == nil && c.itself() {
		err = unix.ECONNREFUSED
	}
	return os.NewSyscallError("connect", err)
}

func (c *connecting) itself() bool {
	sa, err := unix.Getsockname(c.fd)
	if err != nil {
		return false
	}
	addr := c.to.Addr().Unmap()
	switch own := sa.(type) {
	case *unix.SockaddrInet4:
		return own.Port == int(c.to.Port()) && addr == netip.AddrFrom4(own.Addr)
	case *unix.SockaddrInet6:
		return own.Port == int(c.to.Port()) && addr == netip.AddrFrom16(own.Addr).Unmap()
	}
	return false
}

func (c *connecting) failed(err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(c.to), Err: err}
}

// answered reports whether connect() has ended, well or not.
func answered(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, _ := unix.Poll(poll, 0) // a signal: not yet
	return n > 0
}
