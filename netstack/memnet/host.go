package memnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"migrationsensor/netstack"
)

// timeWait is short: a lab's ports come back soon.
const timeWait = time.Second

// Host is a machine: a TCP/IP stack, its interfaces and the process that runs on it. It ends with its network.
type Host struct {
	Name string

	net *Network
	ip  *stack.Stack
	ifs []*Interface

	mu      sync.Mutex
	sockets *netstack.Sockets
	past    []*netstack.Sockets // of other processes, dead ones too: they may linger
	routes  []tcpip.Route
	devices []netstack.Device
	nics    map[string]tcpip.NICID
}

// Add makes a host with these interfaces and joins it to the network.
func (n *Network) Add(name string, ports ...Port) (*Host, error) {
	ip, err := newStack()
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	h := &Host{Name: name, net: n, ip: ip, sockets: netstack.NewSockets(ip), nics: map[string]tcpip.NICID{}}
	for _, p := range ports {
		if err := h.plug(p); err != nil {
			h.end()
			return nil, fmt.Errorf("host %s: interface %s: %w", name, p.Name, err)
		}
	}
	if err := n.join(h); err != nil {
		h.end()
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	return h, nil
}

// newStack is netstack's with UDP, and with TCP as for a network that loses packets.
func newStack() (*stack.Stack, error) {
	ip, err := netstack.NewIPStack(udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6)
	if err != nil {
		return nil, err
	}
	var (
		cubic = tcpip.CongestionControlOption("cubic")
		rack  = tcpip.TCPRACKLossDetection
		wait  = tcpip.TCPTimeWaitTimeoutOption(timeWait)
	)
	for _, o := range []tcpip.SettableTransportProtocolOption{&cubic, &rack, &wait} {
		if terr := ip.SetTransportProtocolOption(tcp.ProtocolNumber, o); terr != nil {
			return nil, fmt.Errorf("tcp option %T: %s", o, terr)
		}
	}
	return ip, nil
}

func (h *Host) plug(p Port) error {
	i := &Interface{
		host: h, name: p.Name, segment: p.Segment, mtu: p.MTU, gso: p.GSO,
		out: newLane(p.Out, h.net.cfg.Seed, h.net.stream()), in: newLane(p.In, h.net.cfg.Seed, h.net.stream()),
	}
	addrs := slices.Clone(p.Addrs)
	i.addrs.Store(&addrs)
	if i.mtu == 0 {
		i.mtu = defaultMTU
	}
	nic, err := h.attach(p.Name, i, p.Addrs, p.Routes)
	if err != nil {
		return err
	}
	i.nic = nic
	h.ifs = append(h.ifs, i)
	return nil
}

// attach makes an interface of the stack, with its addresses and routes.
func (h *Host) attach(name string, l stack.LinkEndpoint, addrs []netip.Addr, routes []netip.Prefix) (tcpip.NICID, error) {
	h.mu.Lock()
	nic := tcpip.NICID(len(h.nics) + 1)
	_, twice := h.nics[name]
	h.nics[name] = nic
	h.mu.Unlock()
	if twice {
		return 0, errors.New("there is one of this name already")
	}
	if terr := h.ip.CreateNIC(nic, l); terr != nil {
		return 0, fmt.Errorf("make it: %s", terr)
	}
	for _, a := range addrs {
		if err := h.address(nic, a); err != nil {
			return 0, err
		}
	}
	return nic, h.Route(name, routes...)
}

func (h *Host) address(nic tcpip.NICID, a netip.Addr) error {
	proto := header.IPv4ProtocolNumber
	if a.Is6() {
		proto = header.IPv6ProtocolNumber
	}
	pa := tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: tcpAddr(a).WithPrefix()}
	if terr := h.ip.AddProtocolAddress(nic, pa, stack.AddressProperties{}); terr != nil {
		return fmt.Errorf("address %s: %s", a, terr)
	}
	return nil
}

