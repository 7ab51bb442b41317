package firewall

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wire is a packet socket outside: it sends frames as they are and sees what the edge sends.
type wire struct {
	w  *world
	fd int
}

func (w *world) wire() *wire {
	w.t.Helper()
	x := &wire{w: w}
	w.outside.must("packet socket", func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { unix.Close(fd) })
		l, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		x.fd = fd
		all := uint16(unix.ETH_P_ALL)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index, Protocol: all<<8 | all>>8})
	})
	return x
}

func (x *wire) send(frame []byte) {
	x.w.t.Helper()
	if _, err := unix.Write(x.fd, frame); err != nil {
		x.w.t.Fatalf("send: %v", err)
	}
}

// heard returns what came from the edge so far, but for what was for a peer. The connects are the
// fence: a veth keeps the order, so an answer to an earlier probe is here when they are done.
func (x *wire) heard() (out []gopacket.Packet) {
	x.w.t.Helper()
	for _, e := range families {
		x.w.wantIn("fence", e.peer, e.edge, sshPort)
	}
	buf := make([]byte, 65536)
	for {
		n, err := unix.Read(x.fd, buf)
		if err != nil {
			return out
		}
		p := gopacket.NewPacket(append([]byte(nil), buf[:n]...), layers.LayerTypeEthernet, gopacket.Default)
		if !forPeer(p) && !linkUpkeep(p) {
			out = append(out, p)
		}
	}
}

func forPeer(p gopacket.Packet) bool {
	if p.NetworkLayer() == nil {
		return false
	}
	dst, _ := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Dst().Raw())
	return dst == families[0].peer || dst == families[1].peer
}

// linkUpkeep is what the package's documentation says can be seen on the same link.
func linkUpkeep(p gopacket.Packet) bool {
	if p.Layer(layers.LayerTypeARP) != nil {
		return true
	}
	icmp, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if !ok {
		return false
	}
	switch icmp.TypeCode.Type() {
	case 133, 135, 136, 143: // router solicitation, neighbour solicitation and advertisement, MLDv2 report
		return true
	}
	return false
}

// probe is a packet by which a stranger might find the edge.
type probe struct {
	name    string
	frame   []byte
	answers bool // an unguarded Linux answers it
}

// probes try every door for every address that an outsider can send to.
func (w *world) probes() (ps []probe) {
	for _, e := range families {
		for _, dst := range []struct {
			name string
			addr netip.Addr
		}{{"public", e.edge}, {"interface's", e.own}} {
			for _, p := range w.probesTo(e.client, dst.addr) {
				p.name = e.name + " " + dst.name + " address: " + p.name
				ps = append(ps, p)
			}
		}
	}
	echo4 := gopacket.Payload{8, 0, 0xf7, 0xfd, 0, 1, 0, 1}
	none, broadcast := netip.MustParseAddr("198.18.73.9"), netip.MustParseAddr("198.18.71.255")
	allHosts, allNodes := netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("ff02::1")
	c4, c6 := families[0].client, families[1].client
	return append(ps,
		probe{"echo to the broadcast address", w.frame(c4, broadcast, layers.IPProtocolICMPv4, 64, echo4), false},
		probe{"echo to all hosts", w.frame(c4, allHosts, layers.IPProtocolICMPv4, 64, echo4), false},
		probe{"IGMP query", w.frame(netip.MustParseAddr("198.18.71.2"), allHosts, layers.IPProtocolIGMP, 1, gopacket.Payload{0x11, 1, 0xee, 0xfe, 0, 0, 0, 0}), false},
		probe{"echo to all nodes", w.frame(c6, allNodes, layers.IPProtocolICMPv6, 64, w.icmp6(c6, allNodes, 128)), true},
		probe{"TTL runs out in a router", w.frame(c4, none, layers.IPProtocolTCP, 1, w.tcp(c4, none, noPort, "S")), true},
		probe{"hop limit runs out in a router", w.frame(c6, netip.MustParseAddr("2001:2:0:73::9"), layers.IPProtocolTCP, 1, gopacket.Payload(make([]byte, 20))), true},
		probe{"a router that redirects", w.frame(c4, families[0].admitted, layers.IPProtocolTCP, 64, w.tcp(c4, families[0].admitted, noPort, "S")), true},
	)
}

