// Package flood is the lab's attacker: floods of SYN, ICMP or UDP packets with random or fixed
// sources, as in the paper's section 6.4 (hping3, random sources, one SYN each 1,000 µs). It works
// in a lab namespace only, sends to the lab's addresses only, and its rate and time are capped.
package flood

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"migrationsensor/examples/lab/frame"
	"migrationsensor/examples/lab/kernel"
)

// The caps: what two cores can carry beside everything else, and long enough for every scenario.
const (
	MaxRate = 200_000
	MaxTime = 10 * time.Minute
	MaxData = 256 // payloads to choose from
)

// ErrRefused says that the tool was asked for something outside the lab.
var ErrRefused = errors.New("refused")

// Ours are the ranges that the lab's addresses come from.
var Ours = kernel.Ours

// Kind is what the flood consists of.
type Kind string

// The kinds of flood.
const (
	SYN  Kind = "syn"
	ICMP Kind = "icmp"
	UDP  Kind = "udp"
)

// Config describes one flood.
type Config struct {
	Kind    Kind
	Target  netip.AddrPort
	Sources netip.Prefix // packets come from random addresses of it; one address = fixed
	Ports   int          // and from so many random ports, 0 = all of them: who tracks connections on the way remembers each pair
	Rate    int          // packets per second
	Time    time.Duration
	Count   int      // packets at most, 0 = as many as Rate and Time give
	Size    int      // payload of ICMP and UDP; a SYN carries so many random bytes
	Data    [][]byte // a SYN carries one of these, all of one length, instead: replays of what others have sent
	Seed    uint64
}

// Result is what was sent.
type Result struct {
	Sent    int     `json:"sent"`
	Skipped int     `json:"skipped"` // due, but the machine was too slow to send them in time
	Failed  int     `json:"failed"`  // the kernel did not take them
	Seconds float64 `json:"seconds"`

	First time.Time `json:"first"` // when the first packet was sent
}

// Rate is the packets per second that were sent.
func (r Result) Rate() float64 { return float64(r.Sent) / max(r.Seconds, 1e-9) }

// Check refuses what the tool must not do.
func (c Config) Check() error {
	if err := CheckTarget(c.Target.Addr()); err != nil {
		return err
	}
	if !c.Sources.IsValid() || c.Sources.Addr().Is4() != c.Target.Addr().Is4() {
		return fmt.Errorf("%w: sources %s don't fit the target %s: give a prefix of the same family", ErrRefused, c.Sources, c.Target)
	}
	if !inside(c.Sources.Masked().Addr()) || !inside(last(c.Sources)) {
		return fmt.Errorf("%w: the sources %s are not the lab's: use a prefix within %s", ErrRefused, c.Sources, ranges())
	}
	switch c.Kind {
	case SYN, ICMP, UDP:
	default:
		return fmt.Errorf("unknown kind %q: use syn, icmp or udp", c.Kind)
	}
	if c.Rate < 1 || c.Rate > MaxRate {
		return fmt.Errorf("%w: rate %d: use 1 to %d packets/s", ErrRefused, c.Rate, MaxRate)
	}
	if c.Time <= 0 || c.Time > MaxTime {
		return fmt.Errorf("%w: time %v: use up to %v", ErrRefused, c.Time, MaxTime)
	}
	if c.Ports < 0 || c.Ports > allPorts {
		return fmt.Errorf("%w: %d source ports: use 1 to %d, or 0 for all", ErrRefused, c.Ports, allPorts)
	}
	if c.Size < 0 || c.Size > 1400 {
		return fmt.Errorf("%w: size %d: use 0 to 1400 bytes", ErrRefused, c.Size)
	}
	return c.checkData()
}

// checkData refuses payloads that no packet of the flood can carry.
func (c Config) checkData() error {
	if len(c.Data) == 0 {
		return nil
	}
	if c.Kind != SYN || c.Size != 0 || len(c.Data) > MaxData {
		return fmt.Errorf("%w: %d payloads with kind %s and size %d: use up to %d with kind syn and no size", ErrRefused, len(c.Data), c.Kind, c.Size, MaxData)
	}
	for _, d := range c.Data {
		if len(d) != len(c.Data[0]) || len(d) == 0 || len(d) > 1400 {
			return fmt.Errorf("%w: a payload of %d bytes beside one of %d: use one length, 1 to 1400", ErrRefused, len(d), len(c.Data[0]))
		}
	}
	return nil
}

// CheckTarget refuses an address that is not out of the lab's ranges.
func CheckTarget(a netip.Addr) error {
	if inside(a) {
		return nil
	}
	return fmt.Errorf("%w: %s is not an address of the lab: this tool sends to %s only", ErrRefused, a, ranges())
}

func inside(a netip.Addr) bool {
	for _, p := range Ours {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func ranges() string {
	var s []string
	for _, p := range Ours {
		s = append(s, p.String())
	}
	return strings.Join(s, " and ")
}

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// template is the flood's packet; its source, ports and numbers change with each one sent.
func (c Config) template() frame.Packet {
	p := frame.Packet{Src: c.Sources.Addr(), Dst: c.Target.Addr(), DstPort: c.Target.Port()}
	switch c.Kind {
	case SYN:
		p.Proto, p.Flags, p.Window = frame.TCP, frame.SYN, 64240
		p.Options = []byte{2, 4, 5, 0xb4} // MSS 1460
		p.Payload = make([]byte, c.Size)
		if len(c.Data) > 0 {
			p.Payload = c.Data[0]
		}
	case ICMP:
		p.Proto, p.Type, p.Payload = frame.ICMP, 8, make([]byte, c.Size)
		if p.Dst.Is6() {
			p.Type = 128
		}
	case UDP:
		p.Proto, p.Payload = frame.UDP, make([]byte, c.Size)
	}
	return p
}

// pace says how many packets are due: behind is what should have been sent by now and was not.
// What is late by more than 10 ms is skipped instead of sent as a burst above the rate.
type pace struct {
	rate, total   int
	sent, skipped int
}

func (p *pace) due(elapsed time.Duration) int {
	want := min(int(elapsed.Seconds()*float64(p.rate)), p.total)
	behind := want - p.sent - p.skipped
	if late := behind - max(frame.Batch, p.rate/100); late > 0 {
		p.skipped += late
		behind -= late
	}
	return behind
}

func (p *pace) done() bool { return p.sent+p.skipped >= p.total }
