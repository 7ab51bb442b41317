package netstack

import (
	"encoding/binary"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/rawfile"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// struct virtio_net_hdr of <linux/virtio_net.h>, host byte order.
const (
	vnetHdrLen    = 10
	vnetNeedsCsum = 1
	vnetGSOTCPv4  = 1
	vnetGSOTCPv6  = 4
)

type vnetHdr struct {
	flags, gsoType                         byte
	hdrLen, gsoSize, csumStart, csumOffset uint16
}

func (h vnetHdr) put(b []byte) {
	_ = b[vnetHdrLen-1]
	b[0], b[1] = h.flags, h.gsoType
	binary.NativeEndian.PutUint16(b[2:], h.hdrLen)
	binary.NativeEndian.PutUint16(b[4:], h.gsoSize)
	binary.NativeEndian.PutUint16(b[6:], h.csumStart)
	binary.NativeEndian.PutUint16(b[8:], h.csumOffset)
}

// hdrOf tells the kernel what gVisor left for it to do: cut into segments, fill in the checksum.
func hdrOf(pkt *stack.PacketBuffer) (h vnetHdr) {
	g := pkt.GSOOptions
	if g.Type == stack.GSONone {
		return h // complete as it is
	}
	h.hdrLen = uint16(pkt.HeaderSize())
	if g.NeedsCsum {
		// From the start of the packet: a TUN has no link header.
		h.flags, h.csumStart, h.csumOffset = vnetNeedsCsum, g.L3HdrLen, g.CsumOffset
	}
	if pkt.Data().Size() > int(g.MSS) {
		h.gsoSize, h.gsoType = g.MSS, vnetGSOTCPv4
		if g.Type == stack.GSOTCPv6 {
			h.gsoType = vnetGSOTCPv6
		}
	}
	return h
}

// viewSizes make a 64 KiB read buffer of which a small packet uses up, and clears anew, only the start.
var viewSizes = [...]int{128, 256, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768}

// tunEndpoint is a link endpoint straight on the TUN's file: one reader goroutine, writes by whoever sends.
// With offload, packets of up to 64 KiB cross whole; gVisor's own fdbased endpoint cannot do that on a TUN.
type tunEndpoint struct {
	file    *os.File
	raw     syscall.RawConn
	mtu     atomic.Uint32
	offload bool
	hdrLen  int // 0 or vnetHdrLen
	readers sync.WaitGroup

	mu         sync.RWMutex // held for reading while fd is written to
	fd         int          // -1 after close
	dispatcher stack.NetworkDispatcher
	failure    error

	// Owned by the reader.
	hdr   [vnetHdrLen]byte
	views [len(viewSizes)]*buffer.View
	iov   []unix.Iovec
	n     int
	errno syscall.Errno
}

func newTUNEndpoint(f *os.File, fd int, mtu uint32, offload bool) (*tunEndpoint, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	e := &tunEndpoint{file: f, raw: raw, fd: fd, offload: offload}
	e.mtu.Store(mtu)
	if offload {
		e.hdrLen = vnetHdrLen
	}
	return e, nil
}

// Attach implements stack.LinkEndpoint: the first dispatcher starts the reader.
func (e *tunEndpoint) Attach(d stack.NetworkDispatcher) {
	e.mu.Lock()
	first := e.dispatcher == nil && d != nil && e.fd >= 0
	e.dispatcher = d
	e.mu.Unlock()
	if first {
		e.readers.Go(e.read)
	}
}

func (e *tunEndpoint) read() {
	e.iov = make([]unix.Iovec, 0, len(e.views)+1)
	readv := e.readv // one closure for all reads
	for {
		e.fillViews()
		err := e.raw.Read(readv)
		if err == nil && e.errno != 0 {
			err = os.NewSyscallError("readv", e.errno)
		}
		if err != nil {
			e.readFailed(err)
			return
		}
		if e.n > e.hdrLen {
			e.deliver(e.n - e.hdrLen)
		}
	}
}

// fillViews replaces the views that the last packet took along.
func (e *tunEndpoint) fillViews() {
	e.iov = e.iov[:0]
	if e.hdrLen > 0 {
		e.iov = append(e.iov, rawfile.IovecFromBytes(e.hdr[:]))
	}
	for i, v := range e.views {
		if v == nil {
			v = buffer.NewViewSize(viewSizes[i])
			e.views[i] = v
		}
		e.iov = append(e.iov, rawfile.IovecFromBytes(v.AsSlice()))
	}
}

// readv reads one packet; false means that there is none yet.
func (e *tunEndpoint) readv(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&e.iov[0])), uintptr(len(e.iov)))
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		e.n, e.errno = int(n), errno
		return true
	}
}

