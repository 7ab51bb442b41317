package capture

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"migrationsensor/examples/lab/kernel"
)

// maxPackets bounds what a Capture keeps: the newest.
const maxPackets = 1 << 16

// Capture keeps what passes an interface until it is closed.
type Capture struct {
	file    *os.File
	raw     syscall.RawConn
	reading sync.WaitGroup

	mu      sync.Mutex
	packets []Packet
}

// Open captures at an interface of a machine that has no link layer, as the lab's links have none.
func Open(ns *kernel.Namespace, ifname string) (*Capture, error) {
	fd := -1
	err := ns.Do(func() (err error) {
		fd, err = open(ifname)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture at %s of %s: %w", ifname, ns.Name, err)
	}
	c := &Capture{file: os.NewFile(uintptr(fd), "capture")}
	if c.raw, err = c.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, c.file.Close())
	}
	c.reading.Go(c.read)
	return c, nil
}

func open(ifname string) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w (needs CAP_NET_RAW)", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	// Time stamps are the kernel's: this program reads when it gets to it.
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return -1, fmt.Errorf("time stamps: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20) // as much as is allowed
	ifr, err := unix.NewIfreq(ifname)
	if err != nil {
		return -1, err
	}
	if err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return -1, err
	}
	const all = unix.ETH_P_ALL
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: int(ifr.Uint32())})
}

// read waits for packets, so that the kernel's queue does not fill.
func (c *Capture) read() {
	for c.raw.Read(func(fd uintptr) bool { return c.drain(int(fd)) }) == nil {
	}
}

// drain takes all that the kernel has, and reports whether that was anything.
func (c *Capture) drain(fd int) (any bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b, oob [128]byte
	for {
		n, noob, _, from, err := unix.Recvmsg(fd, b[:], oob[:], unix.MSG_DONTWAIT)
		switch err {
		case nil:
			c.addLocked(b[:n], oob[:noob], from)
			any = true
		case unix.EINTR:
		default:
			return any // nothing more for now; what ends the capture is seen by the poller
		}
	}
}

func (c *Capture) addLocked(b, oob []byte, from unix.Sockaddr) {
	link, ok := from.(*unix.SockaddrLinklayer)
	src, dst, p, parsed := parse(b)
	if !ok || !parsed {
		return
	}
	p.At = stamp(oob)
	if p.Out = link.Pkttype == unix.PACKET_OUTGOING; p.Out {
		p.Local, p.Remote = src, dst
	} else {
		p.Local, p.Remote = dst, src
	}
	if len(c.packets) == maxPackets {
		c.packets = append(c.packets[:0], c.packets[maxPackets/2:]...)
	}
	c.packets = append(c.packets, p)
}

// stamp is the kernel's time of a packet, or now.
func stamp(oob []byte) time.Time {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Now()
	}
	for _, m := range all {
		if m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			ts := (*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			return time.Unix(ts.Unix())
		}
	}
	return time.Now()
}

// Between returns what passed in a time, in order.
func (c *Capture) Between(from, to time.Time) (out []Packet) {
	from, to = from.Round(0), to.Round(0)                    // the kernel's stamps know no monotonic clock
	_ = c.raw.Control(func(fd uintptr) { c.drain(int(fd)) }) // closed: all is here
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.packets {
		if !p.At.Before(from) && !p.At.After(to) {
			out = append(out, p)
		}
	}
	return out
}

// Close ends the capture; what it has stays readable.
func (c *Capture) Close() error {
	err := c.file.Close()
	c.reading.Wait()
	return err
}
