package link

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"migrationsensor/proto"
)

// Times of a data link that is passed on.
const (
	reachTimeout  = time.Second            // the protocol's: to the anchor
	partingTime   = 2 * time.Second        // ours: for the agent's end, after the anchor's: its path may be gone
	answerTimeout = 4 * time.Second        // ours: for its first byte; shorter than the agent waits for one
	retryLeast    = 300 * time.Millisecond // ours: what RETRY tells
	retrySpread   = 400 * time.Millisecond
)

// errNoAnswer is an anchor that closed the connection, or was silent, before it said anything.
var errNoAnswer = errors.New("the anchor does not answer")

// relay passes a data link on to its anchor. Until the anchor's first byte has come a sealed reply is possible: then
// an anchor that is away, or stopped, or refuses the header costs the agent a RETRY and no timeout.
func (a *Acceptor) relay(ctx context.Context, c net.Conn, g greeting, from netip.AddrPort) {
	c.SetDeadline(time.Time{})
	rctx, done := context.WithTimeout(ctx, reachTimeout)
	far, err := a.Relay(rctx, g.Verified, from)
	done()
	if err != nil {
		c.SetDeadline(time.Now().Add(drainTime))
		a.unreached(c, g, from, err)
		return
	}
	tuneRelay(c)
	tuneRelay(far)
	p := &passage{agent: c, anchor: far, copying: a.scarce(far)}
	stop := context.AfterFunc(ctx, p.abort)
	defer stop()
	e := &entry{end: p.abort, Live: Live{
		Agent: g.Agent, Addr: from, Local: addrPort(c.LocalAddr()), Kind: g.Kind, Since: a.Clock(), Anchor: g.Target,
	}}
	a.live.add(e) // from now on: whoever ends this agent's links ends this one too
	defer a.live.remove(e)
	if err := p.begin(); err != nil {
		a.live.remove(e)
		g.drained = true
		a.unreached(c, g, from, err)
		return
	}
	a.stats.relayed.Add(1)
	p.run()
}

// unreached answers RETRY, or that the anchor is gone.
func (a *Acceptor) unreached(c net.Conn, g greeting, from netip.AddrPort, err error) {
	a.stats.unreached.Add(1)
	a.stats.sealed.Add(1)
	a.Log.Debug("data link not passed on", "agent", g.Agent, "anchor", g.Target, "err", err)
	r := proto.Reply{Kind: proto.ReplyRetry, After: retryLeast + rand.N(retrySpread)}
	if a.gone(g.Target) {
		r = proto.Reply{Kind: proto.ReplyReject, Code: proto.RejectAnchor}
	}
	sealed(c, g, r, from)
}

// A passage is a data link that another node ends: two connections, and every byte from one to the other as it came.
// It knows neither TLS nor frames. A half-close stays a half-close; a reset becomes one on the other side.
type passage struct {
	agent, anchor net.Conn
	copying       bool        // not by splice: its pipes would be four more descriptors
	begun         atomic.Bool // the anchor has answered
	up, down      way         // up: the agent's bytes to the anchor
	wg            sync.WaitGroup
}

// abort resets both sides. It may be called at any time, more than once.
func (p *passage) abort() {
	abort(p.agent)
	abort(p.anchor)
}

// fail is a direction that ended badly. Until the anchor has answered that is the anchor's end only: the agent can
// still be told.
func (p *passage) fail() {
	if p.begun.Load() {
		p.abort()
		return
	}
	abort(p.anchor)
}

// begin passes the agent's first flight on and waits for the answer to it. After errNoAnswer the agent's connection is
// still open, and nobody reads it.
func (p *passage) begin() error {
	p.wg.Go(func() { p.carry(p.anchor, p.agent, &p.up, &p.down) })
	if p.answered() {
		return nil
	}
	abort(p.anchor)
	p.agent.SetReadDeadline(time.Unix(1, 0)) // frees the way up
	p.wg.Wait()
	p.agent.SetReadDeadline(time.Time{})
	return errNoAnswer
}

// run passes bytes until both directions have ended.
func (p *passage) run() {
	p.carry(p.agent, p.anchor, &p.down, &p.up)
	p.agent.SetReadDeadline(time.Now().Add(partingTime)) // an anchor that has ended a link takes nothing more on it
	p.wg.Wait()
	p.anchor.Close()
}

// answered waits for the anchor's first bytes and passes them on.
func (p *passage) answered() bool {
	var b [2048]byte // about TLS's first answer
	p.anchor.SetReadDeadline(time.Now().Add(answerTimeout))
	n, err := p.anchor.Read(b[:])
	if n == 0 || p.anchor.SetReadDeadline(time.Time{}) != nil {
		return false
	}
	p.begun.Store(true)
	if _, werr := p.agent.Write(b[:n]); werr != nil || err != nil && !errors.Is(err, io.EOF) {
		p.abort()
	}
	return true
}

// A way is one direction; closed is set before its end is passed on.
type way struct{ closed atomic.Bool }

// carry passes one direction on. An end of src that is not clean resets both sides.
func (p *passage) carry(dst, src net.Conn, this, other *way) {
	// The kernel reports a reset once, and the writer to src may have been told: then the reader sees an end of
	// file. The state is asked before closed, which explains the same state.
	if err := p.copy(dst, src); err != nil || WasReset(src) && !other.closed.Load() {
		p.fail()
		return
	}
	this.closed.Store(true)
	w, ok := dst.(interface{ CloseWrite() error })
	if !ok || w.CloseWrite() != nil {
		p.fail()
	}
}

// buffers are for connections that can't be spliced; each as long as a TLS record and a little more.
var buffers = sync.Pool{New: func() any { return new([17 << 10]byte) }}

// copy is splice(2) on Linux: io.Copy from one *net.TCPConn to another, and the bytes never come to us.
func (p *passage) copy(dst, src net.Conn) error {
	if p.spliced() {
		_, err := io.Copy(dst, src)
		return err
	}
	b := buffers.Get().(*[17 << 10]byte)
	defer buffers.Put(b)
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, b[:])
	return err
}

func (p *passage) spliced() bool {
	_, near := p.agent.(*net.TCPConn)
	_, far := p.anchor.(*net.TCPConn)
	return near && far && !p.copying
}