func (w *world) probesTo(from, to netip.Addr) []probe {
	tcp := func(port uint16, flags string) []byte {
		return w.frame(from, to, layers.IPProtocolTCP, 64, w.tcp(from, to, port, flags))
	}
	udp := func(port uint16) []byte { return w.frame(from, to, layers.IPProtocolUDP, 64, w.udp(from, to, port)) }
	ps := []probe{
		{"SYN to the link port", tcp(linkPort, "S"), true},
		{"SYN to a service", tcp(openPort, "S"), true},
		{"SYN to ssh", tcp(sshPort, "S"), true},
		{"SYN to a closed port", tcp(noPort, "S"), true},
		{"SYN-ACK", tcp(linkPort, "SA"), true},
		{"ACK to the link port", tcp(linkPort, "A"), true},
		{"ACK to a closed port", tcp(noPort, "A"), true},
		{"FIN to a closed port", tcp(noPort, "F"), true},
		{"RST", tcp(linkPort, "R"), false},
		{"UDP to the link port", udp(linkPort), true},
		{"UDP to a closed port", udp(33434), true},
		{"unknown protocol", w.frame(from, to, 253, 64, gopacket.Payload(make([]byte, 8))), true},
		{"SCTP", w.frame(from, to, layers.IPProtocolSCTP, 64, gopacket.Payload(make([]byte, 16))), false},
	}
	if to.Is4() {
		first := w.ip4(from, to, layers.IPProtocolICMPv4, 64)
		first.Flags = layers.IPv4MoreFragments
		return append(ps,
			probe{"echo", w.frame(from, to, layers.IPProtocolICMPv4, 64, gopacket.Payload{8, 0, 0xf7, 0xfd, 0, 1, 0, 1}), true},
			probe{"timestamp", w.frame(from, to, layers.IPProtocolICMPv4, 64, gopacket.Payload{13, 0, 0xf2, 0xfd, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}), true},
			probe{"first fragment", w.build(layers.EthernetTypeIPv4, first, gopacket.Payload(make([]byte, 64))), false})
	}
	options := func(next byte, header ...byte) []byte {
		return w.frame(from, to, layers.IPProtocol(next), 64, gopacket.Payload(append([]byte{58, 0}, header...)), w.icmp6(from, to, 128))
	}
	return append(ps,
		probe{"echo", w.frame(from, to, layers.IPProtocolICMPv6, 64, w.icmp6(from, to, 128)), true},
		probe{"echo behind destination options", options(60, 1, 4, 0, 0, 0, 0), true},
		probe{"unknown option that asks for an error", options(60, 0x80, 4, 0, 0, 0, 0), true},
		probe{"unknown hop-by-hop option", options(0, 0x80, 4, 0, 0, 0, 0), true},
		probe{"neighbour solicitation that was routed", w.frame(from, to, layers.IPProtocolICMPv6, 64, w.icmp6(from, to, 135)), false},
		probe{"router solicitation", w.frame(from, to, layers.IPProtocolICMPv6, 255, w.icmp6(from, to, 133)), false})
}

func (w *world) build(proto layers.EthernetType, ls ...gopacket.SerializableLayer) []byte {
	w.t.Helper()
	eth := &layers.Ethernet{SrcMAC: w.hwClient, DstMAC: w.hwEdge, EthernetType: proto}
	buf := gopacket.NewSerializeBuffer()
	opt := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opt, append([]gopacket.SerializableLayer{eth}, ls...)...); err != nil {
		w.t.Fatal(err)
	}
	return append([]byte(nil), buf.Bytes()...)
}

func (w *world) ip4(from, to netip.Addr, proto layers.IPProtocol, ttl uint8) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: ttl, Protocol: proto, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
}

func (w *world) ip6(from, to netip.Addr, proto layers.IPProtocol, hops uint8) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: hops, NextHeader: proto, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
}

func (w *world) frame(from, to netip.Addr, proto layers.IPProtocol, ttl uint8, rest ...gopacket.SerializableLayer) []byte {
	if to.Is4() {
		return w.build(layers.EthernetTypeIPv4, append([]gopacket.SerializableLayer{w.ip4(from, to, proto, ttl)}, rest...)...)
	}
	return w.build(layers.EthernetTypeIPv6, append([]gopacket.SerializableLayer{w.ip6(from, to, proto, ttl)}, rest...)...)
}

