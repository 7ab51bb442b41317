package synchecker

import "math/bits"

const (
	// window is what a client may send before it hears from us again: one first flight.
	window = 512

	// maxFrame holds the longest answer: ethernet, VLAN, IPv6, TCP and a sealed reply.
	maxFrame = etherLen + vlanLen + 40 + tcpLen + 256

	mss4 = 1460
	mss6 = 1440
)

// answer is a TCP segment to the sender of another one.
type answer struct {
	seq, ack uint32
	flags    byte
	mss      uint16 // 0: no option
	data     []byte
}

// appendTo builds the answer to s. MAC addresses are swapped, so it goes back the way s came and
// needs no neighbour table, which a flood could fill.
func (a answer) appendTo(b []byte, s *segment) []byte {
	b = append(b, s.eth[6:12]...)
	b = append(b, s.eth[0:6]...)
	if s.vlan != 0 {
		b = be.AppendUint32(b, s.vlan)
	}
	header := tcpLen
	if a.mss != 0 {
		header += 4
	}
	length := header + len(a.data)
	var pseudo uint64
	if len(s.src) == 4 {
		b = appendIPv4(b, s, length)
	} else {
		b = appendIPv6(b, s, length)
	}
	pseudo = sum(s.src, sum(s.dst, protoTCP+uint64(length)))

	tcp := len(b)
	b = be.AppendUint16(b, s.dport)
	b = be.AppendUint16(b, s.sport)
	b = be.AppendUint32(b, a.seq)
	b = be.AppendUint32(b, a.ack)
	b = append(b, byte(header/4)<<4, a.flags)
	win := uint16(window)
	if a.flags&flagRST != 0 {
		win = 0
	}
	b = be.AppendUint16(b, win)
	b = append(b, 0, 0, 0, 0) // checksum, urgent pointer
	if a.mss != 0 {
		b = append(b, 2, 4, byte(a.mss>>8), byte(a.mss))
	}
	b = append(b, a.data...)
	be.PutUint16(b[tcp+16:], fold(sum(b[tcp:], pseudo)))
	return b
}

func appendIPv4(b []byte, s *segment, length int) []byte {
	const dontFragment, ttl = 0x4000, 64
	ip := len(b) + 2
	b = be.AppendUint16(b, etherIPv4)
	b = append(b, 0x45, 0)
	b = be.AppendUint16(b, uint16(20+length))
	b = append(b, 0, 0) // no fragments, so no identification (RFC 6864)
	b = be.AppendUint16(b, dontFragment)
	b = append(b, ttl, protoTCP, 0, 0)
	b = append(b, s.dst...)
	b = append(b, s.src...)
	be.PutUint16(b[ip+10:], fold(sum(b[ip:], 0)))
	return b
}

func appendIPv6(b []byte, s *segment, length int) []byte {
	const hops = 64
	b = be.AppendUint16(b, etherIPv6)
	b = append(b, 0x60, 0, 0, 0)
	b = be.AppendUint16(b, uint16(length))
	b = append(b, protoTCP, hops)
	b = append(b, s.dst...)
	return append(b, s.src...)
}

// sum adds the 16-bit words of b to s, four at a time; RFC 1071 lets the carries wait.
func sum(b []byte, s uint64) uint64 {
	var carry uint64
	for ; len(b) >= 8; b = b[8:] {
		s, carry = bits.Add64(s, be.Uint64(b), 0)
		s += carry
	}
	var rest uint64
	for i, x := range b {
		rest |= uint64(x) << (56 - 8*i)
	}
	// What follows is aligned to the high end; words stay words since 64 is a multiple of 16.
	s, carry = bits.Add64(s, rest, 0)
	return s + carry
}

// fold turns a sum into the checksum field.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
