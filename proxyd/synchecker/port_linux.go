package synchecker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// packetPort is a Port on a network interface: a packet socket with a ring for each class of what
// arrives, one socket to send.
type packetPort struct {
	ifname string
	filter Filter
	rings  [classes]*ring
	send   int
	wake   int // eventfd, written by Close

	// owned by the reading goroutine
	poll []unix.PollFd
	down bool // the interface was, when last heard of
	out  sendQueue

	lost    atomic.Uint64
	mu      sync.Mutex // guards the sockets' lives, mode and share
	mode    Mode
	share   float64     // of the plain SYNs, see Sample
	reading bool        // a first Read began
	closed  bool        // sockets and memory are gone
	done    atomic.Bool // Close was called
}

// OpenPort opens a raw port on an ethernet interface. It sees nothing until Arm.
func OpenPort(ifname string, f Filter) (Port, error) {
	p, err := openPackets(ifname, f)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func openPackets(ifname string, f Filter) (_ *packetPort, err error) {
	p := &packetPort{ifname: ifname, filter: f, send: -1, wake: -1, share: 1}
	defer func() {
		if err != nil {
			p.release()
			err = fmt.Errorf("packet port on %s: %w", ifname, err)
		}
	}()
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, err
	}
	if len(ifi.HardwareAddr) != 6 {
		return nil, errors.New("not an ethernet interface")
	}
	for c := range p.rings {
		if p.rings[c], err = openRing(class(c), ifi.Index); err != nil {
			return nil, err
		}
	}
	if err := p.Arm(Off); err != nil {
		return nil, err
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	if p.send, err = openSender(ifi.Index); err != nil {
		return nil, err
	}
	p.out.init()
	p.poll = []unix.PollFd{{Fd: int32(p.wake), Events: unix.POLLIN}}
	for _, r := range p.rings {
		p.poll = append(p.poll, unix.PollFd{Fd: int32(r.fd), Events: unix.POLLIN})
	}
	return p, nil
}

// hardwareAddr is the one that the interface has now.
func (p *packetPort) hardwareAddr() (net.HardwareAddr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	sa, err := unix.Getsockname(p.rings[0].fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	ll, ok := sa.(*unix.SockaddrLinklayer)
	if !ok || ll.Halen != 6 {
		return nil, unix.ENODEV
	}
	return slices.Clone(ll.Addr[:6]), nil
}

// packetSocket receives nothing before it is bound.
func packetSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errors.Is(err, unix.EPERM) {
		return -1, fmt.Errorf("packet socket: %w (needs CAP_NET_RAW)", err)
	}
	return fd, os.NewSyscallError("packet socket", err)
}

// openSender makes the socket that answers go out by. It skips the queueing discipline: under a
// flood a full queue should cost us the answer, not time.
func openSender(ifindex int) (int, error) {
	fd, err := packetSocket()
	if err != nil {
		return -1, err
	}
	const buffer = 4 << 20
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer); err != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, buffer) // no CAP_NET_ADMIN: capped
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	}
	if err == nil { // protocol 0: sends, never receives
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifindex})
	}
	if err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("sending socket", err)
	}
	return fd, nil
}

func (p *packetPort) Arm(m Mode) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.mode = m
	for c := range p.rings {
		if err := p.attachLocked(class(c)); err != nil {
			return err
		}
	}
	return nil
}

func (p *packetPort) attachLocked(c class) error {
	prog, err := p.filter.sampled(c, p.mode, p.share)
	if err != nil {
		return err
	}
	return attach(p.rings[c].fd, prog)
}

// Sample implements Sampler. A change of less than a tenth is not worth a filter.
func (p *packetPort) Sample(share float64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch d := share / p.share; {
	case p.closed:
		return net.ErrClosed
	case share == p.share, share < 1 && d > 0.9 && d < 1.1:
		return nil
	}
	p.share = share
	return p.attachLocked(plain)
}

// sampling says whether Read returns without a frame.
func (p *packetPort) sampling() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.share < 1
}

// attach swaps the socket's filter; the kernel does it atomically.
func attach(fd int, prog []bpf.Instruction) error {
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return os.NewSyscallError("attach packet filter", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET,
		unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}))
}

