package kernel

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Plug is one end of a wire: an interface name in a namespace, and the prefixes it gets.
type Plug struct {
	In    *Namespace
	Name  string
	Addrs []netip.Prefix
	MAC   net.HardwareAddr // chosen by Veth when nil
}

// macs numbers the interfaces, so that two runs have the same addresses. Guarded by building the
// lab from one goroutine.
var macs uint16

func nextMAC() net.HardwareAddr {
	macs++
	return net.HardwareAddr{0x02, 0, 0, 0, byte(macs >> 8), byte(macs)}
}

// Veth joins two namespaces by a pair of virtual Ethernet interfaces and fills in their MACs.
func Veth(a, b *Plug) error {
	a.MAC, b.MAC = nextMAC(), nextMAC()
	err := a.In.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.TxQLen = a.Name, a.MAC, 1000
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: b.Name, PeerHardwareAddr: b.MAC,
			PeerNamespace: netlink.NsFd(int(b.In.file.Fd())),
		})
	})
	if err != nil {
		return fmt.Errorf("veth %s/%s: %w", a.Name, b.Name, err)
	}
	for _, p := range []*Plug{a, b} {
		if err := p.In.Up(p.Name, p.Addrs...); err != nil {
			return err
		}
	}
	return nil
}

// Unplug removes an interface, and the other end of its wire.
func (n *Namespace) Unplug(dev string) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(dev)
		if err != nil {
			return fmt.Errorf("%s: %w", dev, err)
		}
		return netlink.LinkDel(link)
	})
}

// Bridge makes a bridge in n. Ports are added to it with Attach.
func (n *Namespace) Bridge(name string) error {
	err := n.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	if err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	return n.Up(name)
}

// Attach makes an interface of n a port of its bridge.
func (n *Namespace) Attach(port, bridge string) error {
	return n.Do(func() error {
		p, err := netlink.LinkByName(port)
		if err != nil {
			return fmt.Errorf("%s: %w", port, err)
		}
		b, err := netlink.LinkByName(bridge)
		if err != nil {
			return fmt.Errorf("%s: %w", bridge, err)
		}
		return netlink.LinkSetMaster(p, b)
	})
}

// Up gives an interface its addresses, without duplicate address detection, and sets it up.
func (n *Namespace) Up(name string, addrs ...netip.Prefix) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, p := range addrs {
			a := &netlink.Addr{IPNet: ipNet(p)}
			if p.Addr().Is6() {
				a.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(link, a); err != nil {
				return fmt.Errorf("%s on %s: %w", p, name, err)
			}
		}
		return netlink.LinkSetUp(link)
	})
}

// Route is one line of a routing table; Via or Src may be the zero Addr.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
	Dev string
	Src netip.Addr
}

// Route adds a route. The next hop need not be on a network of the interface (onlink).
func (n *Namespace) Route(r Route) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(r.Dev)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Dev, err)
		}
		x := &netlink.Route{Dst: ipNet(r.To), LinkIndex: link.Attrs().Index}
		if r.Via.IsValid() {
			x.Gw = r.Via.AsSlice()
			x.SetFlag(netlink.FLAG_ONLINK)
		} else {
			x.Scope = netlink.SCOPE_LINK
		}
		if r.Src.IsValid() {
			x.Src = r.Src.AsSlice()
		}
		if err := netlink.RouteReplace(x); err != nil {
			return fmt.Errorf("route %s via %s dev %s: %w", r.To, r.Via, r.Dev, err)
		}
		return nil
	})
}

// Neighbour makes a permanent entry: no address resolution, so no flood can lose it.
func (n *Namespace) Neighbour(dev string, addr netip.Addr, mac net.HardwareAddr) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(dev)
		if err != nil {
			return fmt.Errorf("%s: %w", dev, err)
		}
		err = netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: addr.AsSlice(), HardwareAddr: mac,
		})
		if err != nil {
			return fmt.Errorf("neighbour %s: %w", addr, err)
		}
		return nil
	})
}

// Traffic counts an interface's packets as its namespace sees them.
type Traffic struct{ RxPackets, TxPackets, RxBytes, TxBytes uint64 }

// Traffic reads an interface's counters.
func (n *Namespace) Traffic(dev string) (t Traffic, err error) {
	err = n.Do(func() error {
		link, err := netlink.LinkByName(dev)
		if err != nil {
			return fmt.Errorf("%s: %w", dev, err)
		}
		if s := link.Attrs().Statistics; s != nil {
			t = Traffic{s.RxPackets, s.TxPackets, s.RxBytes, s.TxBytes}
		}
		return nil
	})
	return t, err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
