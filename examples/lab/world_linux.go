package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"migrationsensor/examples/lab/kernel"
)

// Config is what can be chosen about a world.
type Config struct {
	RTT  time.Duration // of every client's link; the default is 15 ms
	Loss float64       // share of packets lost on every client's link
	Rate float64       // bits per second of every client's link, 0 = no limit
	Seed uint64
}

// World is the lab's machines and links.
type World struct {
	Router, Backplane, Void         *kernel.Namespace
	Client, Fresh, Each, Plain      *kernel.Namespace
	Attacker, Site                  *kernel.Namespace
	P1, P2, P3, Sign, Origin        *kernel.Namespace
	ClientLink, FreshLink, EachLink *kernel.Link
	PlainLink                       *kernel.Link
	more                            []*kernel.Namespace // added later
	moreLinks                       []*kernel.Link
}

var (
	serviceRange4 = netip.MustParsePrefix("198.18.72.0/24")
	serviceRange6 = netip.MustParsePrefix("2001:2:0:72::/64")
	everywhere4   = netip.MustParsePrefix("0.0.0.0/0")
	everywhere6   = netip.MustParsePrefix("::/0")
	nowhere       netip.Prefix // in a rule: any

	// The router's addresses towards machines that use it as their gateway.
	gateway4 = netip.MustParseAddr("198.18.0.1")
	gateway6 = netip.MustParseAddr("fe80::1")

	// The next hop that nobody has.
	nobody4   = netip.MustParseAddr("198.18.0.254")
	nobody6   = netip.MustParseAddr("fe80::fe")
	nobodyMAC = net.HardwareAddr{0x02, 0, 0, 0, 0xff, 0xfe}
)

// plainLimits make the paper's collapse show for clients without an agent: P1's kernel holds 128
// half-open connections and has no SYN cookies, which Linux has by default.
var plainLimits = map[string]string{
	"core/somaxconn":           "128",
	"ipv4/tcp_syncookies":      "0",
	"ipv4/tcp_max_syn_backlog": "128",
}

var forwards = map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}

// New makes the world. It must run inside kernel.Enter's sandbox.
func New(c Config) (*World, error) {
	if c.RTT == 0 {
		c.RTT = 15 * time.Millisecond
	}
	w := &World{}
	if err := w.build(c); err != nil {
		return nil, errors.Join(fmt.Errorf("build the lab: %w", err), w.Close())
	}
	return w, nil
}

func (w *World) build(c Config) error {
	if err := w.machines(); err != nil {
		return err
	}
	if err := w.internet(); err != nil {
		return err
	}
	if err := w.backplane(); err != nil {
		return err
	}
	return w.links(c)
}

func (w *World) machines() (err error) {
	for _, m := range []struct {
		at    **kernel.Namespace
		name  string
		extra map[string]string
	}{
		{&w.Router, "router", forwards},
		{&w.Backplane, "backplane", nil},
		{&w.Void, "void", nil},
		{&w.Client, "client", nil},
		{&w.Fresh, "fresh", nil},
		{&w.Each, "each", nil},
		{&w.Plain, "plain", nil},
		{&w.Attacker, "attacker", nil},
		{&w.Site, "site", nil},
		{&w.P1, "p1", plainLimits},
		{&w.P2, "p2", nil},
		{&w.P3, "p3", nil},
		{&w.Sign, "sign", nil},
		{&w.Origin, "origin", nil},
	} {
		if *m.at, err = kernel.NewNamespace(m.name, m.extra); err != nil {
			return err
		}
	}
	return nil
}

// internet is the router and what hangs on it by Ethernet. The rest of the world is void: packets
// to addresses that nobody has leave the router like others and are never answered.
func (w *World) internet() error {
	if err := w.Router.Up("lo", single(gateway4)); err != nil {
		return err
	}
	void := &kernel.Plug{In: w.Router, Name: "void", Addrs: linkLocal(gateway6)}
	if err := kernel.Veth(void, &kernel.Plug{In: w.Void, Name: Uplink}); err != nil {
		return err
	}
	if err := errors.Join(
		w.Router.Neighbour("void", nobody4, nobodyMAC),
		w.Router.Neighbour("void", nobody6, nobodyMAC),
	); err != nil {
		return err
	}
	for _, to := range []netip.Prefix{everywhere4, serviceRange4} {
		if err := w.Router.Route(kernel.Route{To: to, Via: nobody4, Dev: "void"}); err != nil {
			return err
		}
	}
	for _, to := range []netip.Prefix{everywhere6, serviceRange6} {
		if err := w.Router.Route(kernel.Route{To: to, Via: nobody6, Dev: "void"}); err != nil {
			return err
		}
	}
	for _, m := range []struct {
		ns   *kernel.Namespace
		addr host
		on   string // where the address sits: proxies have theirs on lo
	}{
		{w.P1, P1, "lo"}, {w.P2, P2, "lo"}, {w.P3, P3, "lo"},
		{w.Attacker, Attacker, Uplink}, {w.Site, Site, Uplink},
	} {
		if err := w.plugIn(m.ns, m.addr, m.on); err != nil {
			return err
		}
	}
	return nil
}

