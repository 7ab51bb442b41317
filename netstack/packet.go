package netstack

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// packetOffset is the room before each packet where a device may put its own header.
const packetOffset = 16

// packetIO is a TUN that reads and writes whole packets: wireguard's tun.Device, used where the kernel offers
// no segmentation offload (macOS, Windows).
type packetIO interface {
	Read(bufs [][]byte, sizes []int, offset int) (int, error)
	Write(bufs [][]byte, offset int) (int, error)
	BatchSize() int
	Close() error
}

// packetDevice is a Device and link endpoint on a packetIO.
type packetDevice struct {
	name    string
	io      packetIO
	mtu     atomic.Uint32
	bufs    sync.Pool // of *[]byte, packetOffset+MTU
	readers sync.WaitGroup

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
	closed     bool
	failure    error
}

func newPacketDevice(name string, io packetIO, mtu int) *packetDevice {
	d := &packetDevice{name: name, io: io}
	d.mtu.Store(uint32(mtu))
	d.bufs.New = func() any { b := make([]byte, packetOffset+65535); return &b }
	return d
}

func (d *packetDevice) Name() string                     { return d.name }
func (d *packetDevice) LinkEndpoint() stack.LinkEndpoint { return d }
func (d *packetDevice) Close()                           {} // stack.LinkEndpoint's; the device is closed by its owner

// device makes Close mean the device: stack.LinkEndpoint has a Close of another signature.
type device struct{ *packetDevice }

func (d device) Close() error {
	d.mu.Lock()
	again := d.closed
	d.closed = true
	d.mu.Unlock()
	if again {
		return nil
	}
	return d.io.Close()
}

func (d *packetDevice) Err() error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.failure
}

// Attach implements stack.LinkEndpoint: the first dispatcher starts the reader.
func (d *packetDevice) Attach(n stack.NetworkDispatcher) {
	d.mu.Lock()
	first := d.dispatcher == nil && n != nil && !d.closed
	d.dispatcher = n
	d.mu.Unlock()
	if first {
		d.readers.Go(d.read)
	}
}

func (d *packetDevice) read() {
	bufs := make([][]byte, d.io.BatchSize())
	sizes := make([]int, len(bufs))
	for i := range bufs {
		bufs[i] = make([]byte, packetOffset+65535)
	}
	for {
		n, err := d.io.Read(bufs, sizes, packetOffset)
		for i := range n {
			d.deliver(bufs[i][packetOffset : packetOffset+sizes[i]])
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			d.readFailed(err)
			return
		}
	}
}

func (d *packetDevice) readFailed(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.failure = fmt.Errorf("read from %s: %w", d.name, err)
	}
}

func (d *packetDevice) deliver(b []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	defer pkt.DecRef()
	proto, ok := ipVersion(pkt)
	if !ok {
		return
	}
	pkt.NetworkProtocolNumber = proto
	d.mu.RLock()
	n := d.dispatcher
	d.mu.RUnlock()
	if n != nil {
		n.DeliverNetworkPacket(proto, pkt)
	}
}

// WritePackets implements stack.LinkEndpoint.
func (d *packetDevice) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range pkts.AsSlice() {
		if err := d.write(pkt); err != nil {
			return i, &tcpip.ErrAborted{}
		}
	}
	return pkts.Len(), nil
}

func (d *packetDevice) write(pkt *stack.PacketBuffer) error {
	bp := d.bufs.Get().(*[]byte)
	defer d.bufs.Put(bp)
	b := (*bp)[:packetOffset]
	for _, s := range pkt.AsSlices() {
		b = append(b, s...)
	}
	_, err := d.io.Write([][]byte{b}, packetOffset)
	return err
}

// IsAttached implements stack.LinkEndpoint.
func (d *packetDevice) IsAttached() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.dispatcher != nil
}

// The rest of stack.LinkEndpoint: a TUN has no link layer.

func (d *packetDevice) MTU() uint32                                  { return d.mtu.Load() }
func (d *packetDevice) SetMTU(mtu uint32)                            { d.mtu.Store(mtu) }
func (d *packetDevice) MaxHeaderLength() uint16                      { return 0 }
func (d *packetDevice) LinkAddress() tcpip.LinkAddress               { return "" }
func (d *packetDevice) SetLinkAddress(tcpip.LinkAddress)             {}
func (d *packetDevice) Capabilities() stack.LinkEndpointCapabilities { return 0 }
func (d *packetDevice) Wait()                                        { d.readers.Wait() }
func (d *packetDevice) ARPHardwareType() header.ARPHardwareType      { return header.ARPHardwareNone }
func (d *packetDevice) AddHeader(*stack.PacketBuffer)                {}
func (d *packetDevice) ParseHeader(*stack.PacketBuffer) bool         { return true }
func (d *packetDevice) SetOnCloseAction(func())                      {}
