package netstack

import (
	"errors"
	"io"
	"sync"

	"gvisor.dev/gvisor/pkg/waiter"
)

// copyBuffer is large because each hand-over to a socket costs a system call: with 16 KiB half the throughput.
const copyBuffer = 256 << 10

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// WriteTo implements io.WriterTo, so io.Copy from a Conn uses it. An idle connection holds no buffer.
func (c *conn) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if err := c.awaitReadable(); err != nil {
			return total, err
		}
		n, err := c.passOn(w)
		total += n
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// passOn reads once and writes that.
func (c *conn) passOn(w io.Writer) (int64, error) {
	bp := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(bp)
	n, err := c.Read(*bp)
	if err != nil {
		return 0, err
	}
	k, err := w.Write((*bp)[:n])
	if err == nil && k < n {
		err = io.ErrShortWrite
	}
	return int64(k), err
}

// awaitReadable returns when a Read would not block.
func (c *conn) awaitReadable() error {
	c.rd.mu.Lock()
	defer c.rd.mu.Unlock()
	const ready = waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr
	for c.ep.Readiness(ready) == 0 {
		if err := c.rd.usable(c.done); err != nil {
			return c.opError("read", err)
		}
		c.rd.wait(c.done)
	}
	return nil
}
