package netstack

import (
	"runtime"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Early is what was begun for a flow as soon as its SYN came.
type Early interface {
	// Abort gives it up: there will be no flow.
	Abort()
}

// sight is called with each TCP packet before gVisor sees it. For the SYN of a new flow it asks Arrive, and lets what that
// wakes run first: gVisor's own work for a new connection takes longer than all the rest of the way to the proxy, and
// nobody waits for it.
func (s *Stack) sight(pkt *stack.PacketBuffer) (id stack.TransportEndpointID, begun bool) {
	id, ok := synID(pkt)
	if !ok || !s.fresh(id) {
		return id, false
	}
	early := s.cfg.Arrive(addrPort(id.LocalAddress, id.LocalPort))
	if early == nil {
		return id, false
	}
	s.mu.Lock()
	s.arrived[id] = early
	s.mu.Unlock()
	runtime.Gosched()
	return id, true
}

// fresh reports whether a SYN would make a new flow.
func (s *Stack) fresh(id stack.TransportEndpointID) bool {
	dst := destination{id.LocalAddress, id.LocalPort}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, again := s.pending[id]
	_, twice := s.arrived[id]
	return !s.closing && !again && !twice && len(s.pending) < s.cfg.MaxInFlight && s.perDst[dst] < s.cfg.MaxPerDestination
}

// unclaimed gives up what was begun for a SYN that made no flow after all, such as one with a bad checksum.
func (s *Stack) unclaimed(id stack.TransportEndpointID) {
	s.mu.Lock()
	early := s.arrived[id]
	delete(s.arrived, id)
	s.mu.Unlock()
	if early != nil {
		early.Abort()
	}
}

// synID reads addresses and ports of a SYN; false for every other packet. IPv6 extension headers count as foreign, as
// in isTCP.
func synID(pkt *stack.PacketBuffer) (id stack.TransportEndpointID, ok bool) {
	b, ok := pkt.Data().PullUp(1)
	if !ok {
		return id, false
	}
	head := header.IPv6MinimumSize
	if b[0]>>4 == header.IPv4Version {
		head = int(b[0]&15) * 4
	}
	if b, ok = pkt.Data().PullUp(head + header.TCPMinimumSize); !ok || head < header.IPv4MinimumSize {
		return id, false
	}
	seg := header.TCP(b[head:])
	if seg.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return id, false
	}
	id.LocalPort, id.RemotePort = seg.DestinationPort(), seg.SourcePort()
	if head == header.IPv6MinimumSize && b[0]>>4 == header.IPv6Version {
		ip := header.IPv6(b)
		id.LocalAddress, id.RemoteAddress = ip.DestinationAddress(), ip.SourceAddress()
		return id, true
	}
	ip := header.IPv4(b)
	if ip.More() || ip.FragmentOffset() != 0 {
		return id, false
	}
	id.LocalAddress, id.RemoteAddress = ip.DestinationAddress(), ip.SourceAddress()
	return id, true
}
