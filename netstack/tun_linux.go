package netstack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	tunPath = "/dev/net/tun"

	busyPatience = 500 * time.Millisecond

	// Offload flags of <linux/if_tun.h>.
	tunFCsum = 1
	tunFTSO4 = 2
	tunFTSO6 = 4
)

// rung is one way to run a TUN; the ladder goes from the fastest to what any kernel can do.
type rung struct {
	offload bool
	mtu     int // 0 is the MTU asked for
}

// Without offload a large MTU stands in for it: four times slower, where MTU 1500 is twelve times slower.
var ladder = []rung{{offload: true}, {mtu: 65535}, {mtu: 9000}, {}}

// tunDevice is a TUN of the kernel.
type tunDevice struct {
	name string
	ep   *tunEndpoint
}

func (d *tunDevice) Name() string                     { return d.name }
func (d *tunDevice) LinkEndpoint() stack.LinkEndpoint { return d.ep }
func (d *tunDevice) Err() error                       { return d.ep.err() }
func (d *tunDevice) Close() error                     { return d.ep.close() }

func openTUN(name string, mtu int) (Device, error) { return climb(name, mtu, ladder) }

func climb(name string, mtu int, rungs []rung) (Device, error) {
	return climbWith(func(r rung) (*tunDevice, error) { return openRung(name, mtu, r) }, rungs)
}

// climbWith opens the first rung that works. Missing rights and a missing device file are the same on each.
func climbWith(open func(rung) (*tunDevice, error), rungs []rung) (Device, error) {
	var all []error
	for _, r := range rungs {
		d, err := open(r)
		if err == nil {
			return d, nil
		}
		all = append(all, err)
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, errors.Join(all...)
}

func openRung(name string, mtu int, r rung) (*tunDevice, error) {
	if r.mtu != 0 {
		mtu = r.mtu
	}
	fd, err := createTUN(name, r.offload)
	if err != nil {
		return nil, err
	}
	if r.offload {
		if err := enableOffload(fd); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("offload on %s: %w", name, err)
		}
	}
	if err := setMTU(name, mtu); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set MTU %d on %s: %w", mtu, name, err)
	}
	f := os.NewFile(uintptr(fd), tunPath) // non-blocking, so reads park in the runtime's poller
	ep, err := newTUNEndpoint(f, fd, uint32(mtu), r.offload)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("poll %s: %w", name, err)
	}
	return &tunDevice{name: name, ep: ep}, nil
}

func createTUN(name string, vnetHdr bool) (int, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w (%s)", tunPath, err, remedy(err))
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("device name %q: %w (at most 15 bytes)", name, err)
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if vnetHdr {
		flags |= unix.IFF_VNET_HDR
	}
	ifr.SetUint16(flags)
	if err := attach(fd, ifr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("create TUN %s: %w (%s)", name, err, remedy(err))
	}
	return fd, nil
}

// attach creates the interface. A predecessor that was just killed may hold the name for a moment longer.
func attach(fd int, ifr *unix.Ifreq) error {
	start := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		if !errors.Is(err, unix.EBUSY) || time.Since(start) > busyPatience {
			return err
		}
		<-tick.C
	}
}

// remedy says what to do about a TUN that cannot be had.
func remedy(err error) string {
	switch {
	case errors.Is(err, unix.ENOENT):
		return "mkdir -p /dev/net && mknod /dev/net/tun c 10 200; in compose.yaml add: devices: [\"/dev/net/tun:/dev/net/tun\"] and cap_add: [NET_ADMIN]"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return "the kernel has no TUN driver loaded: modprobe tun"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "needs CAP_NET_ADMIN: run as root; in compose.yaml add: cap_add: [NET_ADMIN] and devices: [\"/dev/net/tun:/dev/net/tun\"]"
	case errors.Is(err, unix.EBUSY):
		return "another process holds this device: stop it, or choose another device name"
	default:
		return "see ip link"
	}
}

// enableOffload asks the kernel for whole super-segments without checksums, and tries whether it takes them.
func enableOffload(fd int) error {
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tunFCsum|tunFTSO4|tunFTSO6); err != nil {
		return err
	}
	// Some kernels (Linux 6.6.44 and its relatives) refuse valid headers with EINVAL. The header is checked
	// before the device's state: as the device is still down, EIO is the good answer and nothing is sent.
	if _, err := unix.Write(fd, gsoProbe()); err != nil && !errors.Is(err, unix.EIO) {
		return fmt.Errorf("segmentation probe: %w", err)
	}
	return nil
}

// gsoProbe is a virtio header and an IPv4 TCP super-segment of three segments from loopback to loopback.
func gsoProbe() []byte {
	const ipLen, tcpLen, payload = 20, 20, 300
	p := make([]byte, vnetHdrLen+ipLen+tcpLen+payload)
	vnetHdr{flags: vnetNeedsCsum, gsoType: vnetGSOTCPv4, hdrLen: ipLen + tcpLen, gsoSize: payload / 3, csumStart: ipLen, csumOffset: 16}.put(p)
	ip := p[vnetHdrLen:]
	ip[0], ip[3], ip[8], ip[9] = 0x45, byte((ipLen+tcpLen+payload)&0xff), 64, unix.IPPROTO_TCP
	ip[2] = (ipLen + tcpLen + payload) >> 8
	copy(ip[12:], []byte{127, 0, 0, 1, 127, 0, 0, 1})
	ip[ipLen+12] = tcpLen / 4 << 4
	return p
}

func setMTU(name string, mtu int) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint32(uint32(mtu))
	return unix.IoctlIfreq(s, unix.SIOCSIFMTU, ifr)
}
