package firewall

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers: reg is one of 16 bytes; a concatenation starts at its first word.
const (
	reg     = unix.NFT_REG_1
	regWord = unix.NFT_REG32_00
)

// ICMP types and codes (RFC 792, 4443, 4861, 2710) that a dark edge still takes.
const (
	icmpUnreachable       = 3
	icmpFragmentNeeded    = 4
	icmp6PacketTooBig     = 2
	icmp6MLDQuery         = 130
	icmp6RouterAdvert     = 134
	icmp6NeighbourSolicit = 135
	icmp6NeighbourAdvert  = 136
)

// family is what differs between IPv4 and IPv6.
type family struct {
	suffix   string
	ether    uint16
	src, dst uint32 // offsets in the IP header
	size     uint32 // of an address
	addr     nftables.SetDatatype
}

var (
	v4 = family{"4", unix.ETH_P_IP, 12, 16, 4, nftables.TypeIPAddr}
	v6 = family{"6", unix.ETH_P_IPV6, 8, 24, 16, nftables.TypeIP6Addr}
)

// match is a piece of a rule.
type match []expr.Any

// rule joins pieces.
func rule(parts ...match) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func equal(b ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: b} }

func ether(proto uint16) match {
	return match{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: reg}, equal(binaryutil.BigEndian.PutUint16(proto)...)}
}

func l4(proto byte) match {
	return match{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equal(proto)}
}

func load(base expr.PayloadBase, off, size, to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: base, Offset: off, Len: size}
}

func ip(off, size uint32) expr.Any { return load(expr.PayloadBaseNetworkHeader, off, size, reg) }

func transport(off, size uint32) expr.Any {
	return load(expr.PayloadBaseTransportHeader, off, size, reg)
}

// Ports of TCP and UDP.
const offSrcPort, offDstPort = 0, 2

func port(off uint32, p uint16) match {
	return match{transport(off, 2), equal(binaryutil.BigEndian.PutUint16(p)...)}
}

// in looks up what is in the first register.
func in(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: reg, SetName: s.Name, SetID: s.ID}
}

func (f family) from(s *nftables.Set) match   { return match{ip(f.src, f.size), in(s)} }
func (f family) toward(s *nftables.Set) match { return match{ip(f.dst, f.size), in(s)} }

// end loads address and port of one end into registers, and returns the next free one.
func (f family) end(addr, port, to uint32) (match, uint32) {
	m := match{
		load(expr.PayloadBaseNetworkHeader, addr, f.size, to),
		load(expr.PayloadBaseTransportHeader, port, 2, to+f.size/4),
	}
	return m, to + f.size/4 + 1
}

// door loads our end: address . port.
func (f family) door() match {
	m, _ := f.end(f.dst, offDstPort, regWord)
	return m
}

// tuple loads theirs . ours, of a packet that comes in.
func (f family) tuple(from uint32) match {
	theirs, next := f.end(f.src, offSrcPort, from)
	ours, _ := f.end(f.dst, offDstPort, next)
	return append(theirs, ours...)
}

// outTuple loads theirs . ours, of a packet that goes out.
func (f family) outTuple(from uint32) match {
	theirs, next := f.end(f.dst, offDstPort, from)
	ours, _ := f.end(f.src, offSrcPort, next)
	return append(theirs, ours...)
}

// proto loads the transport protocol in front of a tuple.
func proto() match { return match{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regWord}} }

// tcpFlags compares the flags under a mask.
func tcpFlags(mask, want byte, op expr.CmpOp) match {
	return match{
		transport(13, 1),
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
		&expr.Cmp{Op: op, Register: reg, Data: []byte{want}},
	}
}

func counted(name string) expr.Any {
	return &expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name}
}

func accept(counter string) match {
	m := match{&expr.Verdict{Kind: expr.VerdictAccept}}
	if counter != "" {
		m = append(match{counted(counter)}, m...)
	}
	return m
}

func drop(counter string) match {
	return match{counted(counter), &expr.Verdict{Kind: expr.VerdictDrop}}
}

func goTo(chain string) match { return match{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }

func perSecond(n uint64) match {
	return match{&expr.Limit{Type: expr.LimitTypePkts, Rate: n, Unit: expr.LimitTimeSecond, Burst: uint32(n)}}
}
