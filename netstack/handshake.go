package netstack

import (
	"runtime"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// handshake is gVisor's half of an application's handshake. It is made while the flow's handler is still at work, up
// to the SYN-ACK, which the tap holds back: when the verdict comes, one system call answers the application.
type handshake struct {
	wq   waiter.Queue
	held *heldSYNACK
	done chan struct{} // closed when what follows is set
	ep   tcpip.Endpoint
	err  tcpip.Error
}

// newHandshake begins; it ends after accept or abandon, or when the stack closes.
func (s *Stack) newHandshake(r *tcp.ForwarderRequest) *handshake {
	h := &handshake{held: s.link.hold(r.ID()), done: make(chan struct{})}
	s.handlers.Go(func() {
		defer close(h.done)
		runtime.Gosched() // the handler has something to send to the proxy, which should go first
		h.ep, h.err = r.CreateEndpoint(&h.wq)
	})
	return h
}

// accept lets the SYN-ACK go and waits for the application's answer to it, at most until the stack stops: an endpoint that
// comes about in that moment is in nobody's list, and gVisor no longer hears the application.
func (s *Stack) accept(h *handshake, id stack.TransportEndpointID) (tcpip.Endpoint, tcpip.Error) {
	select {
	case <-h.held.there:
	case <-h.done:
	case <-s.ctx.Done():
	}
	s.link.release(id)
	select {
	case <-h.done:
	case <-s.ctx.Done():
		s.end(h, id)
	}
	return h.ep, h.err
}

// abandon ends the endpoint before the application has heard of it.
func (s *Stack) abandon(h *handshake, id stack.TransportEndpointID) {
	defer s.link.release(id)
	h.held.drop()
	s.end(h, id)
	if h.ep != nil { // the verdict came after the application's answer: only when the stack let it through
		h.ep.Abort()
	}
}

// lookAgain is how often end looks for an endpoint that is being made: gVisor does not tell when it is registered, and
// while it closes may send no SYN-ACK that would show it.
const lookAgain = 2 * time.Millisecond

// end aborts gVisor's half and waits for its end.
func (s *Stack) end(h *handshake, id stack.TransportEndpointID) {
	ip := header.IPv4ProtocolNumber
	if id.LocalAddress.Len() != header.IPv4AddressSize {
		ip = header.IPv6ProtocolNumber
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		if ep := s.ip.FindTransportEndpoint(ip, tcp.ProtocolNumber, id, nicID); ep != nil {
			ep.Abort()
		}
		select {
		case <-h.done:
			return
		case <-tick.C:
		}
	}
}
