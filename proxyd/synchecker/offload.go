package synchecker

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"time"

	"migrationsensor/proto"
)

// Path is the way that packets take to the checker.
type Path string

// The paths, the best first. Auto takes the first that works.
const (
	PathAuto    Path = "auto"
	PathNative  Path = "xdp-native"  // a packet program in the interface's driver
	PathGeneric Path = "xdp-generic" // the same program, where the driver hands packets to the kernel
	PathPacket  Path = "af_packet"   // packet sockets alone: needs neither eBPF nor its rights
)

// Taken is the path that OpenPath took.
type Taken struct {
	Path Path
	Why  []string // one line for each better path that could not be had, and the reason
}

// Offload is a Port with a packet program in front of the kernel: OpenPath returns one for the XDP
// paths. The program answers SYNs and drops what neither the checker nor the firewall would let in;
// what needs a MAC, sealing or state passes up to the packet sockets, where the checker judges it as
// always. Program, Gate and Admit replace nothing that the firewall's table does: it decides about
// what the program passes.
//
// Its methods may be called from any goroutine.
type Offload interface {
	Port // Arm switches the program too, and wants Program to have been called

	// Offloads reports whether there is a packet program now: a port that moves to another interface may lose it.
	Offloads() bool
	// Program says what the checker does. The program goes by it from the next packet on, by the old
	// rules or by the new ones, never by both. It must be called now and then (the Checker does, each
	// 10 s), since the program tells the time of day by it.
	Program(Rules) error
	// Gate says what the firewall lets in besides, and has the kernel's TCP settings read again, in the
	// caller's network namespace.
	Gate(Gate) error
	// Admit lets the packets of some addresses through, to the link port, until a time, and those of
	// others no more. An address that is admitted again gets the new time.
	Admit(admit []Admission, evict []netip.Addr) error
	// Strangers counts, by /24 or /48, those who completed their handshake with the program and showed no good tag: of the
	// thousand prefixes last heard of.
	Strangers() (map[netip.Prefix]uint64, error)
	// Counts tells how many packets, by the kinds of the DDoS Detector, the program dropped or answered
	// since it was attached. No packet socket sees these, so they come on top of what
	// detect.Counter counts, and the sum means what it means without a program (segments that
	// GRO merges are one packet to detect.Counter, and to the program too if it is generic, which comes
	// after GRO; in the driver it comes before, and what it eats of these counts one by one).
	Counts() (Packets, error)
	// Stats tells what became of them: to be added to what the Checker counts by itself.
	Stats() (Stats, error)
}

// Rules are what the packet program needs of the checker. They hold secrets; printed or logged they
// show none.
type Rules struct {
	jar  jar
	keys map[proto.KeyID]proto.TagMaster

	Shares Shares
}

func (r Rules) String() string {
	return fmt.Sprintf("rules(%d keys, shares %+v)", len(r.keys), r.Shares)
}
func (r Rules) GoString() string     { return r.String() }
func (r Rules) LogValue() slog.Value { return slog.StringValue(r.String()) }

func (r Rules) equal(o Rules) bool {
	return r.jar == o.jar && r.Shares == o.Shares && maps.Equal(r.keys, o.keys)
}

func (s Shares) check() error {
	switch {
	case !(s.Fresh >= 0 && s.Fresh <= 1), !(s.Again >= 0 && s.Again <= 1):
		return fmt.Errorf("shares of SYNs answered: fresh %v, again %v, want 0 to 1", s.Fresh, s.Again)
	case !(s.Answers >= 0):
		return fmt.Errorf("answers a second: %v, want 0 (no limit) or more", s.Answers)
	}
	return nil
}

// Plain says what becomes of a client without an agent at a service port while the edge defends.
type Plain uint8

// The ways.
const (
	PlainDrop   Plain = 1 + iota // only live connections pass
	PlainCookie                  // SYNs are answered with the kernel's own cookie, good ACKs pass
	PlainAdmit                   // everything passes
)

// Gate is what the firewall lets in, whatever the checker says.
type Gate struct {
	Allow    []netip.Prefix // peers and management
	Services map[netip.AddrPort]Plain
}

// Admission lets an address in until a time.
type Admission struct {
	Addr  netip.Addr
	Until time.Time
}

// Packets are counts by the kinds of the DDoS Detector.
type Packets struct{ All, SYN, ICMP, UDP uint64 }

// Add returns the sum.
func (p Packets) Add(o Packets) Packets {
	return Packets{All: p.All + o.All, SYN: p.SYN + o.SYN, ICMP: p.ICMP + o.ICMP, UDP: p.UDP + o.UDP}
}
