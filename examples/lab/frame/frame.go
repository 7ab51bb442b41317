// Package frame makes and reads the raw Ethernet frames that the lab's attacker sends: SYNs with
// invented sources, odd flags, short TTLs, garbage. It is for the flood tool and the scan only.
package frame

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Proto is an IP protocol number. ICMP stands for ICMPv6 in a packet with IPv6 addresses.
type Proto uint8

// The protocols that the lab's attacker speaks.
const (
	ICMP   Proto = 1
	TCP    Proto = 6
	UDP    Proto = 17
	ICMPv6 Proto = 58
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

const (
	ethernet = 14
	header4  = 20
	header6  = 40
)

// Batch is how many frames a Port sends with one system call.
const Batch = 32

// Packet is one packet to be made. Fields that its protocol does not have are ignored.
type Packet struct {
	SrcMAC, DstMAC   net.HardwareAddr
	Src, Dst         netip.Addr
	TTL              uint8 // 0 = 64
	Proto            Proto
	SrcPort, DstPort uint16 // ICMP: identifier and sequence number
	Seq, Ack         uint32
	Flags            uint8
	Window           uint16
	Options          []byte // a multiple of four bytes
	Type, Code       uint8  // ICMP
	Payload          []byte
}

// Append appends the packet as an Ethernet frame with its checksums.
func (p Packet) Append(b []byte) []byte {
	start := len(b)
	b = append(b, p.DstMAC...)
	b = append(b, p.SrcMAC...)
	segment := p.segment()
	ttl := p.TTL
	if ttl == 0 {
		ttl = 64
	}
	if p.Dst.Is4() {
		b = append(b, 0x08, 0x00, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(header4+len(segment)))
		b = append(b, 0, 0, 0x40, 0, ttl, byte(p.Proto), 0, 0)
	} else {
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(segment)))
		b = append(b, byte(p.proto6()), ttl)
	}
	b = append(b, p.Src.AsSlice()...)
	b = append(b, p.Dst.AsSlice()...)
	b = append(b, segment...)
	Sum(b[start:])
	return b
}

func (p Packet) proto6() Proto {
	if p.Proto == ICMP {
		return ICMPv6
	}
	return p.Proto
}

// segment is what follows the IP header, its checksum still zero.
func (p Packet) segment() []byte {
	var b []byte
	switch p.Proto {
	case ICMP, ICMPv6:
		b = append(b, p.Type, p.Code, 0, 0)
		b = binary.BigEndian.AppendUint16(b, p.SrcPort)
		b = binary.BigEndian.AppendUint16(b, p.DstPort)
	case UDP:
		b = binary.BigEndian.AppendUint16(b, p.SrcPort)
		b = binary.BigEndian.AppendUint16(b, p.DstPort)
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.Payload)))
		b = append(b, 0, 0)
	case TCP:
		b = binary.BigEndian.AppendUint16(b, p.SrcPort)
		b = binary.BigEndian.AppendUint16(b, p.DstPort)
		b = binary.BigEndian.AppendUint32(b, p.Seq)
		b = binary.BigEndian.AppendUint32(b, p.Ack)
		b = append(b, byte((20+len(p.Options))/4)<<4, p.Flags)
		b = binary.BigEndian.AppendUint16(b, p.Window)
		b = append(b, 0, 0, 0, 0)
		b = append(b, p.Options...)
	}
	return append(b, p.Payload...)
}

// View is where things are in a frame of ours, for changing them in place.
type View struct {
	Src, Dst []byte // the addresses
	Segment  []byte // what follows the IP header
	Proto    Proto
	IPv4     bool
}

// Look finds the parts of a frame. It follows no extension headers: ours have none.
func Look(f []byte) (v View, ok bool) {
	if len(f) < ethernet+header4 {
		return v, false
	}
	ip := f[ethernet:]
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0800:
		length, header := int(binary.BigEndian.Uint16(ip[2:])), int(ip[0]&15)*4
		if header < header4 || length < header || length > len(ip) {
			return v, false
		}
		return View{ip[12:16], ip[16:20], ip[header:length], Proto(ip[9]), true}, true
	case 0x86dd:
		if len(ip) < header6 {
			return v, false
		}
		end := header6 + int(binary.BigEndian.Uint16(ip[4:]))
		if end > len(ip) {
			return v, false
		}
		return View{ip[8:24], ip[24:40], ip[header6:end], Proto(ip[6]), false}, true
	}
	return v, false
}

// Sum computes the checksums of a frame of ours in place.
func Sum(f []byte) {
	v, ok := Look(f)
	if !ok {
		return
	}
	if v.IPv4 {
		put(f[ethernet+10:], f[ethernet:ethernet+header4], 0)
	}
	at := 0
	switch v.Proto {
	case ICMP, ICMPv6:
		at = 2
	case UDP:
		at = 6
	case TCP:
		at = 16
	}
	if at == 0 || at+2 > len(v.Segment) {
		return
	}
	var pseudo uint32
	if v.Proto != ICMP {
		pseudo = add(add(uint32(len(v.Segment))+uint32(v.Proto), v.Src), v.Dst)
	}
	put(v.Segment[at:], v.Segment, pseudo)
	if v.Proto == UDP && v.Segment[6]|v.Segment[7] == 0 {
		v.Segment[6], v.Segment[7] = 0xff, 0xff // zero means no checksum
	}
}

// put writes the checksum of b, which holds the field itself, to the field.
func put(field, b []byte, start uint32) {
	field[0], field[1] = 0, 0
	sum := add(start, b)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(field, ^uint16(sum))
}

func add(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}
