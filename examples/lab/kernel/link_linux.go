package kernel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Conditions are what a link does to packets, the same in both directions.
type Conditions struct {
	Delay time.Duration // one way
	Loss  float64       // share of packets lost, per wire packet
	Rate  float64       // bits per second, 0 = no limit
}

// queueLimit is how many bytes wait for a link's rate before packets are lost.
const queueLimit = 4 << 20

// ringSize holds the packets in flight: 10 Gbit/s for 12 ms.
const ringSize = 16 << 20

// maxPacket is the largest read of a TUN device with its virtio header.
const maxPacket = 65536 + 64

// Link joins two TUN devices of the same name, one in each namespace. Time is kept by ppoll on one
// locked thread a direction: Go's timers would add up to 12 ms.
type Link struct {
	ends    [2]int // the devices' descriptors
	stop    [2]*os.File
	halves  [2]*half
	running sync.WaitGroup
}

// LinkStats counts one direction.
type LinkStats struct{ Read, Written, Lost, Full uint64 }

// NewLink makes the device name in both namespaces and joins them. Addresses and routes are the
// caller's, with Up and Route. seed makes the choice of lost packets repeatable.
func NewLink(a, b *Namespace, nameA, nameB string, c Conditions, seed uint64) (*Link, error) {
	l := &Link{ends: [2]int{-1, -1}}
	var err error
	if l.ends[0], err = a.tun(nameA); err != nil {
		return nil, err
	}
	if l.ends[1], err = b.tun(nameB); err != nil {
		unix.Close(l.ends[0])
		return nil, err
	}
	r, w, err := os.Pipe() // both directions poll the read end; closing the other wakes them
	if err != nil {
		unix.Close(l.ends[0])
		unix.Close(l.ends[1])
		return nil, err
	}
	l.stop = [2]*os.File{r, w}
	for i := range l.halves {
		l.halves[i] = &half{
			in: l.ends[i], out: l.ends[1-i], stop: int(r.Fd()),
			random: rand.New(rand.NewPCG(seed, uint64(i))), ring: newRing(ringSize),
		}
	}
	if err := l.Set(c); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	for _, h := range l.halves {
		l.running.Go(h.run)
	}
	return l, nil
}

// Set changes the link's conditions while it carries traffic. Loss is per packet on the wire, so
// the kernel's segmentation offload is off while there is any: else one loss would take 64 KiB.
func (l *Link) Set(c Conditions) error {
	offload := unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	if c.Loss > 0 {
		offload = unix.TUN_F_CSUM
	}
	for i, h := range l.halves {
		if err := unix.IoctlSetInt(l.ends[i], unix.TUNSETOFFLOAD, offload); err != nil {
			return fmt.Errorf("offload of a link: %w", err)
		}
		h.conditions.Store(&c)
	}
	return nil
}

// Stats returns the counts of both directions, a to b first.
func (l *Link) Stats() (s [2]LinkStats) {
	for i, h := range l.halves {
		s[i] = LinkStats{h.read.Load(), h.written.Load(), h.lost.Load(), h.full.Load()}
	}
	return s
}

// Close ends both directions and removes both devices.
func (l *Link) Close() error {
	err := l.stop[1].Close()
	l.running.Wait()
	return errors.Join(err, l.stop[0].Close(), unix.Close(l.ends[0]), unix.Close(l.ends[1]))
}

// tun opens a TUN device with virtio headers in the namespace and returns its descriptor.
func (n *Namespace) tun(name string) (fd int, err error) {
	err = n.Do(func() error {
		fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("/dev/net/tun: %w", err)
		}
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return errors.Join(fmt.Errorf("make %s: %w", name, err), unix.Close(fd))
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		return netlink.LinkSetTxQLen(link, 8192)
	})
	return fd, err
}

// half is one direction. Everything but the counters and conditions is its thread's own.
type half struct {
	in, out, stop int
	ring          *ring
	random        *rand.Rand
	free          int64 // when the wire has sent what it has to, for Rate

	conditions                atomic.Pointer[Conditions]
	read, written, lost, full atomic.Uint64
}

func (h *half) run() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0) // 1 µs; without it the link is 50 µs late
	poll := []unix.PollFd{{Fd: int32(h.in), Events: unix.POLLIN}, {Fd: int32(h.stop), Events: unix.POLLIN}}
	for {
		if _, err := unix.Ppoll(poll, h.wait(), nil); err != nil && err != unix.EINTR {
			return
		}
		if poll[1].Revents != 0 {
			return
		}
		if poll[0].Revents != 0 {
			h.receive()
		}
		h.deliver(monotonic())
	}
}

// wait is how long to sleep if nothing comes: until the oldest packet is due.
func (h *half) wait() *unix.Timespec {
	due, _, ok := h.ring.front()
	if !ok {
		return nil
	}
	ts := unix.NsecToTimespec(max(0, due-monotonic()))
	return &ts
}

// receive takes what waits at the device, at most 64 packets so that due ones are not late.
func (h *half) receive() {
	now, c := monotonic(), *h.conditions.Load()
	for range 64 {
		p := h.ring.reserve(maxPacket)
		if p == nil {
			h.full.Add(1) // the device's own queue holds them meanwhile
			return
		}
		n, err := unix.Read(h.in, p)
		if err != nil || n <= 0 {
			return
		}
		h.read.Add(1)
		due, ok := h.schedule(now, n, c)
		if !ok {
			h.lost.Add(1)
			continue
		}
		h.ring.commit(due, n)
	}
}

// schedule says when a packet of n bytes arrives at the other end, or that it is lost.
func (h *half) schedule(now int64, n int, c Conditions) (due int64, ok bool) {
	if c.Loss > 0 && h.random.Float64() < c.Loss {
		return 0, false
	}
	if c.Rate <= 0 {
		return now + int64(c.Delay), true
	}
	h.free = max(h.free, now)
	if waiting := float64(h.free-now) * c.Rate / 8e9; waiting > queueLimit {
		return 0, false
	}
	h.free += int64(float64(n) * 8e9 / c.Rate)
	return h.free + int64(c.Delay), true
}

func (h *half) deliver(now int64) {
	for {
		due, p, ok := h.ring.front()
		if !ok || due > now {
			return
		}
		if _, err := unix.Write(h.out, p); err == nil {
			h.written.Add(1)
		} else {
			h.lost.Add(1) // the other end is down, or its queue is full
		}
		h.ring.pop()
	}
}

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // can't fail with this clock
	return ts.Nano()
}
