package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// dropPriority is before every rule of the lab but the kernel's own table of local addresses.
const dropPriority = 100

// Drop makes a router drop, without a word, what it would pass on from one prefix to another; a prefix that is not
// valid is everywhere. undo ends it.
func (n *Namespace) Drop(from, to netip.Prefix) (undo func() error, err error) {
	return n.rule(func(r *netlink.Rule) {
		r.Type = nl.FR_ACT_BLACKHOLE
		if from.IsValid() {
			r.Src = ipNet(from)
		}
		if to.IsValid() {
			r.Dst = ipNet(to)
		}
	}, from.IsValid() && from.Addr().Is6() || to.IsValid() && to.Addr().Is6())
}

// DropICMP makes a router pass on no ICMP and send none itself: what a firewall does that breaks path MTU discovery.
func (n *Namespace) DropICMP() (undo func() error, err error) {
	return n.rule(func(r *netlink.Rule) { r.Type, r.IPProto = nl.FR_ACT_BLACKHOLE, unix.IPPROTO_ICMP }, false)
}

func (n *Namespace) rule(fill func(*netlink.Rule), six bool) (undo func() error, err error) {
	r := netlink.NewRule()
	r.Priority, r.Family = dropPriority, unix.AF_INET
	if six {
		r.Family = unix.AF_INET6
	}
	fill(r)
	err = n.Do(func() error {
		if err := netlink.RuleAdd(r); err != nil {
			return fmt.Errorf("rule %v: %w", r, err)
		}
		return nil
	})
	return func() error { return n.Do(func() error { return netlink.RuleDel(r) }) }, err
}

// MTU sets how long a packet may be that leaves by an interface.
func (n *Namespace) MTU(dev string, mtu int) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(dev)
		if err != nil {
			return fmt.Errorf("%s: %w", dev, err)
		}
		return netlink.LinkSetMTU(link, mtu)
	})
}

// Own makes every address of a prefix the namespace's own: programs in it may use any of them.
func (n *Namespace) Own(p netip.Prefix) error {
	return n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{
			Dst: ipNet(p), LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		})
	})
}

// Readdress takes an address from an interface and gives it another: what was open from the old one is cut off, as when a
// laptop changes from one network to another.
func (n *Namespace) Readdress(dev string, from, to netip.Prefix) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(dev)
		if err != nil {
			return fmt.Errorf("%s: %w", dev, err)
		}
		for _, step := range []struct {
			do func(netlink.Link, *netlink.Addr) error
			p  netip.Prefix
		}{{netlink.AddrAdd, to}, {netlink.AddrDel, from}} {
			a := &netlink.Addr{IPNet: ipNet(step.p)}
			if step.p.Addr().Is6() {
				a.Flags = unix.IFA_F_NODAD
			}
			if err := step.do(link, a); err != nil {
				return fmt.Errorf("%s on %s: %w", step.p, dev, err)
			}
		}
		return nil
	})
}

// Sizes of <linux/inet_diag.h>: a request is family, protocol, two more bytes, states and the socket's identity, which is
// ports, addresses, interface and cookie.
const (
	sockIDLen   = 48
	sockIDInMsg = 4
	sockIDInReq = 8
	statesInReq = 4
)

type sockRequest [sockIDInReq + sockIDLen]byte

func (r *sockRequest) Len() int          { return len(r) }
func (r *sockRequest) Serialize() []byte { return r[:] }

// ResetTCP resets every connection of the namespace that was accepted on a local port: the far end gets a RST, the program
// here an error. It says how many there were.
func (n *Namespace) ResetTCP(port uint16) (count int, err error) {
	err = n.Do(func() error {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			found, err := connections(family, port)
			if err != nil {
				return err
			}
			for i := range found {
				req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
				req.AddData(&found[i])
				_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
				if errors.Is(err, unix.ENOENT) {
					continue // it ended meanwhile
				}
				if err != nil {
					return fmt.Errorf("reset a connection: %w (needs CONFIG_INET_DIAG_DESTROY)", err)
				}
				count++
			}
		}
		return nil
	})
	return count, err
}

// connections are the established connections with a local port.
func connections(family byte, port uint16) (found []sockRequest, err error) {
	var all sockRequest
	all[0], all[1] = family, unix.IPPROTO_TCP
	nl.NativeEndian().PutUint32(all[statesInReq:], 1<<1) // TCP_ESTABLISHED
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(&all)
	err = req.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
		if len(msg) < sockIDInMsg+sockIDLen {
			return false
		}
		id := msg[sockIDInMsg : sockIDInMsg+sockIDLen]
		if uint16(id[0])<<8|uint16(id[1]) == port {
			r := sockRequest{0: family, 1: unix.IPPROTO_TCP}
			copy(r[sockIDInReq:], id)
			found = append(found, r)
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list TCP sockets: %w", err)
	}
	return found, nil
}