// Read returns an error once; the port is then closed.
func (p *packetPort) Read(buf []Frame) (int, error) {
	if !p.start() {
		return 0, net.ErrClosed
	}
	for _, r := range p.rings {
		r.release()
	}
	n, err := p.wait(buf)
	if err != nil {
		p.done.Store(true)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.freeLocked()
	}
	return n, err
}

// start claims the rings for the reader, so that Close leaves them to it.
func (p *packetPort) start() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reading = true
	return !p.closed
}

func (p *packetPort) wait(buf []Frame) (int, error) {
	for !p.done.Load() {
		if n := p.take(buf); n > 0 {
			p.down = false
			return n, nil
		}
		// An interface that goes down says so, one that is then removed does not: look now and then.
		timeout, sampling := -1, p.sampling()
		if p.down {
			timeout = 500 // ms
		}
		if sampling {
			timeout = int(tick.Milliseconds())
		}
		ready, err := unix.Poll(p.poll, timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, os.NewSyscallError("poll", err)
		}
		if ready == 0 && sampling && !p.down {
			return 0, nil
		}
		for i, r := range p.rings {
			if p.poll[i+1].Revents&(unix.POLLERR|unix.POLLNVAL) != 0 {
				p.down = true
			}
			if !p.down {
				continue
			}
			if err := r.failure(); err != nil {
				return 0, fmt.Errorf("packet port on %s: %w", p.ifname, err)
			}
		}
	}
	return 0, net.ErrClosed
}

// take gives each class its part of the batch, so that none that floods locks another out, and what
// is left to who has more, in their order.
func (p *packetPort) take(buf []Frame) (n int) {
	part := max(1, len(buf)/int(classes))
	for _, r := range p.rings {
		n += r.take(buf[n:min(len(buf), n+part)])
	}
	for _, r := range p.rings {
		n += r.take(buf[n:])
	}
	return n
}

func (p *packetPort) Write(frames [][]byte) (int, error) {
	return p.out.send(p.send, frames)
}

func (p *packetPort) Lost() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.collectLocked()
	}
	return p.lost.Load()
}

// collectLocked adds up what the sockets lost; the kernel's figures start again at each reading.
func (p *packetPort) collectLocked() {
	for _, r := range p.rings {
		if s, err := unix.GetsockoptTpacketStats(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			p.lost.Add(uint64(s.Drops))
		}
	}
}

// Close frees the port at once if nobody reads. Otherwise frames may be in use, so the reader is
// woken and frees it at the end of its Read.
func (p *packetPort) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done.Swap(true) {
		return nil
	}
	if !p.reading {
		p.freeLocked()
		return nil
	}
	one := binary.NativeEndian.AppendUint64(nil, 1)
	_, err := unix.Write(p.wake, one)
	return os.NewSyscallError("wake packet port", err)
}

func (p *packetPort) freeLocked() {
	if !p.closed {
		p.collectLocked()
		p.closed = true
		p.release()
	}
}

func (p *packetPort) release() {
	for _, r := range p.rings {
		if r != nil {
			r.close()
		}
	}
	for _, fd := range []int{p.send, p.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// sendQueue is the kernel's view of frames to send, for sendmmsg(2).
type sendQueue struct {
	msgs [batch]mmsghdr
	iovs [batch]unix.Iovec
}

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

func (q *sendQueue) init() {
	for i := range q.msgs {
		q.msgs[i].hdr.Iov = &q.iovs[i]
		q.msgs[i].hdr.SetIovlen(1)
	}
}

func (q *sendQueue) send(fd int, frames [][]byte) (sent int, err error) {
	for len(frames) > 0 {
		k := min(len(frames), batch)
		for i, f := range frames[:k] {
			q.iovs[i].Base = &f[0]
			q.iovs[i].SetLen(len(f))
		}
		n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&q.msgs[0])),
			uintptr(k), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case e == unix.EINTR:
			continue
		case e != 0:
			return sent, os.NewSyscallError("sendmmsg", e)
		}
		sent += int(n)
		frames = frames[n:]
	}
	return sent, nil
}
