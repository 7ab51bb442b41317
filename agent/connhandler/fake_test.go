package connhandler

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

// half is one direction of a fake connection.
type half struct {
	mu     sync.Mutex
	cond   *sync.Cond
	buf    bytes.Buffer
	eof    bool
	err    error // of both ends, after a reset
	reader bool  // closed
}

func newHalf() *half {
	h := new(half)
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.err != nil:
			return 0, h.err
		case h.reader:
			return 0, net.ErrClosed
		case h.buf.Len() > 0:
			return h.buf.Read(p)
		case h.eof:
			return 0, io.EOF
		}
		h.cond.Wait()
	}
}

func (h *half) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.err != nil:
		return 0, h.err
	case h.eof:
		return 0, net.ErrClosed
	}
	defer h.cond.Broadcast()
	return h.buf.Write(p)
}

func (h *half) isReset() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Is(h.err, syscall.ECONNRESET)
}

func (h *half) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.cond.Broadcast()
}

// fakeConn is one end of an in-memory connection with half-close and reset.
type fakeConn struct {
	net.Conn // the methods that nothing calls
	in, out  *half
	mu       sync.Mutex
	aborted  bool
	closed   bool
}

func pair() (a, b *fakeConn) {
	x, y := newHalf(), newHalf()
	return &fakeConn{in: x, out: y}, &fakeConn{in: y, out: x}
}

func (c *fakeConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *fakeConn) Write(p []byte) (int, error) { return c.out.write(p) }
func (c *fakeConn) CloseWrite() error {
	c.out.set(func() { c.out.eof = true })
	return nil
}

func (c *fakeConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.out.set(func() { c.out.eof = true })
	c.in.set(func() { c.in.reader = true })
	return nil
}

func (c *fakeConn) Abort() {
	c.mu.Lock()
	c.aborted = !c.closed
	c.mu.Unlock()
	for _, h := range []*half{c.in, c.out} {
		h.set(func() { h.err = syscall.ECONNRESET })
	}
}

func (c *fakeConn) wasAborted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.aborted
}

// fakeFlow records the answer that the application gets.
type fakeFlow struct {
	ctx    context.Context
	app    *fakeConn // the application's end
	inside *fakeConn
	err    error // of Accept
	early  Early

	mu     sync.Mutex
	answer string
}

func newFlow(t *testing.T) *fakeFlow {
	f := &fakeFlow{ctx: t.Context()}
	f.app, f.inside = pair()
	return f
}

var (
	src = netip.MustParseAddrPort("198.18.0.2:50000")
	dst = netip.MustParseAddrPort("198.18.1.1:443")
)

func (f *fakeFlow) Src() netip.AddrPort      { return src }
func (f *fakeFlow) Dst() netip.AddrPort      { return dst }
func (f *fakeFlow) Context() context.Context { return f.ctx }
func (f *fakeFlow) set(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer += s
}

func (f *fakeFlow) got() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.answer
}

func (f *fakeFlow) Early() Early { return f.early }
func (f *fakeFlow) Refuse()      { f.set("refused") }
func (f *fakeFlow) Unreachable() { f.set("unreachable") }
func (f *fakeFlow) Drop()        { f.set("silence") }
func (f *fakeFlow) Accept() (Conn, error) {
	f.set("accepted")
	return f.inside, f.err
}

// fakeSession answers each OPEN after a delay, with err or a stream whose far end it keeps.
type fakeSession struct {
	delay  time.Duration
	err    error
	silent bool  // its link says nothing, ever
	full   error // of Begin
	rtt    time.Duration

	pending []*fakeOpening // that a silent link has swallowed

	mu      sync.Mutex
	heard   time.Time
	far     []*fakeConn
	opens   int
	given   int // OPENs given up
	pings   int
	retired bool
}

func (s *fakeSession) Begin(string) (Opening, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opens++
	if s.full != nil {
		return nil, s.full
	}
	o := &fakeOpening{s: s, done: make(chan struct{}), gone: make(chan struct{})}
	if s.silent {
		s.pending = append(s.pending, o)
	} else {
		go o.answer()
	}
	return o, nil
}

// revive is a fresh link: the session asks again for what was not answered.
func (s *fakeSession) revive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = false
	for _, o := range s.pending {
		go o.answer()
	}
	s.pending = nil
}

// fakeOpening is an OPEN on its way.
type fakeOpening struct {
	s          *fakeSession
	done, gone chan struct{}
	once       sync.Once
	conn       *fakeConn
	err        error
	aborted    bool
}

func (o *fakeOpening) answer() {
	select {
	case <-time.After(o.s.delay):
	case <-o.gone:
		return
	}
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.s.heard = time.Now()
	if o.aborted { // at the same moment
		return
	}
	if o.err = o.s.err; o.err == nil {
		var far *fakeConn
		o.conn, far = pair()
		o.s.far = append(o.s.far, far)
	}
	close(o.done)
}

func (o *fakeOpening) Done() <-chan struct{} { return o.done }
func (o *fakeOpening) Result() (Conn, error) {
	if o.err != nil {
		return nil, o.err
	}
	return o.conn, nil
}

func (o *fakeOpening) Abort() {
	o.once.Do(func() { close(o.gone) })
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.s.given++
	o.aborted = true
	if o.conn != nil {
		o.conn.Abort()
	}
}

func (s *fakeSession) Ping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pings++
	if !s.silent {
		s.heard = time.Now().Add(s.rtt)
	}
}

func (s *fakeSession) Heard() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard
}
func (s *fakeSession) SRTT() time.Duration { return s.rtt }
func (s *fakeSession) Retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
}

func (s *fakeSession) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opens
}

// fakeWays hands out sessions in order.
type fakeWays struct {
	mu     sync.Mutex
	warm   Session
	fresh  []Session // nil: ErrNobody
	each   []Session
	probes int
	probe  time.Duration // how long one takes in mode Each, and a fresh one beside a silent link
	gone   error         // of a probe beside a silent link
}

func (w *fakeWays) Warm(string) Session {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.warm
}

func (w *fakeWays) take(from *[]Session) (Session, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probes++
	if len(*from) == 0 || (*from)[0] == nil {
		*from = (*from)[min(1, len(*from)):]
		return nil, ErrNobody
	}
	s := (*from)[0]
	*from = (*from)[1:]
	return s, nil
}

// Fresh makes a silent session's link afresh, or gives the next session.
func (w *fakeWays) Fresh(ctx context.Context, _ string, old Session) (Session, error) {
	if s, ok := old.(*fakeSession); ok && s.silent {
		w.mu.Lock()
		w.probes++
		w.mu.Unlock()
		select {
		case <-time.After(w.probe):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if w.gone != nil {
			return nil, w.gone
		}
		s.revive()
		return s, nil
	}
	s, err := w.take(&w.fresh)
	if err == nil {
		w.mu.Lock()
		w.warm = s
		w.mu.Unlock()
	}
	return s, err
}

// Each sends a connection on to the next of w.each; with none left, the warm session will do.
func (w *fakeWays) Each(_ context.Context, _ netip.AddrPort, _ string, warm Session) (Session, error) {
	if w.probe > 0 {
		time.Sleep(w.probe)
	}
	if len(w.each) == 0 && warm != nil {
		w.mu.Lock()
		w.probes++
		w.mu.Unlock()
		return warm, nil
	}
	return w.take(&w.each)
}

var errEnded = errors.New("session ended")
