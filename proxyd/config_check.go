package proxyd

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"migrationsensor/proxyd/synchecker"
)

// maxAllow bounds [firewall] allow: the packet program's table, with room for peers.
const maxAllow = 3072

// checker finds what is wrong with values that are well formed each for itself.
type checker struct {
	file   string
	places map[string]place
	cfg    *Config
	errs   []Mistake
}

// wrong notes a mistake at a path such as node[1].link_port. A path that is not in the file stands
// where its table starts.
func (c *checker) wrong(path, what, fix string) {
	at, ok := c.places[path]
	for p := path; !ok && p != ""; at, ok = c.places[p] {
		p, _ = cutLast(p)
	}
	at.line, at.column = max(at.line, 1), max(at.column, 1)
	c.errs = append(c.errs, Mistake{c.file, at.line, at.column, path, what, fix})
}

func (c *checker) check() {
	c.edge()
	if c.cfg.Fleet == "" {
		if len(c.cfg.Nodes) > 0 || len(c.cfg.Services) > 0 {
			c.wrong("fleet", "services and nodes are declared, but no fleet",
				"this is the signing node: add fleet = \"NAME\"; an edge: remove [[service]] and [[node]], it gets them from the signing node")
		}
		return
	}
	c.name("fleet", c.cfg.Fleet)
	if r := c.cfg.Rescue; r != "" && r != RescueEntries && r != RescueStandby {
		c.wrong("rescue", fmt.Sprintf("%q is neither", r), schema["rescue"].fix)
	}
	c.nodes()
	c.services()
	c.neighbours()
	c.relayPorts()
	c.anchors()
}

// sorted is what was found, from the top of the file down.
func (c *checker) sorted() []Mistake {
	slices.SortStableFunc(c.errs, func(a, b Mistake) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), strings.Compare(a.Key, b.Key))
	})
	return c.errs
}

func (c *checker) edge() {
	cfg := c.cfg
	for _, v := range []struct{ key, value string }{{"state", cfg.State}, {"socket", cfg.Socket}} {
		if !strings.HasPrefix(v.value, "/") {
			c.wrong(v.key, fmt.Sprintf("%q is not an absolute path", v.value), schema[v.key].fix)
		}
	}
	if i := cfg.Detector.Interval.Duration; i < 100*time.Millisecond || i > time.Minute {
		c.wrong("detector.interval", fmt.Sprintf("%s is not between 100ms and 1m", i), schema["detector.interval"].fix)
	}
	th := cfg.Detector.Threshold
	for key, v := range map[string]float64{"all": th.All, "syn": th.SYN, "icmp": th.ICMP, "udp": th.UDP} {
		if !(v >= 0) {
			c.wrong("detector.threshold."+key, fmt.Sprintf("%v is not a rate", v), schema["detector.threshold.all"].fix)
		}
	}
	for key, d := range map[string]Duration{"attack.quiet": cfg.Attack.Quiet, "attack.suspend_after": cfg.Attack.SuspendAfter} {
		if d.Duration < time.Second || d.Duration > 24*time.Hour {
			c.wrong(key, fmt.Sprintf("%s is not between 1s and 24h", d), schema[key].fix)
		}
	}
	if w := cfg.StopWait.Duration; w < 0 || w > time.Minute {
		c.wrong("stop_wait", fmt.Sprintf("%s is not between 0s and 1m", w), schema["stop_wait"].fix)
	}
	if a := cfg.Admission; a.Rate < 0 || a.Rate > 1e6 {
		c.wrong("admission.rate", fmt.Sprintf("%d is not between 0 and 1000000", a.Rate), schema["admission.rate"].fix)
	} else if a.Rate > 0 && (a.Burst < 1 || a.Burst > 1e6) {
		c.wrong("admission.burst", fmt.Sprintf("%d is not between 1 and 1000000", a.Burst), schema["admission.burst"].fix)
	}
	if n := len(cfg.Firewall.Allow); n > maxAllow {
		c.wrong("firewall.allow", fmt.Sprintf("%d prefixes are more than %d", n, maxAllow), "write fewer and larger ones")
	}
	switch synchecker.Path(cfg.SYNChecker.Path) {
	case synchecker.PathAuto, synchecker.PathNative, synchecker.PathGeneric, synchecker.PathPacket:
	default:
		c.wrong("syn_checker.path", fmt.Sprintf("%q is none of them", cfg.SYNChecker.Path), schema["syn_checker.path"].fix)
	}
	_, given := c.places["syn_checker.probability"]
	if p := cfg.SYNChecker.Probability; !(p >= 0 && p <= 1) || given && p == 0 {
		c.wrong("syn_checker.probability", fmt.Sprintf("%v is not above 0 and up to 1", p), schema["syn_checker.probability"].fix)
	}
	if a := cfg.SYNChecker.Answers; !(a >= 1 && a <= 1e9) {
		c.wrong("syn_checker.answers", fmt.Sprintf("%v is not between 1 and 1000000000", a), schema["syn_checker.answers"].fix)
	}
	if p := cfg.SYNChecker.Processor; !(p > 0 && p <= 1) {
		c.wrong("syn_checker.processor", fmt.Sprintf("%v is not above 0 and up to 1", p), schema["syn_checker.processor"].fix)
	}
}