func (e *tunEndpoint) readFailed(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fd >= 0 { // else it is the end that close asked for
		e.failure = err
	}
}

func (e *tunEndpoint) deliver(n int) {
	var payload buffer.Buffer
	for i, v := range e.views {
		if n == 0 {
			break
		}
		if v.Size() > n {
			v.CapLength(n)
		}
		n -= v.Size()
		payload.Append(v)
		e.views[i] = nil
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: payload})
	defer pkt.DecRef()
	proto, ok := ipVersion(pkt)
	if !ok {
		return
	}
	pkt.NetworkProtocolNumber = proto
	pkt.RXChecksumValidated = true // it was never on a wire, and with offload its checksum is not filled in
	e.mu.RLock()
	d := e.dispatcher
	e.mu.RUnlock()
	if d != nil {
		d.DeliverNetworkPacket(proto, pkt)
	}
}

// WritePackets implements stack.LinkEndpoint, in the sender's goroutine: the system call is the back-pressure.
func (e *tunEndpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.fd < 0 {
		return 0, &tcpip.ErrClosedForSend{}
	}
	for i, pkt := range pkts.AsSlice() {
		if errno := e.writev(pkt); errno != 0 {
			return i, tcpip.TranslateErrno(errno)
		}
	}
	return pkts.Len(), nil
}

func (e *tunEndpoint) writev(pkt *stack.PacketBuffer) unix.Errno {
	var (
		hdr  [vnetHdrLen]byte
		room [24]unix.Iovec
		iov  = room[:0]
	)
	if e.hdrLen > 0 {
		hdrOf(pkt).put(hdr[:])
		iov = append(iov, rawfile.IovecFromBytes(hdr[:]))
	}
	for _, b := range pkt.AsSlices() {
		iov = rawfile.AppendIovecFromBytes(iov, b, rawfile.MaxIovs)
	}
	for {
		if errno := rawfile.NonBlockingWriteIovec(e.fd, iov); errno != unix.EINTR {
			return errno
		}
	}
}

func (e *tunEndpoint) err() error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.failure
}

func (e *tunEndpoint) close() error {
	e.mu.Lock()
	closed := e.fd < 0
	e.fd = -1
	e.mu.Unlock()
	if closed {
		return nil
	}
	return e.file.Close() // wakes the reader
}

// GSOMaxSize implements stack.GSOEndpoint.
func (e *tunEndpoint) GSOMaxSize() uint32 { return 65535 }

// SupportedGSO implements stack.GSOEndpoint.
func (e *tunEndpoint) SupportedGSO() stack.SupportedGSO {
	if e.offload {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

// Capabilities implements stack.LinkEndpoint.
func (e *tunEndpoint) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// IsAttached implements stack.LinkEndpoint.
func (e *tunEndpoint) IsAttached() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.dispatcher != nil
}

// The rest of stack.LinkEndpoint: a TUN has no link layer.

func (e *tunEndpoint) MTU() uint32                             { return e.mtu.Load() }
func (e *tunEndpoint) SetMTU(mtu uint32)                       { e.mtu.Store(mtu) }
func (e *tunEndpoint) MaxHeaderLength() uint16                 { return 0 }
func (e *tunEndpoint) LinkAddress() tcpip.LinkAddress          { return "" }
func (e *tunEndpoint) SetLinkAddress(tcpip.LinkAddress)        {}
func (e *tunEndpoint) Wait()                                   { e.readers.Wait() }
func (e *tunEndpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (e *tunEndpoint) AddHeader(*stack.PacketBuffer)           {}
func (e *tunEndpoint) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (e *tunEndpoint) Close()                                  {}
func (e *tunEndpoint) SetOnCloseAction(func())                 {}
