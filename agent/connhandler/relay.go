package connhandler

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// An idle connection holds two small buffers; one that moves bulk borrows large ones while it does. Ours.
const (
	smallBuffer = 2 << 10
	largeBuffer = 256 << 10
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// Relay carries bytes between a and b until both directions have ended, one has failed or ctx is done. An end of
// stream crosses as a half-close; a failure on either side ends both with a reset, never with a clean end.
func Relay(ctx context.Context, a, b Conn) {
	abort := sync.OnceFunc(func() { a.Abort(); b.Abort() })
	defer context.AfterFunc(ctx, abort)()
	var failed [2]bool
	var dirs sync.WaitGroup
	for i, d := range [2][2]Conn{{a, b}, {b, a}} {
		dirs.Go(func() {
			if err := pass(d[1], d[0]); err != nil {
				failed[i] = true
				abort()
			}
		})
	}
	dirs.Wait()
	if !failed[0] && !failed[1] {
		a.Close()
		b.Close()
	}
}

// pass copies src to dst and then half-closes dst.
func pass(dst, src Conn) error {
	if err := copyBytes(dst, src); err != nil {
		return err
	}
	if err := dst.CloseWrite(); err != nil && !gone(err) {
		return err
	}
	return nil
}

func copyBytes(dst io.Writer, src io.Reader) error {
	small := make([]byte, smallBuffer)
	for {
		n, rerr := src.Read(small)
		if err := writeAll(dst, small[:n]); err != nil {
			return err
		}
		if rerr == nil && n == len(small) {
			rerr = copyBulk(dst, src)
		}
		if rerr != nil {
			if errors.Is(rerr, io.EOF) {
				return nil
			}
			return rerr
		}
	}
}

// copyBulk copies with a borrowed buffer for as long as reads fill a fair part of it. A nil error means that the flow
// has thinned out.
func copyBulk(dst io.Writer, src io.Reader) error {
	buf := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(buf)
	for {
		n, rerr := src.Read(buf[:])
		if err := writeAll(dst, buf[:n]); err != nil {
			return err
		}
		if rerr != nil {
			return rerr
		}
		if n < smallBuffer {
			return nil
		}
	}
}

func writeAll(dst io.Writer, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := dst.Write(p)
	return err
}

// gone reports whether err only says that the other side has closed already, with nothing lost in this direction.
func gone(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ENOTCONN)
}

// truth turns what a socket says about a dial into what the handler tells an application.
func truth(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.Join(ErrRefused, err)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return errors.Join(ErrUnreachable, err)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return errors.Join(ErrTimedOut, err)
	}
	return err
}