// network is for checksums.
func (w *world) network(from, to netip.Addr, proto layers.IPProtocol) gopacket.NetworkLayer {
	if to.Is4() {
		return w.ip4(from, to, proto, 64)
	}
	return w.ip6(from, to, proto, 64)
}

func (w *world) tcp(from, to netip.Addr, port uint16, flags string) *layers.TCP {
	l := &layers.TCP{SrcPort: 40000, DstPort: layers.TCPPort(port), Seq: 1, Ack: 7, Window: 1000}
	for _, f := range flags {
		switch f {
		case 'S':
			l.SYN = true
		case 'A':
			l.ACK = true
		case 'F':
			l.FIN = true
		case 'R':
			l.RST = true
		}
	}
	if err := l.SetNetworkLayerForChecksum(w.network(from, to, layers.IPProtocolTCP)); err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) udp(from, to netip.Addr, port uint16) *layers.UDP {
	l := &layers.UDP{SrcPort: 40000, DstPort: layers.UDPPort(port)}
	if err := l.SetNetworkLayerForChecksum(w.network(from, to, layers.IPProtocolUDP)); err != nil {
		w.t.Fatal(err)
	}
	return l
}

// icmp6 is a message with its target or id, and a checksum made by hand: gopacket wants more.
func (w *world) icmp6(from, to netip.Addr, kind byte) gopacket.Payload {
	b := make([]byte, 24)
	b[0] = kind
	copy(b[8:], to.AsSlice())
	sum := uint32(58 + len(b))
	for _, part := range [][]byte{from.AsSlice(), to.AsSlice(), b} {
		for ; len(part) > 0; part = part[2:] {
			sum += uint32(binary.BigEndian.Uint16(part))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	return b
}

// A scan of a hidden edge finds nothing: of all that makes an unguarded machine answer, nothing
// makes this one send a packet. It even forwards, which would betray it by TTL exceeded.
func TestHiddenIsDark(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.edge.sysctl("ipv4/ip_forward", "1")
	w.edge.sysctl("ipv6/conf/all/forwarding", "1")
	w.edge.sysctl("ipv4/conf/all/send_redirects", "1")
	w.edge.route("198.18.73.0/24", families[0].admitted.String())
	w.edge.route("2001:2:0:73::/64", families[1].admitted.String())
	x := w.wire()
	x.heard()

	// First without a firewall: a probe that nobody would answer anyway proves nothing.
	ps := w.probes()
	for _, p := range ps {
		x.send(p.frame)
		if answers := x.heard(); p.answers && len(answers) == 0 {
			t.Errorf("unguarded, %s: no answer, so the probe is no good", p.name)
		}
	}

	f := w.firewall(config(true))
	scan := func(when string) {
		t.Helper()
		x.heard() // the end of what was going on before
		for _, p := range ps {
			x.send(p.frame)
			for _, a := range x.heard() {
				t.Errorf("%s, %s: betrayed by %v", when, p.name, a)
			}
		}
	}
	scan("standby")
	if err := f.Admit(families[0].admitted, time.Minute); err != nil {
		t.Fatal(err)
	}
	link := w.wantIn("admitted", families[0].admitted, families[0].edge, linkPort)
	scan("serving")
	if err := f.Defend([]Flow{flow(link)}); err != nil {
		t.Fatal(err)
	}
	scan("attacked")
	if err := f.Relax(); err != nil {
		t.Fatal(err)
	}
	scan("after the attack")
	if s, err := f.Stats(); err != nil || s.Dropped == 0 || s.Knocks == 0 {
		t.Errorf("counters: got %+v, %v", s, err)
	}
}

// Neighbours must still find the edge, or nobody could be admitted.
func TestHiddenAnswersNeighbours(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.firewall(config(true))
	w.outside.must("forget neighbours", func() error {
		l, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		for _, e := range families {
			n := &netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.IP(e.own.AsSlice())}
			if err := netlink.NeighDel(n); err != nil {
				return err
			}
		}
		return nil
	})
	each(t, func(t *testing.T, e ends) {
		w.wantIn("found by ARP or neighbour discovery", e.peer, e.edge, linkPort)
	})
}
