package synchecker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// OpenPath opens a port on ifname by the wanted path. PathAuto tries native, generic and AF_PACKET in
// turn. The port sees nothing until Arm. A program ends with the process, however that ends.
func OpenPath(ifname string, f Filter, want Path) (Port, Taken, error) {
	t := Taken{Path: PathPacket}
	switch want {
	case PathAuto, PathNative, PathGeneric, PathPacket:
	default:
		return nil, t, fmt.Errorf("path %q is none of %s, %s, %s, %s", want, PathAuto, PathNative, PathGeneric, PathPacket)
	}
	packets, err := openPackets(ifname, f)
	if err != nil {
		return nil, t, err
	}
	if want == PathPacket {
		return packets, t, nil
	}
	for _, path := range []Path{PathNative, PathGeneric} {
		if want != PathAuto && want != path {
			continue
		}
		var p *xdpPort
		if want == PathAuto && path == PathNative {
			err = mute(ifname)
		}
		if err == nil {
			p, err = openXDP(ifname, f, path, packets)
		}
		if err == nil {
			t.Path = path
			return p, t, nil
		}
		err = fmt.Errorf("%s: %w", path, err)
		if want == path {
			packets.Close()
			return nil, t, fmt.Errorf("packet program on %s: %w", ifname, err)
		}
		t.Why, err = append(t.Why, err.Error()), nil
	}
	return packets, t, nil
}

// mute says whether what a packet program in the driver sends would not arrive. A veth, and containers have these, hands it to its
// peer only if that takes packet programs too, and says nothing.
func mute(ifname string) error {
	l, err := netlink.LinkByName(ifname)
	if err != nil {
		return err
	}
	if l.Type() == "veth" {
		return errors.New("a veth loses the answers unless its peer has a packet program too; where it has, set path = \"xdp-native\"")
	}
	return nil
}

// CanOffload says what keeps this process from loading the packet program; whether a driver takes it shows when it is attached.
// It changes nothing.
func CanOffload() error {
	d, err := newDatapath(Filter{Addrs: []netip.Addr{netip.AddrFrom4([4]byte{198, 18, 0, 1})}, LinkPort: 1}, &net.Interface{Index: 1, HardwareAddr: make(net.HardwareAddr, 6)})
	if err != nil {
		return reason(err, PathGeneric)
	}
	d.close()
	return nil
}

// xdpPort is a Port with the packet program on its interface.
type xdpPort struct {
	*packetPort

	state sync.Mutex // guards what follows
	path  *datapath
	link  link.Link
	ended bool
	last  [stats]uint64 // counters when it was closed
}

var _ Offload = (*xdpPort)(nil)

func openXDP(ifname string, f Filter, path Path, packets *packetPort) (*xdpPort, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, err
	}
	// Kernels before 5.11 count maps as locked memory. Where the limit can't be raised, making them says so.
	limit := rlimit.RemoveMemlock()
	d, err := newDatapath(f, ifi)
	if err != nil {
		return nil, reason(errors.Join(err, limit), path)
	}
	flags := link.XDPDriverMode
	if path == PathGeneric {
		flags = link.XDPGenericMode
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: d.prog, Interface: ifi.Index, Flags: flags})
	if err != nil {
		d.close()
		if id := attachedTo(ifi.Index); id != 0 {
			return nil, fmt.Errorf("another packet program, id %d, is attached already (stop who put it there; if nobody holds it any more: ip link set dev %s xdp off)", id, ifname)
		}
		return nil, reason(err, path)
	}
	return &xdpPort{packetPort: packets, path: d, link: l}, nil
}

// attachedTo is the id of the packet program on an interface; 0: none, or unknown.
func attachedTo(ifindex int) int {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil || l.Attrs().Xdp == nil || !l.Attrs().Xdp.Attached {
		return 0
	}
	return int(l.Attrs().Xdp.ProgId)
}

// reason adds what an operator can do.
func reason(err error, path Path) error {
	native := path == PathNative
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES): // EACCES: the verifier's, who trusts pointers to CAP_PERFMON only
		return fmt.Errorf("%w (needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or root; in docker compose: cap_add: [BPF, PERFMON, NET_ADMIN])", err)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w (needs Linux 5.12 or newer, with BPF)", err)
	case errors.Is(err, unix.EOPNOTSUPP) && native:
		return fmt.Errorf("%w (the driver takes no packet programs, or not with its present offloads: try ethtool -K … lro off gro-hw off)", err)
	case errors.Is(err, unix.EINVAL) && native, errors.Is(err, unix.ERANGE), errors.Is(err, unix.EMSGSIZE):
		return fmt.Errorf("%w (often the MTU is too large for the driver's packet programs: about 3,500 at most)", err)
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w (often too few queues for the driver's packet programs: see ethtool -L)", err)
	}
	return err
}

// Arm implements Port. The program knows first, so that at no time both it and the kernel are mute.
func (p *xdpPort) Arm(m Mode) error {
	err := p.with(func(d *datapath) error {
		if m != Off && d.rules == nil {
			return errors.New("packet program has no rules yet")
		}
		d.mode = m
		return d.commit()
	})
	if err != nil {
		return fmt.Errorf("packet program to mode %v: %w", m, err)
	}
	return p.packetPort.Arm(m)
}

func (p *xdpPort) with(f func(*datapath) error) error {
	p.state.Lock()
	defer p.state.Unlock()
	if p.ended {
		return net.ErrClosed
	}
	return f(p.path)
}

// Offloads implements Offload.
func (p *xdpPort) Offloads() bool { return true }

// Program implements Offload. It also follows the interface's hardware address.
func (p *xdpPort) Program(r Rules) error {
	if err := r.Shares.check(); err != nil {
		return err
	}
	return p.with(func(d *datapath) error {
		if mac, err := p.hardwareAddr(); err == nil {
			d.mac = mac
		}
		return d.program(r)
	})
}

// Gate implements Offload.
func (p *xdpPort) Gate(g Gate) error {
	return p.with(func(d *datapath) error { return d.setGate(g) })
}

// Admit implements Offload.
func (p *xdpPort) Admit(admit []Admission, evict []netip.Addr) error {
	return p.with(func(d *datapath) error { return d.admit(admit, evict) })
}

// Strangers implements Offload.
func (p *xdpPort) Strangers() (out map[netip.Prefix]uint64, err error) {
	err = p.with(func(d *datapath) error {
		out, err = d.whoElse()
		return err
	})
	return out, err
}

// Counts implements Offload.
func (p *xdpPort) Counts() (Packets, error) {
	n, err := p.counts()
	return packetsOf(&n), err
}

// Stats implements Offload.
func (p *xdpPort) Stats() (Stats, error) {
	n, err := p.counts()
	return statsOf(&n), err
}

func (p *xdpPort) counts() ([stats]uint64, error) {
	p.state.Lock()
	defer p.state.Unlock()
	if p.ended {
		return p.last, nil
	}
	return p.path.counts()
}

// Close implements Port: the kernel sees every packet again.
func (p *xdpPort) Close() error {
	p.state.Lock()
	defer p.state.Unlock()
	if p.ended {
		return nil
	}
	last, err := p.path.counts()
	p.last, p.ended = last, true
	err = errors.Join(err, p.link.Close(), p.packetPort.Close()) // the interface may be gone
	p.path.close()
	return err
}
