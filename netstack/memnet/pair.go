package memnet

import (
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Device is one end of a memory link; it is a netstack.Device. Packets cross in order and none is lost.
type Device struct {
	name string
	mtu  uint32
	peer *Device

	mu         sync.Mutex
	arrived    *sync.Cond
	queue      []*stack.PacketBuffer // sent by the peer; unbounded, TCP windows bound it
	dispatcher stack.NetworkDispatcher
	closed     bool
	reader     sync.WaitGroup
}

// Pair returns the two ends of a memory link.
func Pair(mtu int) (*Device, *Device) {
	a, b := &Device{name: "mem0", mtu: uint32(mtu)}, &Device{name: "mem1", mtu: uint32(mtu)}
	a.peer, b.peer = b, a
	for _, d := range []*Device{a, b} {
		d.arrived = sync.NewCond(&d.mu)
	}
	return a, b
}

// Name implements netstack.Device.
func (d *Device) Name() string { return d.name }

// LinkEndpoint implements netstack.Device.
func (d *Device) LinkEndpoint() stack.LinkEndpoint { return (*endpoint)(d) }

// Err implements netstack.Device: a memory link does not fail.
func (d *Device) Err() error { return nil }

// Close implements netstack.Device.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, pkt := range d.queue {
		pkt.DecRef()
	}
	d.queue = nil
	d.arrived.Broadcast()
	return nil
}

// Send puts a raw IP packet on the link.
func (d *Device) Send(raw []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(raw)})
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	if len(raw) > 0 && raw[0]>>4 == header.IPv6Version {
		pkt.NetworkProtocolNumber = header.IPv6ProtocolNumber
	}
	d.peer.put(pkt)
}

// put queues a packet for d's reader, which is another goroutine than the sender's: no stack is entered while
// the other one holds a lock.
func (d *Device) put(pkt *stack.PacketBuffer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		pkt.DecRef()
		return
	}
	d.queue = append(d.queue, pkt)
	d.arrived.Signal()
}

func (d *Device) take() ([]*stack.PacketBuffer, stack.NetworkDispatcher) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.queue) == 0 && !d.closed {
		d.arrived.Wait()
	}
	batch := d.queue
	d.queue = nil
	return batch, d.dispatcher
}

func (d *Device) read() {
	for {
		batch, to := d.take()
		if len(batch) == 0 {
			return
		}
		for _, pkt := range batch {
			if to != nil {
				to.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
			}
			pkt.DecRef()
		}
	}
}

// endpoint is the gVisor side of a Device.
type endpoint Device

// Attach implements stack.LinkEndpoint.
func (e *endpoint) Attach(n stack.NetworkDispatcher) {
	d := (*Device)(e)
	d.mu.Lock()
	defer d.mu.Unlock()
	first := d.dispatcher == nil && n != nil && !d.closed
	d.dispatcher = n
	if first {
		d.reader.Go(d.read)
	}
}

// WritePackets implements stack.LinkEndpoint.
func (e *endpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for _, p := range pkts.AsSlice() {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: p.ToBuffer()})
		pkt.NetworkProtocolNumber = p.NetworkProtocolNumber
		pkt.RXChecksumValidated = true
		e.peer.put(pkt)
	}
	return pkts.Len(), nil
}

// IsAttached implements stack.LinkEndpoint.
func (e *endpoint) IsAttached() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dispatcher != nil
}

// GSOMaxSize implements stack.GSOEndpoint.
func (e *endpoint) GSOMaxSize() uint32 { return 65535 }

// SupportedGSO implements stack.GSOEndpoint: super-segments cross whole.
func (e *endpoint) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// Capabilities implements stack.LinkEndpoint.
func (e *endpoint) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// The rest of stack.LinkEndpoint.

func (e *endpoint) MTU() uint32                             { return e.mtu }
func (e *endpoint) SetMTU(uint32)                           {}
func (e *endpoint) MaxHeaderLength() uint16                 { return 0 }
func (e *endpoint) LinkAddress() tcpip.LinkAddress          { return "" }
func (e *endpoint) SetLinkAddress(tcpip.LinkAddress)        {}
func (e *endpoint) Wait()                                   { e.reader.Wait() }
func (e *endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (e *endpoint) AddHeader(*stack.PacketBuffer)           {}
func (e *endpoint) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (e *endpoint) Close()                                  {}
func (e *endpoint) SetOnCloseAction(func())                 {}
