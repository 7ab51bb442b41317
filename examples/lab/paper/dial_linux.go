package paper

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects as the paper's client does and returns a connected, blocking socket, which is the
// caller's to close. It makes system calls on the calling thread, in that thread's namespace, with
// nothing of Go's scheduler between them. Of ctx it obeys the deadline; the end of ctx is noticed
// between the steps.
func Dial(ctx context.Context, p1 netip.AddrPort, a Assumed) (fd int, t Told, err error) {
	begin := time.Now()
	fd, err = connect(ctx, p1, a.FirstLimit)
	t.First = time.Since(begin)
	if err != nil {
		return -1, t, fmt.Errorf("first handshake with %s: %w", p1, err)
	}
	t.To = p1
	n, err := await(ctx, fd, a, &t)
	if err == nil {
		t.Transferred, t.To, t.Word = true, n.to, n.word
	}
	unix.Close(fd)
	t.Wait = time.Since(begin) - t.First
	fd, err = connect(ctx, t.To, a.SecondLimit)
	t.Second = time.Since(begin) - t.First - t.Wait
	if err != nil {
		return -1, t, fmt.Errorf("second handshake, with %s: %w", t.To, err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return -1, t, err
	}
	return fd, t, nil
}

// DialPlain connects once, as an application without the paper's client does.
func DialPlain(ctx context.Context, to netip.AddrPort, limit time.Duration) (fd int, err error) {
	fd, err = connect(ctx, to, limit)
	if err != nil {
		return -1, fmt.Errorf("connect to %s: %w", to, err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// await waits for a notification until the receive timeout. It comes whole, being one segment.
func await(ctx context.Context, fd int, a Assumed, t *Told) (n notice, err error) {
	if err := ready(ctx, fd, unix.POLLIN, a.ReceiveTimeout); err != nil {
		return n, err
	}
	b := make([]byte, noticeLen+1)
	got, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return n, err
	}
	n, err = openNotice(a.Key, b[:got])
	t.Spoke = err != nil && got > 0
	return n, err
}

// connect returns a connected socket that does not block.
func connect(ctx context.Context, to netip.AddrPort, limit time.Duration) (fd int, err error) {
	if err := ctx.Err(); err != nil {
		return -1, err
	}
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Connect(fd, sa)
	if errors.Is(err, unix.EINPROGRESS) {
		if err = ready(ctx, fd, unix.POLLOUT, limit); err == nil {
			err = outcome(fd)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// outcome is how a connect() that went on in the kernel ended.
func outcome(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// ready blocks until the socket is, at most for limit and until ctx's deadline.
func ready(ctx context.Context, fd int, events int16, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		ts := unix.NsecToTimespec(int64(max(0, time.Until(deadline))))
		n, err := unix.Ppoll(poll, &ts, nil)
		switch {
		case err == unix.EINTR: // by one of Go's own signals
		case err != nil:
			return err
		case n == 0:
			return unix.ETIMEDOUT
		default:
			return nil
		}
	}
}

// Hand passes a connected socket to the program at the other end of a unix socket, as ssh's
// ProxyUseFdpass expects it: one byte, with the descriptor beside it.
func Hand(fd int, to *os.File) error {
	err := unix.Sendmsg(int(to.Fd()), []byte{0}, unix.UnixRights(fd), nil, 0)
	if err != nil {
		return fmt.Errorf("pass the connection on: %w (standard output must be a unix socket: ssh -o ProxyUseFdpass=yes)", err)
	}
	return nil
}
