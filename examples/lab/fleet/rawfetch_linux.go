package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/examples/lab/kernel"
)

// Times are one fetch's.
type Times struct {
	Status         int           // HTTP's
	Connect, Total time.Duration // Connect 0: the connection did not come about
}

// Fetch fetches by blocking system calls on the calling thread: between the application's
// connect() and its return stands nothing of Go's scheduler.
func Fetch(ctx context.Context, at netip.AddrPort, path string, body func([]byte) error) (t Times, err error) {
	begin := time.Now()
	fd, err := Dial(ctx, at)
	if err != nil {
		return t, err
	}
	defer unix.Close(fd)
	t.Connect = time.Since(begin)
	t.Status, err = Get(fd, at, path, body)
	t.Total = time.Since(begin)
	return t, err
}

// Get asks a connected socket for a path and hands the reply's body on.
func Get(fd int, at netip.AddrPort, path string, body func([]byte) error) (status int, err error) {
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, at)
	if _, err := again(func() (int, error) { return unix.Write(fd, []byte(request)) }); err != nil {
		return 0, fmt.Errorf("send the request: %w", err)
	}
	return readReply(fd, body)
}

// Fetch fetches the file by system calls on a thread in the namespace.
func (o *Origin) Fetch(ctx context.Context, ns *kernel.Namespace, at netip.AddrPort) Sample {
	return o.FetchBy(ctx, ns, at, Dial)
}

// Dialer makes a connected, blocking socket by system calls on the calling thread.
type Dialer func(ctx context.Context, to netip.AddrPort) (fd int, err error)

// FetchBy is Fetch with another way to connect.
func (o *Origin) FetchBy(ctx context.Context, ns *kernel.Namespace, at netip.AddrPort, dial Dialer) Sample {
	s := Sample{}
	body := NewBody()
	status := 0
	err := ns.Block(func() error {
		s.Start = time.Now()
		fd, err := dial(ctx, at)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		s.Connect, s.Connected = time.Since(s.Start), true
		if err := setTimeout(ctx, fd, unix.SO_RCVTIMEO, FetchLimit); err != nil {
			return err
		}
		status, err = Get(fd, at, "/file", func(b []byte) error { _, err := body.Write(b); return err })
		s.Total = time.Since(s.Start)
		return err
	})
	s.Whole = err == nil && status == 200 && body.Whole()
	s.Wrong = s.Whole && !body.Is(o.Digest)
	if err != nil {
		s.Err = err.Error()
	}
	return s
}

// Dial connects by a blocking connect(), within ConnectLimit, and returns a socket whose reads end
// with the context's deadline, FetchLimit at most.
func Dial(ctx context.Context, at netip.AddrPort) (fd int, err error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = errors.Join(setTimeout(ctx, fd, unix.SO_SNDTIMEO, ConnectLimit), setTimeout(ctx, fd, unix.SO_RCVTIMEO, FetchLimit))
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	if err := connect(fd, sa, within(ctx, ConnectLimit)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", at, err)
	}
	return fd, nil
}

// within is the time until ctx's deadline, limit at most.
func within(ctx context.Context, limit time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(limit, max(time.Millisecond, time.Until(deadline))) // 0 would be no limit
	}
	return limit
}

func setTimeout(ctx context.Context, fd, option int, limit time.Duration) error {
	tv := unix.NsecToTimeval(int64(within(ctx, limit)))
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &tv)
}

// again repeats a call that one of Go's own signals interrupted: calls with a time limit are not
// restarted by the kernel.
func again(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); err != unix.EINTR {
			return n, err
		}
	}
}

// connect connects; interrupted, it goes on in the kernel and is only waited for again.
func connect(fd int, sa unix.Sockaddr, limit time.Duration) error {
	err := unix.Connect(fd, sa)
	switch err {
	case unix.EINTR:
	case unix.EINPROGRESS: // the socket's own time limit
		return unix.ETIMEDOUT
	default:
		return err
	}
	deadline := time.Now().Add(limit)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := again(func() (int, error) {
		ts := unix.NsecToTimespec(int64(max(0, time.Until(deadline))))
		return unix.Ppoll(poll, &ts, nil)
	})
	if err != nil {
		return err
	}
	if n == 0 {
		return unix.ETIMEDOUT
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// readReply reads an HTTP reply with a Content-Length and hands its body on.
func readReply(fd int, body func([]byte) error) (status int, err error) {
	buf, have := make([]byte, 256<<10), 0
	head := -1
	for head < 0 {
		if have == len(buf) {
			return 0, fmt.Errorf("the head of the reply is longer than %d bytes", len(buf))
		}
		n, err := again(func() (int, error) { return unix.Read(fd, buf[have:]) })
		if n <= 0 || err != nil {
			return 0, fmt.Errorf("the reply ended in its head: %w", orEOF(err))
		}
		have += n
		head = bytes.Index(buf[:have], []byte("\r\n\r\n"))
	}
	status, left := parseHead(string(buf[:head]))
	chunk := buf[head+4 : have]
	for {
		if err := body(chunk); err != nil {
			return status, err
		}
		if left -= len(chunk); left <= 0 {
			return status, nil
		}
		n, err := again(func() (int, error) { return unix.Read(fd, buf) })
		if n <= 0 || err != nil {
			return status, fmt.Errorf("%d bytes are missing: %w", left, orEOF(err))
		}
		chunk = buf[:n]
	}
}

func orEOF(err error) error {
	if err == nil {
		return fmt.Errorf("end of file")
	}
	return err
}

func parseHead(head string) (status, length int) {
	for i, line := range strings.Split(head, "\r\n") {
		if i == 0 {
			if f := strings.Fields(line); len(f) > 1 {
				status, _ = strconv.Atoi(f[1])
			}
			continue
		}
		if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(k, "Content-Length") {
			length, _ = strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return status, length
}
