package agent

import (
	"fmt"
	"net/netip"
	"slices"
)

// public is a service's address as the catalogue gives it.
type public struct {
	service string
	addr    netip.AddrPort
}

// protectable chooses, from what a catalogue asks for, what the agent takes in. A fleet may protect its own services,
// not the machine's way to the network: whatever could be used to catch other traffic is left out, with the reason.
func protectable(ask []public, accept []netip.Prefix, own []netip.Addr) (take []netip.AddrPort, refused []string) {
	for _, p := range ask {
		if why := unfit(p.addr, accept, own); why != "" {
			refused = append(refused, fmt.Sprintf("%s of service %s: %s", p.addr, p.service, why))
			continue
		}
		take = append(take, p.addr)
	}
	slices.SortFunc(take, netip.AddrPort.Compare)
	return slices.Compact(take), refused
}

func unfit(ap netip.AddrPort, accept []netip.Prefix, own []netip.Addr) string {
	a := ap.Addr()
	switch {
	case !a.IsValid() || a.IsUnspecified():
		return "no address"
	case ap.Port() == 0:
		return "no port"
	case a.Is4In6() || a.Zone() != "":
		return "an address with a zone, or an IPv4 address written as IPv6"
	case a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast():
		return "no address of another host"
	case slices.Contains(own, a):
		return "this machine's own gateway or resolver"
	case len(accept) > 0 && !slices.ContainsFunc(accept, func(p netip.Prefix) bool { return p.Contains(a) }):
		return "not within accept"
	}
	return ""
}
