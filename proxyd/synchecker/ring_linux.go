package synchecker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring is a packet socket whose frames arrive in memory shared with the kernel (TPACKET_V2: each
// frame is ready at once, where V3 hands over blocks, up to a timer tick late).
type ring struct {
	fd     int
	mem    []byte
	size   int // of a slot
	next   int // slot that is filled next
	held   int // slots before next that were handed out
	frames int
}

// Slots and sizes: 32,768 plain SYNs are 65 ms of 500,000 a second, longer than a process is
// usually kept from a busy CPU. 21 MiB in all.
var ringSizes = [classes]struct{ size, frames int }{
	keyed:   {512, 16384},
	flights: {512, 8192},
	knocks:  {512, 2048},
	plain:   {256, 32768},
}

const ringBlock = 1 << 16

func openRing(c class, ifindex int) (_ *ring, err error) {
	fd, err := packetSocket()
	if err != nil {
		return nil, err
	}
	r := &ring{fd: fd, size: ringSizes[c].size, frames: ringSizes[c].frames}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	// Before bind, so that not even one packet gets in unfiltered.
	if err := attach(fd, dropAll); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return nil, os.NewSyscallError("ignore outgoing", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return nil, os.NewSyscallError("ring version", err)
	}
	bytes := r.size * r.frames
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq{
		Block_size: ringBlock, Block_nr: uint32(bytes / ringBlock),
		Frame_size: uint32(r.size), Frame_nr: uint32(r.frames),
	}); err != nil {
		return nil, fmt.Errorf("ring of %d KiB: %w", bytes>>10, err)
	}
	if r.mem, err = unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, os.NewSyscallError("map ring", err)
	}
	// All protocols: a tap for one protocol alone comes after netdev ingress and would see nothing of
	// what is dropped there.
	err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifindex})
	return r, os.NewSyscallError("bind", err)
}

func htons(x uint16) uint16 {
	return binary.NativeEndian.Uint16(be.AppendUint16(nil, x))
}

func (r *ring) slot(i int) []byte { return r.mem[i*r.size : (i+1)*r.size] }

func status(slot []byte) *uint32 { return (*uint32)(unsafe.Pointer(&slot[0])) }

// take hands out what is ready, in the ring's own memory.
func (r *ring) take(buf []Frame) int {
	n := 0
	for ; n < len(buf) && r.held < r.frames; n++ {
		slot := r.slot(r.next)
		st := atomic.LoadUint32(status(slot))
		if st&unix.TP_STATUS_USER == 0 {
			break
		}
		h := (*unix.Tpacket2Hdr)(unsafe.Pointer(&slot[0]))
		start := min(int(h.Mac), r.size)
		buf[n] = Frame{Data: slot[start:min(start+int(h.Snaplen), r.size)]}
		if st&unix.TP_STATUS_VLAN_VALID != 0 {
			tpid := uint32(etherVLAN)
			if st&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
				tpid = uint32(h.Vlan_tpid)
			}
			buf[n].VLAN = tpid<<16 | uint32(h.Vlan_tci)
		}
		r.next = (r.next + 1) % r.frames
		r.held++
	}
	return n
}

// release gives the slots that take handed out back to the kernel.
func (r *ring) release() {
	for ; r.held > 0; r.held-- {
		atomic.StoreUint32(status(r.slot((r.next-r.held+r.frames)%r.frames)), unix.TP_STATUS_KERNEL)
	}
}

// failure tells an interface that went down, and may come back, from one that is gone for good.
func (r *ring) failure() error {
	code, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return os.NewSyscallError("socket error", err)
	}
	if code != 0 && !errors.Is(unix.Errno(code), unix.ENETDOWN) {
		return unix.Errno(code)
	}
	sa, err := unix.Getsockname(r.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	if ll, ok := sa.(*unix.SockaddrLinklayer); !ok || ll.Ifindex <= 0 {
		return unix.ENODEV
	}
	return nil
}

func (r *ring) close() {
	if r.mem != nil {
		unix.Munmap(r.mem)
	}
	unix.Close(r.fd)
}
