// Package capture counts round trips: it sees when packets leave and enter one of the lab's machines, and how often
// its owner had to wait for the other side before something was done. That shows on the wire, whatever the machine
// takes for its own part.
package capture

import (
	"fmt"
	"net/netip"
	"time"
)

// Packet is one TCP or UDP packet as it passed the interface.
type Packet struct {
	At      time.Time
	Out     bool // sent by the machine, else received
	Proto   uint8
	Local   netip.AddrPort // the machine's end
	Remote  netip.AddrPort
	Flags   uint8 // TCP's
	Payload int   // bytes
}

// String is a line for people.
func (p Packet) String() string {
	way, proto := "←", "UDP"
	if p.Out {
		way = "→"
	}
	if p.Proto == tcp {
		proto = "TCP " + flags(p.Flags)
	}
	return fmt.Sprintf("%s %s %s %d bytes", way, p.Remote, proto, p.Payload)
}

func flags(f uint8) (s string) {
	for i, c := range "FSRPAU" {
		if f>>i&1 == 1 {
			s += string(c)
		}
	}
	return s
}

const (
	tcp = 6
	udp = 17
)

// RoundTrips is how often in a row an answer was waited for: a packet went out, and one came in a round trip later,
// and only then the next went out. rtt is the path's; packets that cross on the way make no round trip.
func RoundTrips(packets []Packet, rtt time.Duration) (n int) {
	var sent time.Time // the packet whose answer is waited for
	var heard time.Time
	for _, p := range packets {
		switch {
		case p.Out && sent.IsZero() && !p.At.Before(heard):
			sent = p.At
		case !p.Out && !sent.IsZero() && p.At.Sub(sent) >= rtt*9/10:
			n++
			sent, heard = time.Time{}, p.At
		}
	}
	return n
}

// parse reads an IP packet. Fragments and extension headers are not looked into: the lab has none.
func parse(b []byte) (src, dst netip.AddrPort, p Packet, ok bool) {
	if len(b) < 20 {
		return
	}
	var from, to netip.Addr
	var rest []byte
	switch b[0] >> 4 {
	case 4:
		head, length := int(b[0]&15)*4, int(b[2])<<8|int(b[3])
		if head < 20 || length < head {
			return
		}
		p.Proto = b[9]
		from, to = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		rest = b[min(head, len(b)):]
		p.Payload = length - head
	case 6:
		if len(b) < 40 {
			return
		}
		p.Proto = b[6]
		from, to = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		rest = b[40:]
		p.Payload = int(b[4])<<8 | int(b[5])
	default:
		return
	}
	need := map[uint8]int{tcp: 20, udp: 8}[p.Proto]
	if need == 0 || len(rest) < need || p.Payload < need {
		return
	}
	src = netip.AddrPortFrom(from, uint16(rest[0])<<8|uint16(rest[1]))
	dst = netip.AddrPortFrom(to, uint16(rest[2])<<8|uint16(rest[3]))
	if p.Proto == tcp {
		need = int(rest[12]>>4) * 4
		p.Flags = rest[13]
	}
	if p.Payload -= need; p.Payload < 0 {
		return
	}
	return src, dst, p, true
}
