package paper

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/dchest/siphash"

	"migrationsensor/examples/lab/frame"
)

// CheckerCounts are the attacked P1's.
type CheckerCounts struct {
	SYNs      int // to P1's ports
	Filtered  int // of them, dropped by the firewall
	Unsampled int // of those that passed, not answered because of p
	Answered  int // the rest
	ACKs      int // that completed a handshake: each asks P2 to ratify
	Strange   int // segments of no handshake of ours
	Approved  int // approvals of P2: each sends a notification
	Refused   int // approvals that were none, or of nothing we asked for
	Ended     int // FINs of clients, acknowledged
	Unsent    int // frames and datagrams that could not be sent
	Lost      int // frames that came in faster than we read
}

// verdict is what is to be done with a segment.
type verdict int

const (
	ignore verdict = iota
	answer         // send the packet to the client
	ratify         // ask P2
)

// checker is the SYN Checker and the Informer's share of a transfer. It reads no clock and owns no
// socket. It remembers nothing of a client.
type checker struct {
	address netip.Addr
	ports   []uint16
	to      netip.Addr // P2
	p       float64
	draw    func() float64 // uniform in [0, 1)
	cookies [2]uint64      // the key of the sequence numbers
	key     Key
	filter  firewall
	counts  CheckerCounts
}

func newChecker(c Config, draw func() float64, cookies [2]uint64) *checker {
	return &checker{
		address: c.Address, ports: c.Ports, to: c.P2, p: c.P, draw: draw, cookies: cookies, key: c.Assumed.Key,
		filter: firewall{rate: c.Assumed.PreFilter, burst: c.Assumed.Burst},
	}
}

// handle decides what to do with a segment. The packet lacks its Ethernet addresses.
func (c *checker) handle(now time.Time, s segment) (v verdict, p frame.Packet, r ratification) {
	if s.to != c.address || !slices.Contains(c.ports, s.port) {
		return ignore, p, r
	}
	first := c.cookie(s.client, s.port)
	end := first + 1 + uint32(noticeLen) + 1 // after notification and FIN
	switch {
	case s.flags&(frame.SYN|frame.ACK|frame.RST|frame.FIN) == frame.SYN:
		return c.syn(now, s, first)
	case s.flags&(frame.SYN|frame.ACK|frame.RST) != frame.ACK || s.ack != first+1 && s.ack != end:
		c.counts.Strange++
	case s.flags&frame.FIN != 0: // else the client's kernel repeats it for a long time
		c.counts.Ended++
		return answer, c.packet(s.client, s.port, s.ack, s.seq+uint32(s.data)+1, frame.ACK), r
	case s.ack == first+1 && s.data == 0: // the paper's rule: ack − 1 is a number that we sent
		c.counts.ACKs++
		return ratify, p, ratification{client: s.client, service: s.port, next: s.seq, ours: s.ack, word: newWord()}
	}
	return ignore, p, r
}

// syn passes a SYN through firewall and sampling.
func (c *checker) syn(now time.Time, s segment, first uint32) (v verdict, p frame.Packet, r ratification) {
	c.counts.SYNs++
	if !c.filter.take(now) {
		c.counts.Filtered++
		return ignore, p, r
	}
	if c.draw() >= c.p {
		c.counts.Unsampled++
		return ignore, p, r
	}
	c.counts.Answered++
	p = c.packet(s.client, s.port, first, s.seq+1, frame.SYN|frame.ACK)
	p.Options = []byte{2, 4, 1460 >> 8, 1460 & 0xff} // the maximum segment size
	return answer, p, r
}

// approved makes the notification for a client that P2 has admitted.
func (c *checker) approved(r ratification) (p frame.Packet, ok bool) {
	if c.cookie(r.client, r.service)+1 != r.ours {
		c.counts.Refused++
		return p, false
	}
	c.counts.Approved++
	p = c.packet(r.client, r.service, r.ours, r.next, frame.ACK|frame.PSH|frame.FIN)
	p.Payload = notice{netip.AddrPortFrom(c.to, r.service), r.word}.seal(c.key)
	return p, true
}

func (c *checker) packet(client netip.AddrPort, port uint16, seq, ack uint32, flags uint8) frame.Packet {
	return frame.Packet{
		Src: c.address, Dst: client.Addr(), Proto: frame.TCP, SrcPort: port, DstPort: client.Port(),
		Seq: seq, Ack: ack, Flags: flags, Window: 64240,
	}
}

// cookie is the first sequence number towards a client.
func (c *checker) cookie(client netip.AddrPort, port uint16) uint32 {
	var b [8]byte
	a := client.Addr().As4()
	copy(b[:], a[:])
	binary.BigEndian.PutUint16(b[4:], client.Port())
	binary.BigEndian.PutUint16(b[6:], port)
	return uint32(siphash.Hash(c.cookies[0], c.cookies[1], b[:]))
}

// segment is what the checker reads of a TCP segment over IPv4.
type segment struct {
	client   netip.AddrPort
	to       netip.Addr
	port     uint16
	seq, ack uint32
	flags    uint8
	data     int // bytes
}

// parse reads a frame; false means that it is nothing for us. Checksums are not looked at: between
// namespaces the kernel leaves them to hardware that is not there.
func parse(f []byte) (s segment, ok bool) {
	const ethernet, fragment = 14, 0x3fff
	v, ok := frame.Look(f)
	if !ok || !v.IPv4 || v.Proto != frame.TCP || f[ethernet]>>4 != 4 || len(v.Segment) < 20 || binary.BigEndian.Uint16(f[ethernet+6:])&fragment != 0 {
		return s, false
	}
	t := v.Segment
	header := int(t[12]>>4) * 4
	if header < 20 || header > len(t) {
		return s, false
	}
	s = segment{
		client: netip.AddrPortFrom(netip.AddrFrom4([4]byte(v.Src)), binary.BigEndian.Uint16(t)),
		to:     netip.AddrFrom4([4]byte(v.Dst)), port: binary.BigEndian.Uint16(t[2:]),
		seq: binary.BigEndian.Uint32(t[4:]), ack: binary.BigEndian.Uint32(t[8:]),
		flags: t[13], data: len(t) - header,
	}
	return s, host(s.client)
}
