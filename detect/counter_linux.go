package detect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// kernelCounter has one packet socket a kind. Its receive buffer is full after the first few packets, and what does not fit
// is only counted: that is the cheapest way to have the kernel count, and it misses nothing. The sockets are a fanout group,
// so that a packet meets one program, which says whose it is, and one socket; what is of no other kind is the first one's, and
// all packets are the sum.
type kernelCounter struct {
	ifname  string
	filters [Kinds][]bpf.RawInstruction // set once
	sorter  []bpf.RawInstruction

	ctl    int        // for ioctl; keeps the network namespace
	index  int        // of the interface that the sockets are bound to
	socks  [Kinds]int // -1: not open
	counts Counts
	closed bool
}

// OpenCounter counts packets that arrive at the interface, all or only those addressed to the
// given addresses. If the interface vanishes and comes back, Read opens it again, in the network
// namespace of its caller.
//
// The kernel keeps 32 bits between two Reads, so Read must come every 5 minutes even at 10
// million packets/s.
func OpenCounter(ifname string, to ...netip.Addr) (Counter, error) {
	c := &kernelCounter{ifname: ifname, ctl: -1, socks: [Kinds]int{-1, -1, -1, -1}}
	var err error
	for k := range Kind(Kinds) {
		if c.filters[k], err = filter(k, to); err != nil {
			return nil, err
		}
	}
	if c.sorter, err = sorter(); err != nil {
		return nil, err
	}
	if c.ctl, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("count packets at %s: %w", ifname, err)
	}
	if err := c.open(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *kernelCounter) Read() (Counts, error) {
	if c.closed {
		return c.counts, net.ErrClosed
	}
	if err := c.collect(); err != nil {
		return c.counts, err
	}
	index, err := c.lookup()
	switch {
	case err != nil:
		c.closeSockets()
	case index != c.index:
		c.closeSockets()
		err = c.open()
	}
	return c.counts, err
}

func (c *kernelCounter) Close() error {
	if c.closed {
		return nil
	}
	c.closed = true
	c.closeSockets()
	if c.ctl < 0 {
		return nil
	}
	return unix.Close(c.ctl)
}

// collect adds what the kernel counted; reading sets the kernel's numbers to 0.
func (c *kernelCounter) collect() error {
	for k, fd := range c.socks {
		if fd < 0 {
			continue
		}
		s, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil {
			return fmt.Errorf("read %s count of %s: %w", Kind(k), c.ifname, err)
		}
		c.counts[k] += uint64(s.Packets) // with those that did not fit
		if Kind(k) != All {
			c.counts[All] += uint64(s.Packets)
		}
	}
	return nil
}

// lookup returns the index that the interface has now.
func (c *kernelCounter) lookup() (int, error) {
	req, err := unix.NewIfreq(c.ifname)
	if err != nil {
		return 0, fmt.Errorf("count packets at %q: bad interface name: %w", c.ifname, err)
	}
	if err := unix.IoctlIfreq(c.ctl, unix.SIOCGIFINDEX, req); err != nil {
		if errors.Is(err, unix.ENODEV) {
			err = fmt.Errorf("%w (%w)", ErrGone, err)
		}
		return 0, fmt.Errorf("count packets at %s: %w", c.ifname, err)
	}
	return int(req.Uint32()), nil
}

func (c *kernelCounter) open() error {
	index, err := c.lookup()
	if err != nil {
		return err
	}
	if err := c.group(index); err != nil {
		c.closeSockets()
		return fmt.Errorf("count packets at %s: %w", c.ifname, remedy(err))
	}
	c.index = index
	return nil
}

// group opens the sockets. They refuse everything until the group is whole, so nothing is counted twice.
func (c *kernelCounter) group(index int) (err error) {
	const kind = unix.PACKET_FANOUT_CBPF | unix.PACKET_FANOUT_FLAG_IGNORE_OUTGOING
	join := kind | unix.PACKET_FANOUT_FLAG_UNIQUEID // the first one has the kernel choose a number
	id := 0
	for k := range c.socks {
		if c.socks[k], err = openCounting(index, []bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K}}); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(c.socks[k], unix.SOL_PACKET, unix.PACKET_FANOUT, id|join<<16); err != nil {
			return fmt.Errorf("join a fanout group: %w", err)
		}
		if id, err = unix.GetsockoptInt(c.socks[k], unix.SOL_PACKET, unix.PACKET_FANOUT); err != nil {
			return fmt.Errorf("number of the fanout group: %w", err)
		}
		id, join = id&0xffff, kind
	}
	if err := attach(c.socks[All], unix.SOL_PACKET, unix.PACKET_FANOUT_DATA, c.sorter); err != nil {
		return err
	}
	for k, f := range c.filters {
		if err := attach(c.socks[k], unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, f); err != nil {
			return err
		}
	}
	return nil
}

func attach(fd, level, option int, f []bpf.RawInstruction) error {
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: (*unix.SockFilter)(unsafe.Pointer(&f[0]))}
	if err := unix.SetsockoptSockFprog(fd, level, option, &prog); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

func (c *kernelCounter) closeSockets() {
	c.index = 0
	for k, fd := range c.socks {
		if fd >= 0 {
			unix.Close(fd)
			c.socks[k] = -1
		}
	}
}

// openCounting opens one socket. It is bound last: before that it receives nothing, so nothing
// that the filter would refuse is counted.
func openCounting(index int, f []bpf.RawInstruction) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			fd = -1
		}
	}()
	if err = attach(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, f); err != nil {
		return fd, err
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return fd, fmt.Errorf("ignore outgoing packets (needs Linux 4.20): %w", err)
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0); err != nil {
		return fd, fmt.Errorf("shrink receive buffer: %w", err)
	}
	// ETH_P_ALL: a socket for one protocol sits behind the ingress hook and would not see
	// what the firewall drops there.
	addr := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}
	if err = unix.Bind(fd, addr); err != nil {
		return fd, fmt.Errorf("bind: %w", err)
	}
	return fd, nil
}

func remedy(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (needs CAP_NET_RAW; in docker compose: cap_add: [NET_RAW])", err)
	}
	return err
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
