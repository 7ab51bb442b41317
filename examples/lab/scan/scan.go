// Package scan looks for a hidden proxy as an attacker would: TCP segments of every kind to its
// ports, UDP, ICMP, short TTLs, forged preambles. It does the same to an address that nobody has and
// compares: a dark proxy must answer nothing, and nothing on the way may tell the two apart.
package scan

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/frame"
	"migrationsensor/proto"
)

// MaxRate keeps a scan below any threshold of a detector.
const MaxRate = 2000

// CommonPorts are asked unless others are given.
var CommonPorts = []uint16{
	1, 7, 21, 22, 23, 25, 53, 67, 80, 81, 110, 111, 123, 135, 139, 143, 161, 179, 389, 443, 445, 465, 500, 514, 587,
	636, 853, 993, 995, 1194, 1433, 1701, 1883, 3306, 3389, 4500, 5060, 5432, 5900, 6379, 6443, 8080, 8443, 9090, 27017, 51820,
}

// Config describes one scan.
type Config struct {
	Target netip.Addr // the address of a hidden proxy
	Unused netip.Addr // an address of the same range that nobody has
	Ports  []uint16
	Link   uint16        // the proxy's link port: gets forged preambles too
	Hops   int           // TTL 1 to Hops
	Rate   int           // probes per second
	Wait   time.Duration // for late answers
}

// Default completes a configuration.
func (c Config) Default() Config {
	if len(c.Ports) == 0 {
		c.Ports = CommonPorts
	}
	if c.Link == 0 {
		c.Link = 7443
	}
	if c.Hops == 0 {
		c.Hops = 6
	}
	if c.Rate == 0 {
		c.Rate = 500
	}
	if c.Wait == 0 {
		c.Wait = 500 * time.Millisecond
	}
	return c
}

// Check refuses what is not the lab's.
func (c Config) Check() error {
	for _, a := range []netip.Addr{c.Target, c.Unused} {
		if err := flood.CheckTarget(a); err != nil {
			return err
		}
	}
	if c.Target.Is4() != c.Unused.Is4() || c.Target == c.Unused {
		return errors.New("the unused address must be another one of the same family")
	}
	if c.Rate < 1 || c.Rate > MaxRate {
		return fmt.Errorf("rate %d: use 1 to %d probes/s", c.Rate, MaxRate)
	}
	return nil
}

// Answers are what one address brought.
type Answers struct {
	Replies int            `json:"replies"` // packets from the address itself
	Others  map[string]int `json:"others"`  // errors about it from elsewhere, such as "icmp 11/0 from 198.18.0.1"
	First   string         `json:"first,omitempty"`
}

// Result compares the two addresses.
type Result struct {
	Probes  int     `json:"probes"` // to each
	Target  Answers `json:"target"`
	Unused  Answers `json:"unused"`
	Dropped uint32  `json:"dropped"` // frames that the listener lost: the result is incomplete
}

// Replies is how many packets the hidden proxy answered with.
func (r Result) Replies() int { return r.Target.Replies }

// Alike reports whether nothing at all tells the proxy from an unused address.
func (r Result) Alike() bool {
	return r.Dropped == 0 && r.Target.Replies == r.Unused.Replies && maps.Equal(r.Target.Others, r.Unused.Others)
}

