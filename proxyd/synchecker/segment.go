package synchecker

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

const (
	etherLen  = 14
	vlanLen   = 4
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
	protoTCP  = 6
	protoUDP  = 17
	udpLen    = 8
	tcpLen    = 20

	flagFIN = 1 << 0
	flagSYN = 1 << 1
	flagRST = 1 << 2
	flagPSH = 1 << 3
	flagACK = 1 << 4
)

var be = binary.BigEndian

// segment is a TCP segment or UDP datagram. Its slices point into the frame.
type segment struct {
	eth      []byte // destination and source MAC, 12 bytes
	vlan     uint32 // as in Frame
	src, dst []byte // 4 or 16 bytes each
	proto    byte
	sport    uint16
	dport    uint16
	seq, ack uint32
	flags    byte
	options  bool   // it has TCP options
	length   int    // of the payload, by the IP header
	data     []byte // the payload, as far as it was captured
}

// parse fills s from an ethernet frame; false means that it is nothing for us, or malformed.
func (s *segment) parse(f *Frame) bool {
	b := f.Data
	if len(b) < etherLen || b[6]&1 != 0 { // no station has a group address
		return false
	}
	s.eth, s.vlan = b[:12], f.VLAN
	kind, b := be.Uint16(b[12:]), b[etherLen:]
	if kind == etherVLAN && s.vlan == 0 && len(b) >= vlanLen {
		s.vlan = etherVLAN<<16 | uint32(be.Uint16(b))
		kind, b = be.Uint16(b[2:]), b[vlanLen:]
	}
	var ok bool
	switch kind {
	case etherIPv4:
		b, ok = s.parseIPv4(b)
	case etherIPv6:
		b, ok = s.parseIPv6(b)
	}
	if !ok || !unicast(s.src) || bytes.Equal(s.src, s.dst) {
		return false
	}
	switch s.proto {
	case protoTCP:
		return s.parseTCP(b)
	case protoUDP:
		return s.parseUDP(b)
	}
	return false
}

// parseIPv4 returns what was captured behind the header and leaves its length by header in s.length.
func (s *segment) parseIPv4(b []byte) ([]byte, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil, false
	}
	header, total := int(b[0]&0xf)*4, int(be.Uint16(b[2:]))
	if header < 20 || total < header || len(b) < header || be.Uint16(b[6:])&0x3fff != 0 {
		return nil, false // the last: more fragments, or an offset
	}
	s.src, s.dst, s.proto = b[12:16], b[16:20], b[9]
	s.length = total - header
	return b[header:min(len(b), total)], true
}

func (s *segment) parseIPv6(b []byte) ([]byte, bool) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return nil, false
	}
	s.src, s.dst, s.proto = b[8:24], b[24:40], b[6]
	s.length = int(be.Uint16(b[4:]))
	return b[40:min(len(b), 40+s.length)], true
}

func (s *segment) parseTCP(b []byte) bool {
	if len(b) < tcpLen {
		return false
	}
	header := int(b[12]>>4) * 4
	if header < tcpLen || s.length < header || len(b) < header {
		return false
	}
	s.sport, s.dport = be.Uint16(b), be.Uint16(b[2:])
	s.seq, s.ack = be.Uint32(b[4:]), be.Uint32(b[8:])
	s.flags, s.options = b[13], header > tcpLen
	s.length -= header
	s.data = b[header:]
	return s.sport != 0
}

func (s *segment) parseUDP(b []byte) bool {
	if len(b) < udpLen || s.length < udpLen || int(be.Uint16(b[4:])) != s.length {
		return false
	}
	s.sport, s.dport = be.Uint16(b), be.Uint16(b[2:])
	s.length -= udpLen
	s.data = b[udpLen:]
	return true
}

// unicast refuses sources that nobody can have: an answer to them would go astray.
func unicast(addr []byte) bool {
	if len(addr) == 4 {
		return addr[0] != 0 && addr[0] != 127 && addr[0] < 224
	}
	return addr[0] != 0xff && be.Uint64(addr) != 0 // multicast; unspecified, loopback, mapped
}

func (s *segment) from() netip.AddrPort { return netip.AddrPortFrom(s.source(), s.sport) }

func (s *segment) local() netip.AddrPort {
	a, _ := netip.AddrFromSlice(s.dst)
	return netip.AddrPortFrom(a, s.dport)
}

func (s *segment) source() netip.Addr {
	a, _ := netip.AddrFromSlice(s.src)
	return a
}
