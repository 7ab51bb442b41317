package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Policy routing by source, for a protected address P:PORT and the TUN's own address T:
//
//	IPv4  5200 from T         to P ipproto tcp dport PORT                       lookup 5300
//	      5200 from 0.0.0.0   to P ipproto tcp dport PORT fwmark 0/0x2000000    lookup 5300
//	IPv6  5198 from T         to P ipproto tcp dport PORT                       lookup 5300
//	      5199 from ::/1      to P ipproto tcp dport PORT                       lookup main
//	      5199 from 8000::/1  to P ipproto tcp dport PORT                       lookup main
//	      5200                to P ipproto tcp dport PORT fwmark 0/0x2000000    lookup 5300
//	table 5300: P dev DEVICE src T
//
// A new connect() has no source yet: it looks up 5300 and gets T. Its later packets come from T. Whatever chose
// another source earlier stays where it is, with the routes as they change, so connections that were open
// before go on. (IPv6 rules cannot ask for "no source yet": there two half-spaces ask for any.)
// The agent's own sockets carry the mark.
//
// The table's only routes are on the TUN and vanish with it; the rules then lead nowhere and the main table
// decides. Rules need Linux 4.17 for ipproto and dport.
const (
	prefFromTUN   = 5198
	prefHasSource = 5199
	prefNew       = 5200
	table         = 5300
	markBit       = 0x2000000
	ours          = 77 // rule and route protocol: the mark of what we may delete
)

var (
	anySource4 = netip.MustParsePrefix("0.0.0.0/32")
	anySource6 = []netip.Prefix{netip.MustParsePrefix("::/1"), netip.MustParsePrefix("8000::/1")}
)

// rulesFor lists the rules of one protected address and port, in the order in which to add them: the last is
// what captures new connections.
func rulesFor(p netip.AddrPort, tun netip.Addr) []*netlink.Rule {
	fresh := rule(p, prefNew, table)
	fresh.Mark, fresh.Mask = 0, new(uint32(markBit))
	fromTUN := rule(p, prefFromTUN, table)
	fromTUN.Src = ipNet(netip.PrefixFrom(tun, tun.BitLen()))
	if p.Addr().Is4() {
		fromTUN.Priority = prefNew
		fresh.Src = ipNet(anySource4)
		return []*netlink.Rule{fromTUN, fresh}
	}
	rules := []*netlink.Rule{fromTUN}
	for _, half := range anySource6 {
		r := rule(p, prefHasSource, unix.RT_TABLE_MAIN)
		r.Src = ipNet(half)
		rules = append(rules, r)
	}
	return append(rules, fresh)
}

func rule(p netip.AddrPort, pref, table int) *netlink.Rule {
	r := netlink.NewRule() // the zero Rule means other things
	r.Family = family(p.Addr())
	r.Priority, r.Table, r.Protocol = pref, table, ours
	r.Dst = ipNet(netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
	r.IPProto, r.Dport = unix.IPPROTO_TCP, netlink.NewRulePortRange(p.Port(), p.Port())
	return r
}

func routeTo(p netip.Addr, link int, tun netip.Addr) *netlink.Route {
	return &netlink.Route{
		Family:    family(p),
		LinkIndex: link,
		Dst:       ipNet(netip.PrefixFrom(p, p.BitLen())),
		Src:       tun.AsSlice(),
		Table:     table,
		Protocol:  ours,
	}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// protect adds route and rules; what exists already is taken as done.
func (h *host) protect(p netip.AddrPort) error {
	tun := h.tunFor(p.Addr())
	if err := h.nl.RouteReplace(routeTo(p.Addr(), h.link, tun)); err != nil {
		return fmt.Errorf("route %v into %s: %w", p.Addr(), h.cfg.Device, err)
	}
	for _, r := range rulesFor(p, tun) {
		if err := h.nl.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("rule for %v: %w (needs CAP_NET_ADMIN and Linux 4.17)", p, err)
		}
	}
	return nil
}

// unprotect deletes the rules of p, and the route unless another port of the address needs it.
func (h *host) unprotect(p netip.AddrPort, lastOfAddr bool) error {
	tun := h.tunFor(p.Addr())
	var errs []error
	rules := rulesFor(p, tun)
	for i := range rules { // backwards: the capture of new connections ends first
		if err := h.nl.RuleDel(rules[len(rules)-1-i]); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("delete rule for %v: %w", p, err))
		}
	}
	if lastOfAddr {
		if err := h.nl.RouteDel(routeTo(p.Addr(), h.link, tun)); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("delete route to %v: %w", p.Addr(), err))
		}
	}
	return errors.Join(errs...)
}

// gone reports that what should be deleted is not there; routes vanish with their device.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV)
}
