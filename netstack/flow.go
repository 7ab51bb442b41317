package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// ErrDecided is Accept's answer to a flow that already has a verdict.
var ErrDecided = errors.New("flow already has a verdict")

// Flow is an application's connect() that waits for a verdict. The first verdict counts, later ones do nothing.
type Flow struct {
	s        *Stack
	req      *tcp.ForwarderRequest
	hs       *handshake
	early    Early
	src, dst netip.AddrPort
	decided  atomic.Bool
}

func newFlow(s *Stack, r *tcp.ForwarderRequest) *Flow {
	id := r.ID()
	return &Flow{
		s: s, req: r, hs: s.newHandshake(r), early: s.earlyOf(id),
		src: addrPort(id.RemoteAddress, id.RemotePort),
		dst: addrPort(id.LocalAddress, id.LocalPort),
	}
}

// Src is the application's socket.
func (f *Flow) Src() netip.AddrPort { return f.src }

// Dst is what the application wants to reach.
func (f *Flow) Dst() netip.AddrPort { return f.dst }

// Early is what Arrive said to the flow's SYN.
func (f *Flow) Early() Early { return f.early }

// Context ends when the stack stops. It does not end when the application gives up: that shows only in Accept.
func (f *Flow) Context() context.Context { return f.s.ctx }

// Accept answers the application's handshake. An error means that the application is gone or the stack stops.
func (f *Flow) Accept() (Conn, error) {
	if f.decided.Swap(true) {
		return nil, fmt.Errorf("accept %v: %w", f.dst, ErrDecided)
	}
	ep, terr := f.s.accept(f.hs, f.req.ID())
	f.s.complete(f.req, terr != nil)
	if terr != nil {
		f.s.counts.gaveUp.Add(1)
		return nil, fmt.Errorf("accept %v for %v: %w", f.dst, f.src, errnoOf(terr))
	}
	c := newConn(ep, &f.hs.wq, f.s)
	if !f.s.adopt(c) {
		c.kill()
		return nil, fmt.Errorf("accept %v: %w", f.dst, net.ErrClosed)
	}
	f.s.counts.accepted.Add(1)
	return c, nil
}

// Refuse makes connect() fail with ECONNREFUSED.
func (f *Flow) Refuse() {
	if f.decided.Swap(true) {
		return
	}
	f.s.counts.refused.Add(1)
	f.s.abandon(f.hs, f.req.ID())
	f.s.complete(f.req, true)
}

// Unreachable makes connect() fail with EHOSTUNREACH.
func (f *Flow) Unreachable() {
	if f.decided.Swap(true) {
		return
	}
	f.s.counts.unreachable.Add(1)
	f.s.abandon(f.hs, f.req.ID())
	f.s.rejectSYN(f.req.ID())
	f.s.complete(f.req, false)
}

// Drop leaves connect() to its own timeout. The application's next SYN, a second or more later, is a new flow.
func (f *Flow) Drop() {
	if f.decided.Swap(true) {
		return
	}
	f.s.counts.dropped.Add(1)
	f.s.abandon(f.hs, f.req.ID())
	f.s.complete(f.req, false)
}

func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(ip, port)
}