// name checks what goes into certificates and documents.
func (c *checker) name(path, name string) bool {
	ok := name != "" && len(name) <= 63 && !strings.HasPrefix(name, "-")
	for _, r := range name {
		ok = ok && (r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	}
	if !ok {
		c.wrong(path, fmt.Sprintf("%q is not a name", name), "write 1 to 63 letters, digits and hyphens")
	}
	return ok
}

func (c *checker) nodes() {
	seen := map[string]int{}
	addrs := map[string]int{} // public addresses and backplanes, each once
	signers := 0
	for i, n := range c.cfg.Nodes {
		at := fmt.Sprintf("node[%d]", i)
		if first, dup := seen[n.Name]; dup {
			c.wrong(at+".name", fmt.Sprintf("%q is also the name of node[%d]", n.Name, first), "give each node a name of its own")
		}
		if c.name(at+".name", n.Name) {
			seen[n.Name] = i
		}
		c.node(at, n)
		for _, a := range append([]string{n.Backplane.String()}, addrStrings(n.Public)...) {
			if first, dup := addrs[a]; dup && a != (netip.AddrPort{}).String() {
				c.wrong(at, fmt.Sprintf("%s is also an address of node[%d]", a, first), "give each node addresses of its own")
			}
			addrs[a] = i
		}
		if n.Kind == "signer" {
			signers++
		}
	}
	if signers != 1 {
		c.wrong("node", fmt.Sprintf("%d nodes of kind \"signer\"", signers), "declare exactly one: this machine, with its backplane address")
	}
}

func addrStrings(addrs []netip.Addr) []string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = a.String()
	}
	return s
}

func (c *checker) node(at string, n NodeConfig) {
	edge := n.Kind == "entry" || n.Kind == "hidden"
	switch n.Kind {
	case "entry", "hidden", "anchor", "signer":
	default:
		c.wrong(at+".kind", fmt.Sprintf("%q is no kind of node", n.Kind), schema["node.kind"].fix)
	}
	v4, v6 := 0, 0
	for i, a := range n.Public {
		item := fmt.Sprintf("%s.public[%d]", at, i)
		if a.Is4() {
			v4++
		} else {
			v6++
		}
		if !usable(a) || a.Is4In6() || a.Zone() != "" {
			c.wrong(item, a.String()+" cannot be a public address", schema["node.public"].fix)
		}
	}
	switch {
	case v4 > 1 || v6 > 1:
		c.wrong(at+".public", "more than one IPv4 or IPv6 address", schema["node.public"].fix)
	case edge && v4+v6 == 0:
		c.wrong(at+".public", "an edge without a public address", schema["node.public"].fix)
	case !edge && v4+v6 > 0:
		c.wrong(at+".public", "kind "+strconv.Quote(n.Kind)+" has no public address", "remove it")
	}
	if !n.Backplane.IsValid() || !usable(n.Backplane.Addr()) || n.Backplane.Port() == 0 {
		c.wrong(at+".backplane", "missing, or not an address with port that peers can dial", schema["node.backplane"].fix)
	}
	if edge && slices.Contains(n.Public, n.Backplane.Addr()) && n.Backplane.Port() == n.LinkPort {
		c.wrong(at+".link_port", "is also the backplane port of this address", "use another port")
	}
	if !edge && len(n.Neighbours) > 0 {
		c.wrong(at+".neighbours", "only edges have neighbours", "remove it")
	}
}

