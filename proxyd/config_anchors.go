package proxyd

import (
	"fmt"
	"net/netip"
	"slices"
)

// relayPorts checks that nothing else of the fleet listens where edges pass data links on to a node.
func (c *checker) relayPorts() {
	taken := map[netip.AddrPort]string{}
	for _, n := range c.cfg.Nodes {
		taken[n.Backplane] = fmt.Sprintf("the backplane port of node %q", n.Name)
		for _, a := range n.Public {
			taken[netip.AddrPortFrom(a, n.LinkPort)] = fmt.Sprintf("the link port of node %q", n.Name)
		}
	}
	for _, s := range c.cfg.Services {
		for _, p := range s.Public {
			taken[p] = fmt.Sprintf("an address of service %q", s.Name)
		}
	}
	for i, n := range c.cfg.Nodes {
		at := fmt.Sprintf("node[%d].relay_ports", i)
		switch {
		case !n.Backplane.IsValid(): // said already
			continue
		case !n.relays() && len(n.RelayPorts) > 0:
			c.wrong(at, fmt.Sprintf("no data link ends at a node of kind %q", n.Kind), "remove it")
			continue
		case n.relays() && len(n.RelayPorts) == 0:
			c.wrong(at, "missing, and there are not four ports after the backplane's", schema["node.relay_ports"].fix)
		case len(n.RelayPorts) > 64:
			c.wrong(at, "more than 64", "remove some: one port gives each edge about 28,000 connections")
		}
		for _, port := range n.RelayPorts {
			p := netip.AddrPortFrom(n.Backplane.Addr(), port)
			if port == 0 {
				c.wrong(at, "0 is no port", schema["node.relay_ports"].fix)
			} else if what, ok := taken[p]; ok {
				c.wrong(at, fmt.Sprintf("%s is also %s", p, what), "use another port")
			}
			taken[p] = fmt.Sprintf("a relay port of node %q", n.Name)
		}
	}
}

// anchors checks who may end the sessions of services.
func (c *checker) anchors() {
	for i, s := range c.cfg.Services {
		seen := map[string]bool{}
		for j, name := range s.Anchors {
			at := fmt.Sprintf("service[%d].anchors[%d]", i, j)
			k := slices.IndexFunc(c.cfg.Nodes, func(n NodeConfig) bool { return n.Name == name })
			switch {
			case seen[name]:
				c.wrong(at, fmt.Sprintf("%q twice", name), "remove one")
			case k < 0:
				c.wrong(at, fmt.Sprintf("there is no node %q", name), "declare it as [[node]], or correct the name")
			case !c.cfg.Nodes[k].relays():
				c.wrong(at, fmt.Sprintf("%q is of kind %q", name, c.cfg.Nodes[k].Kind), "anchors are nodes of kind anchor, or edges: entry or hidden")
			}
			seen[name] = true
		}
	}
}
