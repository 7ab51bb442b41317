package anchor

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
)

const (
	bufferSize = 32 << 10
	linger     = 2 * time.Second // ours: for the last bytes to an origin whose agent has gone
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// relaying is one stream joined to its origin connection.
type relaying struct {
	st     *session.Stream
	origin net.Conn
	upDone atomic.Bool // the agent's end was passed on, or is about to be
}

// relay carries bytes both ways until both directions ended, or one was reset.
func (a *Anchor) relay(ctx context.Context, st *session.Stream, origin net.Conn) {
	r := &relaying{st: st, origin: origin}
	over := make(chan struct{})
	var watch, wg sync.WaitGroup
	watch.Go(func() { r.watch(ctx, over) })
	wg.Go(func() { r.up(&a.in) })
	wg.Go(func() { r.down(&a.out) })
	wg.Wait()
	close(over)
	watch.Wait()
	st.Close()
	origin.Close()
}

// watch resets the origin when the session ends, or when the stream is reset while both directions wait
// for the origin and would not see it. A stream that is over in both directions may still have its last
// bytes on their way to the origin, when the agent has gone already: they get a little time.
func (r *relaying) watch(ctx context.Context, over <-chan struct{}) {
	select {
	case <-over:
		return
	case <-ctx.Done():
	case <-r.st.Done():
	}
	if !r.delivered() {
		r.abort()
		return
	}
	select {
	case <-over:
		return
	case <-ctx.Done():
	}
	select {
	case <-over:
	case <-time.After(linger):
		r.abort()
	}
}

// delivered reports whether the stream ended, and not by a reset.
func (r *relaying) delivered() bool {
	select {
	case <-r.st.Done():
		_, err := r.st.Write(nil)
		return !errors.Is(err, syscall.ECONNRESET)
	default:
		return false
	}
}

// up carries the agent's bytes to the origin.
func (r *relaying) up(count *atomic.Uint64) {
	if err := transfer(r.origin, r.st, count); err != nil {
		r.abort()
		return
	}
	r.upDone.Store(true)
	w, ok := r.origin.(interface{ CloseWrite() error })
	if !ok || w.CloseWrite() != nil {
		r.abort()
	}
}

// down carries the origin's bytes to the agent. The kernel reports a reset once: when the writer of up
// was told, the reader here sees an end that is none. The state is asked before upDone, which
// explains the same state.
func (r *relaying) down(count *atomic.Uint64) {
	if err := transfer(r.st, r.origin, count); err != nil || (link.WasReset(r.origin) && !r.upDone.Load()) {
		r.abort()
		return
	}
	if err := r.st.CloseWrite(); err != nil {
		r.abort()
	}
}

// abort resets both sides.
func (r *relaying) abort() {
	r.st.Abort()
	reset(r.origin)
}

// transfer copies until the end of src, nil, or an error.
func transfer(dst io.Writer, src io.Reader, count *atomic.Uint64) error {
	b := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(b)
	for {
		n, err := src.Read(b[:])
		if n > 0 {
			if _, err := dst.Write(b[:n]); err != nil {
				return err
			}
			count.Add(uint64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// reset closes c with RST where it can.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0) // fails only if it is closed already
	}
	c.Close()
}
