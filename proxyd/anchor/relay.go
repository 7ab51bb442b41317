package anchor

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
)

// Sizes and times of a relayed stream (ours).
const (
	bufferSize = 32 << 10
	smallSize  = 512                    // that a direction has while nothing flows
	bulkTurn   = 100 * time.Millisecond // for which it has a large one at most before it must show that bytes still flow
	idleTurn   = time.Second            // without a byte: the direction goes on in a new goroutine
	stuckAfter = 250 * time.Millisecond // a write to an origin that takes longer is watched
	linger     = 2 * time.Second        // for the last bytes to an origin whose agent has gone
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// relaying is one stream joined to its origin connection. Two goroutines, one for each direction, are all that it has
// while it is idle: whichever ends first watches for the other, and who writes to an origin that does not read gets a
// watch of its own. A stack that has grown is not given back, so a direction that was busy and falls idle goes on in a new
// goroutine.
type relaying struct {
	a      *Anchor
	at     *attached
	st     *session.Stream
	origin net.Conn
	end    func()

	upDone  atomic.Bool // the agent's end was passed on, or is about to be
	halves  atomic.Int32
	over    chan struct{} // closed when both directions have ended
	watched atomic.Bool
}

// relay carries bytes both ways until both directions ended, or one was reset; end is called then. It does not wait: each
// direction has a goroutine that is new, since one that has dialled keeps a stack of twice the size.
func (a *Anchor) relay(at *attached, st *session.Stream, origin net.Conn, end func()) {
	r := &relaying{a: a, at: at, st: st, origin: origin, end: end, over: make(chan struct{})}
	a.wg.Go(r.up)
	a.wg.Go(r.down)
}

// half is called when a direction has ended.
func (r *relaying) half() {
	if r.halves.Add(1) < 2 {
		r.watch()
		return
	}
	close(r.over)
	r.st.Close()
	r.origin.Close()
	r.end()
}

// watch resets the origin when the session ends, or when the stream is reset while both directions wait
// for the origin and would not see it. A stream that is over in both directions may still have its last
// bytes on their way to the origin, when the agent has gone already: they get a little time.
func (r *relaying) watch() {
	if !r.watched.CompareAndSwap(false, true) {
		return
	}
	select {
	case <-r.over:
		return
	case <-r.st.Done(): // also at the end of the session
	}
	if !r.delivered() {
		r.abort()
		return
	}
	select {
	case <-r.over:
		return
	case <-r.at.sess.Done():
	}
	late := time.NewTimer(linger)
	defer late.Stop()
	select {
	case <-r.over:
	case <-late.C:
		r.abort()
	}
}

// delivered reports whether the stream ended, and not by a reset.
func (r *relaying) delivered() bool {
	_, err := r.st.Write(nil)
	return !errors.Is(err, syscall.ECONNRESET)
}

// up carries the agent's bytes to the origin.
func (r *relaying) up() {
	err := r.carry(r.toOrigin, r.st)
	if err == errIdle {
		r.a.wg.Go(r.up)
		return
	}
	defer r.half()
	if err != nil {
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
func (r *relaying) down() {
	ok, err := r.carryReady()
	if !ok {
		err = r.carry(r.toAgent, r.origin)
	}
	if err == errIdle {
		r.a.wg.Go(r.down)
		return
	}
	defer r.half()
	if err != nil || (link.WasReset(r.origin) && !r.upDone.Load()) {
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

func (r *relaying) toAgent(p []byte) error {
	n, err := r.st.Write(p)
	r.a.out.Add(uint64(n))
	return err
}

// toOrigin writes to the origin. Where that stands still nobody would see a reset by the agent, so it is watched.
func (r *relaying) toOrigin(p []byte) error {
	if !r.watched.Load() {
		if err := r.origin.SetWriteDeadline(time.Now().Add(stuckAfter)); err != nil {
			return err
		}
		n, err := r.origin.Write(p)
		r.a.in.Add(uint64(n))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		p = p[n:]
		r.a.wg.Go(r.watch)
	}
	if err := r.origin.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	n, err := r.origin.Write(p)
	r.a.in.Add(uint64(n))
	return err
}

// borrow takes a large buffer, which counts as read ahead.
func (r *relaying) borrow() *[bufferSize]byte {
	r.at.share.Must(bufferSize)
	return buffers.Get().(*[bufferSize]byte)
}

func (r *relaying) giveBack(b *[bufferSize]byte) {
	buffers.Put(b)
	r.at.share.Give(bufferSize)
}

// source is a stream, or a connection to an origin.
type source interface {
	io.Reader
	SetReadDeadline(t time.Time) error
}

// errIdle is that a direction was busy and has fallen idle.
var errIdle = errors.New("idle")

// activity tells by a source's read deadline when that falls idle. It costs one timer a turn, and none in an idle one.
type activity struct {
	src   source
	armed bool
	moved bool // bytes, in this turn
}

func (v *activity) arm() error {
	v.armed, v.moved = true, false
	return v.src.SetReadDeadline(time.Now().Add(idleTurn))
}

// read takes in what a Read returned; errIdle: nothing has moved for a turn.
func (v *activity) read(n int, err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && v.moved:
		return v.arm()
	case errors.Is(err, os.ErrDeadlineExceeded):
		if err := v.src.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		return errIdle
	case err == nil && !v.armed:
		return v.arm()
	}
	v.moved = v.moved || n > 0
	return err
}

// carry copies until the end of src, nil, or an error. It waits with a small buffer.
func (r *relaying) carry(to func([]byte) error, src source) error {
	small := make([]byte, smallSize)
	v := &activity{src: src}
	for {
		n, err := src.Read(small)
		if n > 0 {
			if err := to(small[:n]); err != nil {
				return err
			}
		}
		if err == nil && n == len(small) { // there is more
			v.armed = false
			err = r.bulk(to, src)
		}
		err = v.read(n, err)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// bulk carries with a large buffer while much flows, for a turn at most: with less it could wait in Read, and hold the
// buffer as long.
func (r *relaying) bulk(to func([]byte) error, src source) error {
	b := r.borrow()
	defer r.giveBack(b)
	if err := src.SetReadDeadline(time.Now().Add(bulkTurn)); err != nil {
		return err
	}
	for {
		n, err := src.Read(b[:])
		if n > 0 {
			if err := to(b[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return src.SetReadDeadline(time.Time{})
		}
		if err != nil {
			return err
		}
		if n < smallSize {
			return src.SetReadDeadline(time.Time{})
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
