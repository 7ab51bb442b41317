package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"migrationsensor/agent/connhandler"
)

// wires are the network between an agent and its edges: it can be cut for one way, both, or with an error.
type wires struct {
	mu       sync.Mutex
	up, down map[netip.AddrPort]bool // ways that are cut in silence: towards the edge, from it
	errs     []error                 // of the next dials, in turn
	dials    map[netip.AddrPort]int
	received bytes.Buffer           // every byte that came to the agent
	limits   map[netip.AddrPort]int // bytes that a link from there still brings; then its edge is dead
}

func newWires() *wires {
	return &wires{up: make(map[netip.AddrPort]bool), down: make(map[netip.AddrPort]bool), dials: make(map[netip.AddrPort]int)}
}

func (w *wires) system() System { return System{Dial: w.dial, Knock: w.knock} }

// knock is lost: the edges of these tests have no door.
func (w *wires) knock(context.Context, netip.AddrPort, []byte) error { return nil }

func (w *wires) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	at := netip.MustParseAddrPort(addr)
	w.mu.Lock()
	w.dials[at]++
	silent := w.up[at] || w.down[at]
	var err error
	if left, limited := w.limits[at]; limited && left <= 0 {
		err = syscall.ECONNREFUSED
	}
	if len(w.errs) > 0 {
		err, w.errs = w.errs[0], w.errs[1:]
	}
	w.mu.Unlock()
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &wire{TCPConn: c.(*net.TCPConn), w: w, at: at}, nil
}

// dieAfter lets an edge die when so many bytes have come from it.
func (w *wires) dieAfter(e *testEdge, bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limits = map[netip.AddrPort]int{e.addr: bytes}
}

// dead reports whether an edge has died.
func (w *wires) dead(e *testEdge) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	left, limited := w.limits[e.addr]
	return limited && left <= 0
}

// cut makes the ways to an edge silent, or lets them speak again. What was lost meanwhile stays lost.
func (w *wires) cut(e *testEdge, up, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.up[e.addr], w.down[e.addr] = up, down
}

func (w *wires) fail(errs ...error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = errs
}

func (w *wires) dialled(e *testEdge) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials[e.addr]
}

// wire is one connection of them.
type wire struct {
	*net.TCPConn
	w  *wires
	at netip.AddrPort
}

func (c *wire) Write(p []byte) (int, error) {
	c.w.mu.Lock()
	lost := c.w.up[c.at]
	c.w.mu.Unlock()
	if lost {
		return len(p), nil
	}
	return c.TCPConn.Write(p)
}

func (c *wire) Read(p []byte) (int, error) {
	for {
		n, err := c.TCPConn.Read(p)
		c.w.mu.Lock()
		lost := c.w.down[c.at]
		if !lost {
			c.w.received.Write(p[:n])
		}
		if left, limited := c.w.limits[c.at]; limited {
			if c.w.limits[c.at] = left - n; left <= 0 {
				n, err = 0, syscall.ECONNRESET
			}
		}
		c.w.mu.Unlock()
		if err != nil || !lost {
			return n, err
		}
	}
}

// transfer sends random bytes through an echo, reads them back at the same time, and compares what was read by its hash.
type transfer struct {
	t    *testing.T
	c    connhandler.Conn
	stop chan struct{}
	done chan struct{}
	sent hash.Hash
	got  hash.Hash

	mu   sync.Mutex
	n    int64         // read
	last time.Time     // when
	gap  time.Duration // longest between two reads
	errs []error
}

func (r *running) transfer() *transfer {
	x := &transfer{
		t: r.t, c: r.mustDial().(connhandler.Conn), stop: make(chan struct{}), done: make(chan struct{}),
		sent: sha256.New(), got: sha256.New(), last: time.Now(),
	}
	x.c.SetDeadline(time.Now().Add(2 * testWait))
	var wg sync.WaitGroup
	wg.Go(x.write)
	wg.Go(x.read)
	go func() { wg.Wait(); close(x.done) }()
	r.t.Cleanup(func() { x.c.Abort(); <-x.done })
	return x
}

func (x *transfer) write() {
	seed := rand.NewChaCha8([32]byte{1})
	b := make([]byte, 8<<10)
	for {
		select {
		case <-x.stop:
			x.failed(x.c.CloseWrite())
			return
		default:
		}
		seed.Read(b)
		if _, err := x.c.Write(b); err != nil {
			x.failed(err)
			return
		}
		x.sent.Write(b)
		time.Sleep(time.Millisecond) // a rate that leaves the machine to others
	}
}

func (x *transfer) read() {
	b := make([]byte, 64<<10)
	for {
		n, err := x.c.Read(b)
		x.got.Write(b[:n])
		x.mu.Lock()
		x.n += int64(n)
		x.gap = max(x.gap, time.Since(x.last))
		x.last = time.Now()
		x.mu.Unlock()
		if err == io.EOF {
			return
		}
		if err != nil {
			x.failed(err)
			return
		}
	}
}

func (x *transfer) failed(err error) {
	if err != nil {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.errs = append(x.errs, err)
	}
}

// flows waits until more bytes have come back.
func (x *transfer) flows(r *running, why string) {
	x.t.Helper()
	x.mu.Lock()
	from := x.n
	x.mu.Unlock()
	r.eventually(why, func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.n >= from+64<<10 || len(x.errs) > 0
	})
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.errs) > 0 {
		x.t.Fatalf("%s: %v\n%+v", why, x.errs, r.Status())
	}
}

// stall is the longest time without a byte since the last call.
func (x *transfer) stall() time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	gap := x.gap
	x.gap = 0
	return gap
}

// end ends it cleanly and compares: not a byte is lost, changed or twice.
func (x *transfer) end() {
	x.t.Helper()
	close(x.stop)
	select {
	case <-x.done:
	case <-time.After(testWait):
		x.t.Fatal("the transfer does not end")
	}
	if len(x.errs) > 0 || !slices.Equal(x.sent.Sum(nil), x.got.Sum(nil)) {
		x.t.Errorf("after %d bytes: %v, equal %v", x.n, x.errs, slices.Equal(x.sent.Sum(nil), x.got.Sum(nil)))
	}
}

// sessionVia reports whether the agent's one session for new streams runs by way of the edge.
func (r *running) sessionVia(e *testEdge) func() bool {
	return func() bool {
		t := r.lead()
		if t == nil {
			return false
		}
		at, ok := t.edge()
		return ok && at.Node == e.id && t.state() == "live"
	}
}

// on starts an agent of the fleet on wires.
func (f *testFleet) on(w *wires, edit func(*Agent)) *running {
	f.t.Helper()
	cfg := testConfig(f.t)
	cfg.Token = f.token().String()
	return startEdited(f.t, cfg, w.system(), edit)
}
