package netstack

import (
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
	in, out, ignored, failed atomic.Uint64
}

func newTap(child stack.LinkEndpoint) *tap {
	t := new(tap)
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

// WritePackets implements stack.LinkEndpoint for the stack above.
func (t *tap) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
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
