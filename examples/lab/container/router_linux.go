package container

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Router is the internet between clients and proxies. The engine has given it an address in both networks; it takes the one
// that everybody has as default gateway beside it.
type Router struct {
	Gateways []netip.Prefix // its own addresses, with the length of their networks

	// Services is the range that proxies have their addresses in, Hosts are those, and Nobody is an address of it that stands
	// for the rest: packets to it leave, and nobody takes them.
	Services netip.Prefix
	Hosts    []netip.Addr
	Nobody   netip.Addr

	// Back are ranges that belong behind a neighbour: answers to the sources that a flood invents.
	Back map[netip.Prefix]netip.Addr
}

// nobodysMAC is a hardware address that no interface has.
var nobodysMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0xfe}

// Run sets the router up and routes until ctx is done. Nothing is undone: it goes with the container's network.
//
// The range of the proxies is not on link for it: an address that nobody has must be as silent as a proxy that is dark, and
// a neighbour that does not answer would be reported (no route to host). So each proxy has a route of its own, and the rest goes
// to a next hop whose hardware address is known for good and belongs to nobody. A blackhole would be told from a dark proxy by a
// packet whose TTL ends here.
func (r Router) Run(ctx context.Context, say func(string, ...any)) error {
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || string(b) != "1\n" {
		return errors.Join(errors.New(`this container does not forward: add to its service in compose.yaml  sysctls: {net.ipv4.ip_forward: "1"}`), err)
	}
	for _, g := range r.Gateways {
		l, err := linkIn(g.Masked())
		if err != nil {
			return err
		}
		if err := netlink.AddrReplace(l, &netlink.Addr{IPNet: ipNet(g)}); err != nil {
			return explain(fmt.Errorf("address %s: %w", g, err))
		}
		say("router: %s on %s", g, l.Attrs().Name)
	}
	if err := r.unlinkServices(say); err != nil {
		return explain(err)
	}
	for to, via := range r.Back {
		if err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()}); err != nil {
			return explain(fmt.Errorf("route to %s: %w", to, err))
		}
		say("router: %s goes back to %s", to, via)
	}
	if err := Ready(); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// unlinkServices replaces the route that came with the address of the services' network.
func (r Router) unlinkServices(say func(string, ...any)) error {
	l, err := linkIn(r.Services)
	if err != nil {
		return err
	}
	index := l.Attrs().Index
	for _, h := range r.Hosts {
		to := netip.PrefixFrom(h, h.BitLen())
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: ipNet(to), Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("route to %s: %w", h, err)
		}
	}
	neigh := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: r.Nobody.AsSlice(), HardwareAddr: nobodysMAC}
	if err := netlink.NeighSet(neigh); err != nil {
		return fmt.Errorf("neighbour %s: %w", r.Nobody, err)
	}
	all, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: index, Dst: ipNet(r.Services)}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
	if err != nil {
		return fmt.Errorf("routes to %s: %w", r.Services, err)
	}
	rest := netlink.Route{LinkIndex: index, Dst: ipNet(r.Services), Gw: r.Nobody.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
	for _, old := range all {
		if err := netlink.RouteDel(&old); err != nil {
			return fmt.Errorf("remove the route that came with the address: %w", err)
		}
	}
	if err := netlink.RouteReplace(&rest); err != nil {
		return fmt.Errorf("route to nobody: %w", err)
	}
	say("router: %d proxies in %s; the rest of it is nobody's", len(r.Hosts), r.Services)
	return nil
}

// linkIn finds the interface with an address in a network: the engine numbers interfaces as it likes.
func linkIn(p netip.Prefix) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	for _, l := range links {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			return nil, fmt.Errorf("addresses: %w", err)
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && p.Contains(ip) {
				return l, nil
			}
		}
	}
	return nil, fmt.Errorf("no interface is in %s: the container is not in that network", p)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func explain(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: add to this service in compose.yaml  cap_add: [NET_ADMIN]", err)
	}
	return err
}