// probes lists the packets for one address.
func (c Config) probes(to netip.Addr) []frame.Packet {
	ports := slices.Compact(slices.Sorted(slices.Values(append([]uint16{c.Link, c.Link + 1}, c.Ports...))))
	var all []frame.Packet
	source := uint16(20000)
	add := func(p frame.Packet) {
		p.Dst, p.SrcPort = to, source
		source++
		all = append(all, p)
	}
	for _, port := range ports {
		for _, flags := range []uint8{frame.SYN, frame.ACK, frame.FIN, 0} { // SYN, ACK, FIN and NULL scans
			add(frame.Packet{Proto: frame.TCP, DstPort: port, Flags: flags, Window: 1024, Seq: 1, Ack: 1, Options: []byte{2, 4, 5, 0xb4}})
		}
		add(frame.Packet{Proto: frame.UDP, DstPort: port, Payload: []byte("scan")})
	}
	for _, garbage := range forged() {
		add(frame.Packet{Proto: frame.UDP, DstPort: c.Link, Payload: garbage})
		add(frame.Packet{Proto: frame.TCP, DstPort: c.Link, Flags: frame.SYN, Window: 1024, Payload: garbage})
		add(frame.Packet{Proto: frame.TCP, DstPort: c.Link, Flags: frame.ACK | frame.PSH, Window: 1024, Seq: 2, Ack: 2, Payload: garbage})
	}
	echo := frame.Packet{Proto: frame.ICMP, Type: 8, DstPort: 1, Payload: []byte("scan")}
	if to.Is6() {
		echo.Type = 128
	}
	add(echo)
	if to.Is4() {
		add(frame.Packet{Proto: frame.ICMP, Type: 13, Payload: make([]byte, 12)}) // timestamp
	}
	for ttl := range c.Hops {
		p := echo
		p.TTL = uint8(ttl + 1)
		add(p)
		add(frame.Packet{Proto: frame.TCP, DstPort: c.Link, Flags: frame.SYN, Window: 1024, TTL: uint8(ttl + 1)})
		add(frame.Packet{Proto: frame.UDP, DstPort: 33434, TTL: uint8(ttl + 1), Payload: []byte("scan")})
	}
	return all
}

// forged are preambles as somebody makes them who knows the protocol but no key, and plain garbage.
func forged() [][]byte {
	garbage := make([]byte, proto.PreambleLen)
	rand.Read(garbage)
	var keys proto.Admission
	rand.Read(keys.K[:])
	rand.Read(keys.Tag[:])
	rand.Read(keys.Handle[:])
	all := [][]byte{garbage}
	for _, kind := range []proto.Kind{proto.KindControl, proto.KindData, proto.KindEnrol, proto.KindKnock} {
		p := proto.Preamble{Kind: kind, Handle: keys.Handle, Time: time.Now()}
		rand.Read(p.Nonce[:])
		all = append(all, p.Append(nil, keys, proto.NodeID{}))
	}
	return all
}

// note counts a frame that came in, if it is about one of the two addresses.
func (r *Result) note(c Config, f []byte) {
	v, ok := frame.Look(f)
	if !ok {
		return
	}
	from, _ := netip.AddrFromSlice(v.Src)
	if about := r.of(c, from); about != nil {
		about.Replies++
		if about.First == "" {
			about.First = describe(v)
		}
		return
	}
	if quoted, ok := quotes(v); ok {
		if about := r.of(c, quoted); about != nil {
			if about.Others == nil {
				about.Others = map[string]int{}
			}
			about.Others[fmt.Sprintf("%s from %s", describe(v), from)]++
		}
	}
}

func (r *Result) of(c Config, a netip.Addr) *Answers {
	switch a {
	case c.Target:
		return &r.Target
	case c.Unused:
		return &r.Unused
	}
	return nil
}

// quotes finds the destination of the packet that an ICMP error is about.
func quotes(v frame.View) (netip.Addr, bool) {
	errorTypes, at, size := []byte{3, 4, 5, 11, 12}, 8+16, 4
	if !v.IPv4 {
		errorTypes, at, size = []byte{1, 2, 3, 4}, 8+24, 16
	}
	if v.Proto != frame.ICMP && v.Proto != frame.ICMPv6 || len(v.Segment) < at+size || !slices.Contains(errorTypes, v.Segment[0]) {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice(v.Segment[at : at+size])
}

func describe(v frame.View) string {
	switch s := v.Segment; {
	case (v.Proto == frame.ICMP || v.Proto == frame.ICMPv6) && len(s) >= 2:
		return fmt.Sprintf("icmp %d/%d", s[0], s[1])
	case v.Proto == frame.TCP && len(s) >= 14:
		return fmt.Sprintf("tcp flags %#02x from port %d", s[13], int(s[0])<<8|int(s[1]))
	case v.Proto == frame.UDP && len(s) >= 2:
		return fmt.Sprintf("udp from port %d", int(s[0])<<8|int(s[1]))
	}
	return fmt.Sprintf("protocol %d", v.Proto)
}