// Readdress gives an interface other addresses in the place of those it has, as when a laptop comes to another network.
// Connections from the old ones are not told; nobody answers there any more.
func (h *Host) Readdress(name string, addrs ...netip.Addr) error {
	i := h.Interface(name)
	if i == nil {
		return fmt.Errorf("host %s has no interface %s", h.Name, name)
	}
	old := i.Addrs()
	if err := h.net.move(i, addrs); err != nil {
		return err
	}
	for _, a := range old {
		if terr := h.ip.RemoveAddress(i.nic, tcpAddr(a)); terr != nil {
			return fmt.Errorf("host %s: address %s: %s", h.Name, a, terr)
		}
	}
	for _, a := range addrs {
		if err := h.address(i.nic, a); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	return nil
}

// AddDevice gives the host an interface on a device, such as an end of Pair: a TUN's other end.
func (h *Host) AddDevice(d netstack.Device, addrs []netip.Addr, routes ...netip.Prefix) error {
	if _, err := h.attach(d.Name(), d.LinkEndpoint(), addrs, routes); err != nil {
		return fmt.Errorf("host %s: interface %s: %w", h.Name, d.Name(), err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.devices = append(h.devices, d)
	return nil
}

// RemoveDevice takes it away again, and closes it.
func (h *Host) RemoveDevice(d netstack.Device) error {
	h.mu.Lock()
	nic, ok := h.nics[d.Name()]
	h.routes = slices.DeleteFunc(h.routes, func(r tcpip.Route) bool { return r.NIC == nic })
	h.ip.SetRouteTable(h.routes)
	h.devices = slices.DeleteFunc(h.devices, func(o netstack.Device) bool { return o == d })
	h.mu.Unlock()
	if !ok {
		return nil
	}
	err := d.Close()
	d.LinkEndpoint().Wait() // before gVisor waits for it under a lock that the reader may want
	if terr := h.ip.RemoveNIC(nic); terr != nil {
		err = errors.Join(err, fmt.Errorf("host %s: remove %s: %s", h.Name, d.Name(), terr))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.nics, d.Name())
	return err
}

// Route leads exactly these prefixes through an interface, in the place of those that led there before. The longest
// prefix counts.
func (h *Host) Route(name string, to ...netip.Prefix) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	nic, ok := h.nics[name]
	if !ok {
		return fmt.Errorf("host %s has no interface %s", h.Name, name)
	}
	h.routes = slices.DeleteFunc(h.routes, func(r tcpip.Route) bool { return r.NIC == nic })
	for _, p := range to {
		p = p.Masked()
		addr := tcpip.AddressWithPrefix{Address: tcpAddr(p.Addr()), PrefixLen: p.Bits()}
		h.routes = append(h.routes, tcpip.Route{Destination: addr.Subnet(), NIC: nic})
	}
	slices.SortStableFunc(h.routes, func(a, b tcpip.Route) int { return b.Destination.Prefix() - a.Destination.Prefix() })
	h.ip.SetRouteTable(slices.Clone(h.routes))
	return nil
}

// Interface finds one by its name; nil: there is none.
func (h *Host) Interface(name string) *Interface {
	for _, i := range h.ifs {
		if i.name == name {
			return i
		}
	}
	return nil
}

// InterfaceOf finds the one that has an address; nil: none has.
func (h *Host) InterfaceOf(a netip.Addr) *Interface {
	for _, i := range h.ifs {
		if slices.Contains(i.Addrs(), a) {
			return i
		}
	}
	return nil
}

// all are the sockets of every process there is and was.
func (h *Host) all() []*netstack.Sockets {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(slices.Clone(h.past), h.sockets)
}

func (h *Host) procs() *netstack.Sockets {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sockets
}

// Process is the host's own, which Listen, Dial, Kill, Stop and Continue are about.
func (h *Host) Process() *Process { return &Process{h: h, s: h.procs()} }

// Spawn starts another process beside it.
func (h *Host) Spawn() *Process {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := netstack.NewSockets(h.ip)
	h.past = append(h.past, s)
	return &Process{h: h, s: s}
}

// Listen listens for TCP.
func (h *Host) Listen(at netip.AddrPort) (net.Listener, error) { return h.Process().Listen(at) }

// Dial connects as an application would: the routes choose the interface.
func (h *Host) Dial(ctx context.Context, to netip.AddrPort) (netstack.Conn, error) {
	return h.Process().Dial(ctx, "", to)
}

// Kill ends the host's own process, as SIGKILL does: the stack closes its sockets, and answers what still comes for
// them with resets. What runs next has new sockets.
func (h *Host) Kill() {
	h.mu.Lock()
	old := h.sockets
	h.past = append(h.past, old)
	h.sockets = netstack.NewSockets(h.ip)
	h.mu.Unlock()
	old.Kill()
}

// Stop freezes the process, as SIGSTOP does: the stack goes on.
func (h *Host) Stop() { h.procs().Stop() }

// Continue ends Stop.
func (h *Host) Continue() { h.procs().Continue() }

// Reset cuts the connections of every process that match, as a box on the way does that sends resets to both ends. It
// says how many there were.
func (h *Host) Reset(match func(local, remote netip.AddrPort) bool) (n int) {
	for _, s := range h.all() {
		n += s.Reset(match)
	}
	return n
}

// Crash takes the machine's power: nothing leaves it, nothing comes in, and the process and every connection are gone.
// boot brings the machine back, which then answers old connections with resets.
func (h *Host) Crash() (boot func()) {
	boot = h.net.Play(Fault{Host: h.Name, Conditions: Conditions{Cut: true}})
	h.Kill()
	for _, s := range h.all() {
		s.Kill()
	}
	h.mu.Lock()
	h.sockets = netstack.NewSockets(h.ip)
	h.mu.Unlock()
	for _, ep := range h.ip.RegisteredEndpoints() {
		if a, ok := ep.(interface{ Abort() }); ok {
			a.Abort()
		}
	}
	return boot
}

// end closes the stack; the network's scheduler has stopped.
func (h *Host) end() {
	for _, s := range h.all() {
		s.Close()
	}
	h.mu.Lock()
	devices := h.devices
	h.mu.Unlock()
	h.ip.Close()
	for _, d := range devices {
		_ = d.Close() // memory's never fails
		d.LinkEndpoint().Wait()
	}
	h.ip.Wait()
}

// Process is a program that runs on a host: what it opens ends with it.
type Process struct {
	h *Host
	s *netstack.Sockets
}

// Host is where it runs.
func (p *Process) Host() *Host { return p.h }

// Kill ends it as SIGKILL does: see Host.Kill.
func (p *Process) Kill() { p.s.Kill() }

// Stop freezes it as SIGSTOP does: see Host.Stop.
func (p *Process) Stop() { p.s.Stop() }

// Continue ends Stop.
func (p *Process) Continue() { p.s.Continue() }

// Yield returns when the process is not stopped: what it does beside its sockets asks here.
func (p *Process) Yield() { p.s.Yield() }

func (p *Process) nic(name string) (tcpip.NICID, error) {
	if name == "" {
		return 0, nil
	}
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	nic, ok := p.h.nics[name]
	if !ok {
		return 0, fmt.Errorf("host %s has no interface %s", p.h.Name, name)
	}
	return nic, nil
}

// Listen listens for TCP.
func (p *Process) Listen(at netip.AddrPort) (net.Listener, error) { return p.s.Listen(at) }

// Dial connects, by one interface if it is named.
func (p *Process) Dial(ctx context.Context, by string, to netip.AddrPort) (netstack.Conn, error) {
	nic, err := p.nic(by)
	if err != nil {
		return nil, err
	}
	return p.s.Dial(ctx, netstack.From{NIC: nic}, to)
}

// DialFrom connects from one of the host's addresses.
func (p *Process) DialFrom(ctx context.Context, by string, from netip.Addr, to netip.AddrPort) (netstack.Conn, error) {
	nic, err := p.nic(by)
	if err != nil {
		return nil, err
	}
	return p.s.Dial(ctx, netstack.From{NIC: nic, Local: netip.AddrPortFrom(from, 0)}, to)
}

// ListenPacket opens a UDP socket, by one interface if it is named.
func (p *Process) ListenPacket(by string, at netip.AddrPort) (net.PacketConn, error) {
	nic, err := p.nic(by)
	if err != nil {
		return nil, err
	}
	return p.s.ListenPacket(netstack.From{NIC: nic, Local: at})
}

// SendTo sends one datagram.
func (p *Process) SendTo(by string, to netip.AddrPort, b []byte) error {
	any := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if to.Addr().Is6() {
		any = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	c, err := p.ListenPacket(by, any)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}
