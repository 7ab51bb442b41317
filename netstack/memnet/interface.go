package memnet

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// HeadSize is how much of a packet a Tap is shown at most: the longest headers and a preamble behind them.
const HeadSize = 256

// Tap stands between a link and the host's stack. It is called with the first bytes of each packet, from its IP header
// on, which it must not keep; false drops the packet. It must not block. A nil one lets everything through.
type Tap struct{ In, Out func(head []byte) bool }

// Port is where an interface is plugged in.
type Port struct {
	Name    string // of the interface
	Segment string
	Addrs   []netip.Addr
	Routes  []netip.Prefix // what is reached through it
	MTU     uint32         // 0: 1500
	Out, In Conditions

	// GSO lets segments of up to 64 KiB cross whole: fast, and only truthful on a link without faults.
	GSO bool
}

// Everywhere are the default routes.
var Everywhere = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

const defaultMTU = 1500

// Interface is a host's on a segment. It is the link endpoint of its stack.
type Interface struct {
	host    *Host
	name    string
	nic     tcpip.NICID
	segment string
	addrs   atomic.Pointer[[]netip.Addr]
	mtu     uint32
	gso     bool
	out, in *lane
	tap     atomic.Pointer[Tap]

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
}

// Name of the interface.
func (i *Interface) Name() string { return i.name }

// Addrs are the host's on this interface.
func (i *Interface) Addrs() []netip.Addr { return *i.addrs.Load() }

// SetTap puts a tap in place; the zero Tap takes it away.
func (i *Interface) SetTap(t Tap) { i.tap.Store(&t) }

// Set changes the conditions of both directions.
func (i *Interface) Set(out, in Conditions) {
	i.out.set(out)
	i.in.set(in)
}

// Send puts a packet on the link that the host's stack knows nothing of: bytes from the IP header on. The link does not
// look at the source address.
func (i *Interface) Send(packet []byte) {
	if pkt := packetOf(packet); pkt != nil {
		i.host.net.carry(i, pkt)
		pkt.DecRef()
	}
}

// deliver hands a packet to the stack, and takes over its reference.
func (i *Interface) deliver(pkt *stack.PacketBuffer) {
	defer pkt.DecRef()
	if t := i.tap.Load(); t != nil && t.In != nil && !t.In(head(pkt)) {
		return
	}
	i.mu.RLock()
	d := i.dispatcher
	i.mu.RUnlock()
	if d != nil {
		pkt.RXChecksumValidated = true
		d.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
	}
}

// head is a packet's first bytes.
func head(pkt *stack.PacketBuffer) []byte {
	b := make([]byte, 0, HeadSize)
	for _, s := range pkt.AsSlices() {
		if b = append(b, s[:min(len(s), HeadSize-len(b))]...); len(b) == HeadSize {
			break
		}
	}
	return b
}

// unreachable answers a packet of the host with an ICMP error, as a router would.
func (i *Interface) unreachable(pkt *stack.PacketBuffer) {
	if b := unreachableFor(head(pkt)); b != nil {
		if answer := packetOf(b); answer != nil {
			i.host.net.sched.add(time.Now(), i, answer) // not now: the stack is still sending
		}
	}
}

// WritePackets implements stack.LinkEndpoint.
func (i *Interface) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	t := i.tap.Load()
	for _, pkt := range pkts.AsSlice() {
		if t != nil && t.Out != nil && !t.Out(head(pkt)) {
			continue
		}
		i.host.net.carry(i, pkt)
	}
	return pkts.Len(), nil
}

// Attach implements stack.LinkEndpoint.
func (i *Interface) Attach(d stack.NetworkDispatcher) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.dispatcher = d
}

// IsAttached implements stack.LinkEndpoint.
func (i *Interface) IsAttached() bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.dispatcher != nil
}

// GSOMaxSize implements stack.GSOEndpoint.
func (i *Interface) GSOMaxSize() uint32 { return 65535 }

// SupportedGSO implements stack.GSOEndpoint.
func (i *Interface) SupportedGSO() stack.SupportedGSO {
	if i.gso {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

// Capabilities implements stack.LinkEndpoint. Nothing in memory damages a packet.
func (i *Interface) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload | stack.CapabilityTXChecksumOffload
}

// The rest of stack.LinkEndpoint: there is no link layer.

func (i *Interface) MTU() uint32                             { return i.mtu }
func (i *Interface) SetMTU(uint32)                           {}
func (i *Interface) MaxHeaderLength() uint16                 { return 0 }
func (i *Interface) LinkAddress() tcpip.LinkAddress          { return "" }
func (i *Interface) SetLinkAddress(tcpip.LinkAddress)        {}
func (i *Interface) Wait()                                   {}
func (i *Interface) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (i *Interface) AddHeader(*stack.PacketBuffer)           {}
func (i *Interface) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (i *Interface) Close()                                  {}
func (i *Interface) SetOnCloseAction(func())                 {}
