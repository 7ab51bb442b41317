package netstack

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/nested"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// tap sits between a device and the stack: it counts, and lets nothing but TCP in. Without it gVisor would
// answer UDP with "protocol unreachable" in the name of hosts that it knows nothing about.
type tap struct {
	nested.Endpoint
	upper                    stack.NetworkDispatcher
	arrive                   *Stack // set once; nil: nobody wants to know of SYNs
	in, out, ignored, failed atomic.Uint64

	waiting atomic.Int32 // len(held), so that a packet costs no lock while nothing waits
	mu      sync.Mutex
	held    map[stack.TransportEndpointID]*heldSYNACK
}

// heldSYNACK is the answer to an application's SYN before the verdict.
type heldSYNACK struct {
	tap   *tap
	there chan struct{} // closed when the first one came

	// guarded by tap.mu
	pkt     *stack.PacketBuffer
	came    bool
	dropped bool
}

func newTap(child stack.LinkEndpoint) *tap {
	t := &tap{held: make(map[stack.TransportEndpointID]*heldSYNACK)}
	t.Init(child, t)
	return t
}

// Attach implements stack.LinkEndpoint. Packets begin to flow only at open: the stack is not set up yet, and a
// SYN that it dropped would cost an application a second.
func (t *tap) Attach(d stack.NetworkDispatcher) {
	if t.upper = d; d == nil {
		t.Endpoint.Attach(nil)
	}
}

func (t *tap) open() { t.Endpoint.Attach(t.upper) }

// DeliverNetworkPacket implements stack.NetworkDispatcher for the device below.
func (t *tap) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	t.in.Add(1)
	if !isTCP(pkt) {
		t.ignored.Add(1)
		return
	}
	if t.arrive != nil {
		if id, begun := t.arrive.sight(pkt); begun {
			defer t.arrive.unclaimed(id)
		}
	}
	t.Endpoint.DeliverNetworkPacket(proto, pkt)
}

// isTCP looks at the IP header alone. IPv6 extension headers count as foreign: a local TCP socket sends none.
func isTCP(pkt *stack.PacketBuffer) bool {
	b, ok := pkt.Data().PullUp(header.IPv4MinimumSize)
	if !ok {
		return false
	}
	if b[0]>>4 == header.IPv6Version {
		return tcpip.TransportProtocolNumber(b[header.IPv6NextHeaderOffset]) == header.TCPProtocolNumber
	}
	return header.IPv4(b).TransportProtocol() == header.TCPProtocolNumber
}

// hold begins to keep a connection's SYN-ACKs back, until release.
func (t *tap) hold(id stack.TransportEndpointID) *heldSYNACK {
	h := &heldSYNACK{tap: t, there: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held[id] = h
	t.waiting.Store(int32(len(t.held)))
	return h
}

// release lets the SYN-ACK go that was held, and those that come later.
func (t *tap) release(id stack.TransportEndpointID) {
	t.mu.Lock()
	var pkt *stack.PacketBuffer
	if h := t.held[id]; h != nil {
		pkt, h.pkt = h.pkt, nil
	}
	delete(t.held, id)
	t.waiting.Store(int32(len(t.held)))
	t.mu.Unlock()
	if pkt == nil {
		return
	}
	var one stack.PacketBufferList
	one.PushBack(pkt)
	_, _ = t.pass(one) // counted; the application's kernel asks again
	pkt.DecRef()
}

// drop forgets the SYN-ACK that is held, and those that come until release.
func (h *heldSYNACK) drop() {
	h.tap.mu.Lock()
	defer h.tap.mu.Unlock()
	h.dropped = true
	if h.pkt != nil {
		h.pkt.DecRef()
		h.pkt = nil
	}
}

// keep takes a packet of a connection that is held: a SYN-ACK waits, in the place of an earlier one; anything else, such
// as the ACK for a SYN that came twice, would tell the application more than there is to tell yet.
func (t *tap) keep(pkt *stack.PacketBuffer) bool {
	seg := header.TCP(pkt.TransportHeader().Slice())
	if len(seg) < header.TCPMinimumSize {
		return false
	}
	net := pkt.Network()
	id := stack.TransportEndpointID{
		LocalPort: seg.SourcePort(), LocalAddress: net.SourceAddress(),
		RemotePort: seg.DestinationPort(), RemoteAddress: net.DestinationAddress(),
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.held[id]
	if h == nil {
		return false
	}
	const synACK = header.TCPFlagSyn | header.TCPFlagAck
	if seg.Flags()&synACK != synACK {
		return true
	}
	if h.pkt != nil {
		h.pkt.DecRef()
		h.pkt = nil
	}
	if !h.dropped {
		h.pkt = pkt.IncRef()
	}
	if !h.came {
		h.came = true
		close(h.there)
	}
	return true
}

// WritePackets implements stack.LinkEndpoint for the stack above.
func (t *tap) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	if t.waiting.Load() == 0 {
		return t.pass(pkts)
	}
	var rest stack.PacketBufferList
	kept := 0
	for _, pkt := range pkts.AsSlice() {
		if t.keep(pkt) {
			kept++
		} else {
			rest.PushBack(pkt)
		}
	}
	if rest.Len() == 0 {
		return kept, nil
	}
	n, err := t.pass(rest)
	return kept + n, err
}

// pass writes to the device.
func (t *tap) pass(pkts stack.PacketBufferList) (int, tcpip.Error) {
	n, err := t.Endpoint.WritePackets(pkts)
	t.out.Add(uint64(n))
	if err != nil {
		t.failed.Add(uint64(pkts.Len() - n))
	}
	return n, err
}

// ipVersion reads the first nibble of a packet.
func ipVersion(pkt *stack.PacketBuffer) (tcpip.NetworkProtocolNumber, bool) {
	b, ok := pkt.Data().PullUp(1)
	if !ok {
		return 0, false
	}
	switch b[0] >> 4 {
	case header.IPv4Version:
		return header.IPv4ProtocolNumber, true
	case header.IPv6Version:
		return header.IPv6ProtocolNumber, true
	default:
		return 0, false
	}
}
