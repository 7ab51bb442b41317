package detect

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var (
	outside4, inside4 = netip.MustParseAddr("198.18.1.1"), netip.MustParseAddr("198.18.1.2")
	outside6, inside6 = netip.MustParseAddr("2001:2::1"), netip.MustParseAddr("2001:2::2")
)

// frames builds test packets from outside to inside.
type frames struct {
	t        testing.TB
	from, to net.HardwareAddr
	vlan     []uint16
}

func (f frames) build(ls ...gopacket.SerializableLayer) []byte {
	f.t.Helper()
	buf := gopacket.NewSerializeBuffer()
	opt := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opt, ls...); err != nil {
		f.t.Fatal(err)
	}
	return buf.Bytes()
}

// link is the Ethernet header, with VLAN tags.
func (f frames) link(proto layers.EthernetType) []gopacket.SerializableLayer {
	next := func(i int) layers.EthernetType {
		if i < len(f.vlan) {
			return layers.EthernetTypeDot1Q
		}
		return proto
	}
	out := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: f.from, DstMAC: f.to, EthernetType: next(0)}}
	for i, id := range f.vlan {
		out = append(out, &layers.Dot1Q{VLANIdentifier: id, Type: next(i + 1)})
	}
	return out
}

func (f frames) ip4(proto layers.IPProtocol, edit func(*layers.IPv4), rest ...gopacket.SerializableLayer) []byte {
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: outside4.AsSlice(), DstIP: inside4.AsSlice()}
	if edit != nil {
		edit(ip)
	}
	return f.build(append(append(f.link(layers.EthernetTypeIPv4), ip), rest...)...)
}

// ip6 takes the extension headers as bytes: gopacket writes few of them.
func (f frames) ip6(next layers.IPProtocol, ext []byte, rest ...gopacket.SerializableLayer) []byte {
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: next, SrcIP: outside6.AsSlice(), DstIP: inside6.AsSlice()}
	ls := append(f.link(layers.EthernetTypeIPv6), ip)
	if ext != nil {
		ls = append(ls, gopacket.Payload(ext))
	}
	return f.build(append(ls, rest...)...)
}

func tcp(flags byte) gopacket.Payload {
	b := make([]byte, 20)
	b[1], b[3], b[12], b[13] = 1, 2, 5<<4, flags
	return b
}

const (
	fin, syn, rst, ack = 0x01, 0x02, 0x04, 0x10
	nextTCP, nextUDP   = layers.IPProtocolTCP, layers.IPProtocolUDP
	nextICMP6          = layers.IPProtocolICMPv6
)

// sample is a packet and how it counts; every packet counts as All.
type sample struct {
	name  string
	frame []byte
	as    Kind // All: only that
}

func (f frames) samples() []sample {
	udp := gopacket.Payload{0, 1, 0, 2, 0, 8, 0, 0}
	echo4, echo6 := gopacket.Payload{8, 0, 0, 0, 0, 1, 0, 1}, gopacket.Payload{128, 0, 0, 0, 0, 1, 0, 1}
	options := func(ip *layers.IPv4) {
		ip.Options = []layers.IPv4Option{{OptionType: 1, OptionLength: 1}, {OptionType: 1, OptionLength: 1}, {OptionType: 1, OptionLength: 1}, {OptionType: 0}}
	}
	fragment := func(ip *layers.IPv4) { ip.FragOffset = 100 }
	first := func(ip *layers.IPv4) { ip.Flags = layers.IPv4MoreFragments }
	hop := func(next layers.IPProtocol) []byte { return []byte{byte(next), 0, 1, 4, 0, 0, 0, 0} }
	frag := func(next layers.IPProtocol, off byte) []byte { return []byte{byte(next), 0, 0, off, 0, 0, 0, 1} }
	long := make([]byte, 32) // destination options, 32 bytes
	long[0], long[1], long[2], long[3] = byte(nextTCP), 3, 1, 28
	return []sample{
		{"syn4", f.ip4(nextTCP, nil, tcp(syn)), SYN},
		{"syn4 with IP options", f.ip4(nextTCP, options, tcp(syn)), SYN},
		{"syn4 with other flags", f.ip4(nextTCP, nil, tcp(syn|fin)), SYN},
		{"syn4 first fragment", f.ip4(nextTCP, first, tcp(syn)), SYN},
		{"syn-ack4", f.ip4(nextTCP, nil, tcp(syn|ack)), All},
		{"rst4", f.ip4(nextTCP, nil, tcp(rst)), All},
		{"ack4", f.ip4(nextTCP, nil, tcp(ack)), All},
		{"tcp4 later fragment", f.ip4(nextTCP, fragment, tcp(syn)), All},
		{"udp4", f.ip4(nextUDP, nil, udp), UDP},
		{"udp4 later fragment", f.ip4(nextUDP, fragment, udp), UDP},
		{"icmp4", f.ip4(layers.IPProtocolICMPv4, nil, echo4), ICMP},
		{"gre4", f.ip4(layers.IPProtocolGRE, nil, udp), All},
		{"syn6", f.ip6(nextTCP, nil, tcp(syn)), SYN},
		{"syn6 behind hop-by-hop", f.ip6(0, hop(nextTCP), tcp(syn)), SYN},
		{"syn6 behind long destination options", f.ip6(extDestination, long, tcp(syn)), SYN},
		{"syn6 behind hop-by-hop and fragment", f.ip6(0, append(hop(extFragment), frag(nextTCP, 1)...), tcp(syn)), SYN},
		{"tcp6 later fragment", f.ip6(extFragment, frag(nextTCP, 8), tcp(syn)), All},
		{"syn-ack6", f.ip6(nextTCP, nil, tcp(syn|ack)), All},
		{"udp6", f.ip6(nextUDP, nil, udp), UDP},
		{"udp6 later fragment", f.ip6(extFragment, frag(nextUDP, 8), udp), UDP},
		{"icmp6", f.ip6(nextICMP6, nil, echo6), ICMP},
		{"icmp6 behind hop-by-hop", f.ip6(0, hop(nextICMP6), echo6), ICMP},
		{"arp", f.build(append(f.link(layers.EthernetTypeARP), gopacket.Payload(make([]byte, 46)))...), All},
		{"ip4 cut short", f.build(append(f.link(layers.EthernetTypeIPv4), gopacket.Payload{0x45, 0})...), All},
	}
}
