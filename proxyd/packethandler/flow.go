package packethandler

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// A flow is one client connection and the origin connection that answers it.
type flow struct {
	h       *Handler
	service Service
	client  net.Conn
	ctx     context.Context // done when the flow is aborted
	cancel  context.CancelFunc

	mu     sync.Mutex // guards what follows
	origin net.Conn   // nil until dialled
	dead   bool       // aborted: whatever comes is reset
}

func newFlow(ctx context.Context, h *Handler, s Service, client net.Conn) *flow {
	f := &flow{h: h, service: s, client: client}
	f.ctx, f.cancel = context.WithCancel(ctx)
	return f
}

// run carries the flow to its end. A client whose origin can't be reached is reset: its handshake was
// over before we could know.
func (f *flow) run() {
	defer f.cancel()
	origin, err := f.dial()
	if err != nil {
		f.h.refused.Add(1)
		f.h.log.Debug("origin", "service", f.service.Name, "err", err)
		f.abort()
		return
	}
	var up, down half // up: the client's bytes to the origin
	var wg sync.WaitGroup
	wg.Go(func() { f.pipe(origin, f.client, &up, &down, &f.h.in) })
	wg.Go(func() { f.pipe(f.client, origin, &down, &up, &f.h.out) })
	wg.Wait()
	f.client.Close()
	origin.Close()
}

func (f *flow) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(f.ctx, f.h.cfg.DialTimeout)
	defer cancel()
	c, err := f.h.cfg.Dial(ctx, "tcp", f.service.Origin)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.origin = c
	dead := f.dead
	if l, ok := c.(interface{ SetLinger(int) error }); ok && !dead {
		_ = l.SetLinger(-1) // from now on an end is clean unless abort says otherwise
	}
	f.mu.Unlock()
	if dead {
		reset(c)
		return nil, net.ErrClosed
	}
	if f.service.ProxyProtocol {
		h := appendProxyHeader(nil, addrPort(f.client.RemoteAddr()), addrPort(f.client.LocalAddr()))
		if _, err := c.Write(h); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// A half is one direction; closed is set before its end is passed on.
type half struct{ closed atomic.Bool }

// pipe carries one direction. An end of src that is not clean resets both sides: a cut-off answer
// must never look like a whole one.
func (f *flow) pipe(dst, src net.Conn, this, other *half, count *atomic.Uint64) {
	n, err := io.Copy(dst, src)
	count.Add(uint64(n))
	// The kernel reports a reset once, and the writer to src may have been told: then the reader
	// sees an end of file. The state is asked before `closed`, which explains the same state.
	if err != nil || (isReset(src) && !other.closed.Load()) {
		f.abort()
		return
	}
	this.closed.Store(true)
	if err := closeWrite(dst); err != nil {
		f.abort()
	}
}

// abort resets both sides. It may be called at any time, more than once.
func (f *flow) abort() {
	f.cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	reset(f.client)
	if f.origin != nil {
		reset(f.origin)
	}
}

func closeWrite(c net.Conn) error {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// reset closes c with RST where it can.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0) // fails only if it is closed already
	}
	c.Close()
}