func usable(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() }

func (c *checker) neighbours() {
	for i, n := range c.cfg.Nodes {
		seen := map[string]bool{}
		if len(n.Neighbours) > 255 { // issuer numbers are one byte, 0 is the edge itself
			c.wrong(fmt.Sprintf("node[%d].neighbours", i), "more than 255", "remove some")
		}
		for j, name := range n.Neighbours {
			at := fmt.Sprintf("node[%d].neighbours[%d]", i, j)
			k := slices.IndexFunc(c.cfg.Nodes, func(o NodeConfig) bool { return o.Name == name })
			switch {
			case name == n.Name:
				c.wrong(at, "a node is no neighbour of its own", "remove it")
			case seen[name]:
				c.wrong(at, fmt.Sprintf("%q twice", name), "remove one")
			case k < 0:
				c.wrong(at, fmt.Sprintf("there is no node %q", name), "declare it as [[node]], or correct the name")
			case c.cfg.Nodes[k].Kind != "entry" && c.cfg.Nodes[k].Kind != "hidden":
				c.wrong(at, fmt.Sprintf("%q is of kind %q", name, c.cfg.Nodes[k].Kind), "neighbours are edges: entry or hidden")
			}
			seen[name] = true
		}
	}
}

func (c *checker) services() {
	names := map[string]int{}
	publics := map[netip.AddrPort]string{}
	for i, s := range c.cfg.Services {
		at := fmt.Sprintf("service[%d]", i)
		if first, dup := names[s.Name]; dup {
			c.wrong(at+".name", fmt.Sprintf("%q is also the name of service[%d]", s.Name, first), "give each service a name of its own")
		}
		if c.name(at+".name", s.Name) {
			names[s.Name] = i
		}
		if host, port, err := net.SplitHostPort(s.Origin); err != nil || host == "" || !isPort(port) {
			c.wrong(at+".origin", fmt.Sprintf("%q is not host:port", s.Origin), schema["service.origin"].fix)
		}
		if s.Plain != PlainCookie && s.Plain != PlainDrop && s.Plain != PlainAdmit {
			c.wrong(at+".plain", fmt.Sprintf("%q is none of them", s.Plain), schema["service.plain"].fix)
		}
		for j, g := range s.Groups {
			c.name(fmt.Sprintf("%s.groups[%d]", at, j), g)
		}
		if len(s.Public) == 0 {
			c.wrong(at+".public", "missing", schema["service.public"].fix)
		}
		for j, p := range s.Public {
			item := fmt.Sprintf("%s.public[%d]", at, j)
			if first, dup := publics[p]; dup {
				c.wrong(item, fmt.Sprintf("%s also belongs to service %q", p, first), "use another port")
			}
			publics[p] = s.Name
			c.public(item, p)
		}
	}
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// public checks one address that clients dial against the nodes: it belongs to an entry, and the
// link port of that entry is another.
func (c *checker) public(at string, p netip.AddrPort) {
	i := slices.IndexFunc(c.cfg.Nodes, func(n NodeConfig) bool { return slices.Contains(n.Public, p.Addr()) })
	switch {
	case p.Port() == 0:
		c.wrong(at, p.String()+" has port 0", schema["service.public"].fix)
	case i < 0:
		c.wrong(at, fmt.Sprintf("no node has the address %s", p.Addr()), "add it to `public` of an entry, or correct it")
	case c.cfg.Nodes[i].Kind == "hidden":
		c.wrong(at, fmt.Sprintf("%s is hidden edge %q; clients would learn its address", p.Addr(), c.cfg.Nodes[i].Name), "use the address of an entry")
	case c.cfg.Nodes[i].LinkPort == p.Port():
		c.wrong(at, fmt.Sprintf("port %d is the link port of node %q", p.Port(), c.cfg.Nodes[i].Name), "use another port here, or set another link_port there")
	case c.cfg.Nodes[i].Backplane == p:
		c.wrong(at, fmt.Sprintf("%s is the backplane of node %q", p, c.cfg.Nodes[i].Name), "use another port")
	}
}