// plugIn joins a machine to the router by an unnumbered wire with permanent neighbours; its kernel
// owns the address on the named interface, or not at all.
func (w *World) plugIn(ns *kernel.Namespace, h host, on string) error {
	router := &kernel.Plug{In: w.Router, Name: ns.Name, Addrs: linkLocal(gateway6)}
	machine := &kernel.Plug{In: ns, Name: Uplink}
	if err := kernel.Veth(router, machine); err != nil {
		return err
	}
	var owned error
	src := host{}
	if on != "" {
		owned, src = ns.Up(on, single(h.V4), single(h.V6)), h
	}
	return errors.Join(owned, w.join(router, machine, src, h))
}

// join makes the two ends of a cable each other's neighbours and routes; src is what the machine sends from, if it owns it.
func (w *World) join(router, machine *kernel.Plug, src, h host) error {
	ns := machine.In
	return errors.Join(
		ns.Neighbour(machine.Name, gateway4, router.MAC),
		ns.Neighbour(machine.Name, gateway6, router.MAC),
		ns.Route(kernel.Route{To: everywhere4, Via: gateway4, Dev: machine.Name, Src: src.V4}),
		ns.Route(kernel.Route{To: everywhere6, Via: gateway6, Dev: machine.Name, Src: src.V6}),
		w.Router.Neighbour(router.Name, h.V4, machine.MAC),
		w.Router.Neighbour(router.Name, h.V6, machine.MAC),
		w.Router.Route(kernel.Route{To: single(h.V4), Dev: router.Name}),
		w.Router.Route(kernel.Route{To: single(h.V6), Dev: router.Name}),
	)
}

// backplane is the private network between the nodes and the origin.
func (w *World) backplane() error {
	if err := w.Backplane.Bridge("br0"); err != nil {
		return err
	}
	for _, m := range []struct {
		ns   *kernel.Namespace
		addr host
	}{{w.P1, BackP1}, {w.P2, BackP2}, {w.P3, BackP3}, {w.Sign, BackSign}, {w.Origin, BackOrigin}} {
		if err := w.plugBack(m.ns, m.addr); err != nil {
			return err
		}
	}
	return nil
}

// plugBack joins a machine to the backplane.
func (w *World) plugBack(ns *kernel.Namespace, h host) error {
	addrs := []netip.Prefix{netip.PrefixFrom(h.V4, 24), netip.PrefixFrom(h.V6, 64)}
	port := &kernel.Plug{In: w.Backplane, Name: ns.Name}
	if err := kernel.Veth(port, &kernel.Plug{In: ns, Name: "back0", Addrs: addrs}); err != nil {
		return err
	}
	return w.Backplane.Attach(ns.Name, "br0")
}

// Proxy is a machine like P1 that a bench adds.
type Proxy struct {
	Name         string
	Public, Back host
	Dark         bool // its kernel does not own the public address: a program answers for it
	Limited      bool // its kernel has P1's limits of half-open connections
}

// AddProxy adds a machine in the service range and on the backplane. It lives as long as the world.
func (w *World) AddProxy(p Proxy) (*kernel.Namespace, error) {
	limits := map[string]string{}
	if p.Limited {
		limits = plainLimits
	}
	ns, err := kernel.NewNamespace(p.Name, limits)
	if err != nil {
		return nil, fmt.Errorf("add the proxy: %w", err)
	}
	w.more = append(w.more, ns)
	on := "lo"
	if p.Dark {
		on = ""
	}
	if err := errors.Join(w.plugIn(ns, p.Public, on), w.plugBack(ns, p.Back)); err != nil {
		return nil, fmt.Errorf("add the proxy %s: %w", p.Name, err)
	}
	return ns, nil
}

// links joins the clients to the router, each by a link of its own with the same conditions.
func (w *World) links(c Config) (err error) {
	conditions := kernel.Conditions{Delay: c.RTT / 2, Loss: c.Loss, Rate: c.Rate}
	for i, m := range []struct {
		at   **kernel.Link
		ns   *kernel.Namespace
		addr host
	}{
		{&w.ClientLink, w.Client, Client}, {&w.FreshLink, w.Fresh, Fresh},
		{&w.EachLink, w.Each, Each}, {&w.PlainLink, w.Plain, Plain},
	} {
		*m.at, err = kernel.NewLink(m.ns, w.Router, Uplink, m.ns.Name, conditions, c.Seed+uint64(i))
		if err != nil {
			return err
		}
		if err := errors.Join(
			m.ns.Up(Uplink, single(m.addr.V4), single(m.addr.V6)),
			w.Router.Up(m.ns.Name),
			m.ns.Route(kernel.Route{To: everywhere4, Dev: Uplink}),
			m.ns.Route(kernel.Route{To: everywhere6, Dev: Uplink}),
			w.Router.Route(kernel.Route{To: single(m.addr.V4), Dev: m.ns.Name}),
			w.Router.Route(kernel.Route{To: single(m.addr.V6), Dev: m.ns.Name}),
		); err != nil {
			return err
		}
	}
	return nil
}

// Close removes the links and lets the namespaces go, killing what was started in them.
func (w *World) Close() error {
	var errs []error
	for _, l := range append(w.moreLinks, w.ClientLink, w.FreshLink, w.EachLink, w.PlainLink) {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	for _, n := range append(w.more,
		w.Client, w.Fresh, w.Each, w.Plain, w.Attacker, w.Site,
		w.P1, w.P2, w.P3, w.Sign, w.Origin, w.Router, w.Backplane, w.Void,
	) {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func linkLocal(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, 64)} }
