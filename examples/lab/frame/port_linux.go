package frame

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Port sends and receives whole frames on the interface that leads to one address.
type Port struct {
	SrcMAC, DstMAC net.HardwareAddr // ours, and the next hop's
	Src            netip.Addr       // the address the kernel would use
	fd             int
	messages       [Batch]mmsghdr
	vectors        [Batch]unix.Iovec
}

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	header unix.Msghdr
	sent   uint32
}

// OpenPort opens a packet socket on the way to dst, in the calling thread's namespace. A Port with
// receive gets every frame that comes in; without, none.
func OpenPort(dst netip.Addr, receive bool) (*Port, error) {
	routes, err := netlink.RouteGet(dst.AsSlice())
	if err != nil {
		return nil, fmt.Errorf("no route to %s: %w", dst, err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return nil, err
	}
	p := &Port{SrcMAC: link.Attrs().HardwareAddr}
	p.Src, _ = netip.AddrFromSlice(routes[0].Src)
	p.Src = p.Src.Unmap()
	hop := dst
	if gw, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		hop = gw.Unmap()
	}
	if p.DstMAC, err = neighbour(link, hop); err != nil {
		return nil, err
	}
	protocol := 0
	if receive {
		protocol = unix.ETH_P_ALL // a socket bound to one protocol sees nothing behind some filters
	}
	p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w (needs CAP_NET_RAW)", err)
	}
	// Best effort: our own frames should not come back, and a full buffer is only counted.
	_ = unix.SetsockoptInt(p.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	_ = unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20)
	err = unix.Bind(p.fd, &unix.SockaddrLinklayer{
		Protocol: uint16(protocol)<<8 | uint16(protocol)>>8, Ifindex: link.Attrs().Index,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bind to %s: %w", link.Attrs().Name, err), unix.Close(p.fd))
	}
	return p, nil
}

// resolveLimit is how long the kernel may ask for a neighbour.
const resolveLimit = 2 * time.Second

// neighbour finds the next hop's hardware address. The neighbours of the lab in namespaces are permanent; in a container the kernel
// is made to ask for them.
func neighbour(link netlink.Link, hop netip.Addr) (net.HardwareAddr, error) {
	until := time.Now().Add(resolveLimit)
	for asked := false; ; asked = true {
		all, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("neighbours: %w", err)
		}
		for _, n := range all {
			if a, ok := netip.AddrFromSlice(n.IP); ok && a.Unmap() == hop && len(n.HardwareAddr) == 6 {
				return n.HardwareAddr, nil
			}
		}
		if time.Now().After(until) {
			return nil, fmt.Errorf("the hardware address of the next hop %s is not known on %s", hop, link.Attrs().Name)
		}
		if !asked {
			if err := provoke(hop); err != nil {
				return nil, err
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// provoke sends the neighbour a packet that it throws away (the discard port), so that the kernel looks for it.
func provoke(hop netip.Addr) error {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(hop, 9)))
	if err != nil {
		return fmt.Errorf("look for the next hop %s: %w", hop, err)
	}
	_, err = c.Write([]byte{0})
	return errors.Join(err, c.Close())
}

// Send sends up to Batch frames with one system call and says how many went out.
func (p *Port) Send(frames [][]byte) (int, error) {
	frames = frames[:min(len(frames), Batch)]
	for i, f := range frames {
		p.vectors[i].Base = &f[0]
		p.vectors[i].SetLen(len(f))
		p.messages[i].header.Iov = &p.vectors[i]
		p.messages[i].header.Iovlen = 1
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(p.fd), uintptr(unsafe.Pointer(&p.messages[0])), uintptr(len(frames)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Receive reads one frame into b, waiting at most for limit; n is 0 when none came.
func (p *Port) Receive(b []byte, limit time.Duration) (n int, err error) {
	poll := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	ts := unix.NsecToTimespec(int64(max(0, limit)))
	if ready, err := unix.Ppoll(poll, &ts, nil); ready == 0 || err != nil {
		if err == unix.EINTR {
			err = nil
		}
		return 0, err
	}
	n, _, err = unix.Recvfrom(p.fd, b, unix.MSG_DONTWAIT)
	if err == unix.EAGAIN {
		return 0, nil
	}
	return n, err
}

// Dropped is how many frames the kernel dropped because Receive was late, since the last call.
func (p *Port) Dropped() (uint32, error) {
	s, err := unix.GetsockoptTpacketStats(p.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, err
	}
	return s.Drops, nil
}

// Close closes the socket.
func (p *Port) Close() error { return unix.Close(p.fd) }
