package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// receive takes every TCP segment that belongs to no connection. True means handled; false lets gVisor answer
// with a reset, which ends what an application kept from before a crash.
func (s *Stack) receive(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	seg := header.TCP(pkt.TransportHeader().Slice())
	if len(seg) < header.TCPMinimumSize || seg.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return s.fwd.HandlePacket(id, pkt)
	}
	dst := destination{id.LocalAddress, id.LocalPort}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return true
	}
	if _, again := s.pending[id]; again {
		return true // retransmitted: the handler is still at it
	}
	if len(s.pending) >= s.cfg.MaxInFlight {
		s.counts.inFlightDrops.Add(1)
		return true
	}
	if s.perDst[dst] >= s.cfg.MaxPerDestination {
		s.counts.perDestinationDrops.Add(1)
		return true
	}
	if !s.fwd.HandlePacket(id, pkt) {
		return false // a bad checksum
	}
	s.pending[id] = pending{syn: pkt.Clone(), early: s.arrived[id]} // an ICMP error quotes the SYN
	delete(s.arrived, id)
	s.perDst[dst]++
	s.handlers.Add(1)
	s.counts.flows.Add(1)
	return true
}

// serve is a flow's goroutine, started by the forwarder.
func (s *Stack) serve(r *tcp.ForwarderRequest) {
	defer s.handlers.Done()
	f := newFlow(s, r)
	defer f.Drop() // a request that is never completed would hold its place for ever
	s.cfg.Handler(f)
}

func (s *Stack) earlyOf(id stack.TransportEndpointID) Early {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending[id].early
}

// complete ends the time in flight. Both tables are changed under one lock: a SYN that comes after sees a
// fresh flow, one that comes before is swallowed.
func (s *Stack) complete(r *tcp.ForwarderRequest, reset bool) {
	id := r.ID()
	dst := destination{id.LocalAddress, id.LocalPort}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Complete(reset)
	if p, ok := s.pending[id]; ok {
		p.syn.DecRef()
		delete(s.pending, id)
	}
	if s.perDst[dst]--; s.perDst[dst] <= 0 {
		delete(s.perDst, dst)
	}
}

// synOf is a clone of the SYN of a flow without a verdict, nil when there is none.
func (s *Stack) synOf(id stack.TransportEndpointID) *stack.PacketBuffer {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.pending[id]
	if !ok {
		return nil
	}
	return p.syn.Clone()
}

// rejectSYN answers a flow's SYN with "host unreachable" in its own IP version.
func (s *Stack) rejectSYN(id stack.TransportEndpointID) {
	syn := s.synOf(id)
	if syn == nil {
		return
	}
	defer syn.DecRef()
	const input = true // the SYN was on its way in
	if id.LocalAddress.Len() == header.IPv4AddressSize {
		s.ip.NetworkProtocolInstance(header.IPv4ProtocolNumber).(stack.RejectIPv4WithHandler).
			SendRejectionError(syn, stack.RejectIPv4WithICMPHostUnreachable, input)
		return
	}
	s.ip.NetworkProtocolInstance(header.IPv6ProtocolNumber).(stack.RejectIPv6WithHandler).
		SendRejectionError(syn, stack.RejectIPv6WithICMPAddrUnreachable, input)
}
