package detect

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
)

// What the filters look at. Offsets are from the network header: the sockets are SOCK_DGRAM, so
// the kernel has taken off the Ethernet header and an outer VLAN tag already.
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd

	// packet types (linux/if_packet.h) of frames that are not for this machine
	packetOtherhost = 3

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	// IPv6 extension headers that may stand before the one we look for (RFC 8200, section 4.1)
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extDestination = 60

	maxExtensions = 4 // as many as RFC 8200 lets a sane packet have; more counts as "all" only

	tcpFlagsOffset = 13
	tcpSYN, tcpACK = 0x02, 0x10
)

// scratch slots of a filter: the protocol that follows the headers walked so far, and whether this is a later fragment.
// Register X has the offset of that protocol's header.
const (
	slotProto = 0
	slotLater = 1
)

// sorter returns the program that says of which kind a packet is: its value is the Kind, All for what is of no other.
// Addresses it leaves to the filters.
func sorter() ([]bpf.RawInstruction, error) {
	var a assembler
	a.add(bpf.LoadConstant{Dst: bpf.RegA, Val: 0})
	a.add(bpf.StoreScratch{Src: bpf.RegA, N: slotLater})
	a.add(bpf.LoadExtension{Num: bpf.ExtProto})
	a.jump(bpf.JumpEqual, etherIPv4, "ipv4", "")
	a.jump(bpf.JumpEqual, etherIPv6, "ipv6", "all")

	a.label("ipv4")
	a.add(bpf.LoadAbsolute{Off: 6, Size: 2})
	a.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x1fff})
	a.add(bpf.StoreScratch{Src: bpf.RegA, N: slotLater})
	a.add(bpf.LoadMemShift{Off: 0}) // X = header length
	a.add(bpf.LoadAbsolute{Off: 9, Size: 1})
	a.jump(bpf.JumpEqual, protoICMP, "icmp", "")
	a.goTo("protocol")

	a.label("ipv6")
	a.add(bpf.LoadConstant{Dst: bpf.RegX, Val: 40})
	a.add(bpf.LoadAbsolute{Off: 6, Size: 1})
	a.add(bpf.StoreScratch{Src: bpf.RegA, N: slotProto})
	for n := range maxExtensions {
		a.extension(All, n)
	}
	a.label("ipv6 protocol")
	a.add(bpf.LoadScratch{Dst: bpf.RegA, N: slotProto})
	a.jump(bpf.JumpEqual, protoICMPv6, "icmp", "")

	a.label("protocol")
	a.jump(bpf.JumpEqual, protoUDP, "udp", "")
	a.jump(bpf.JumpEqual, protoTCP, "", "all")
	a.add(bpf.LoadScratch{Dst: bpf.RegA, N: slotLater})
	a.jump(bpf.JumpEqual, 0, "", "all")
	a.add(bpf.LoadIndirect{Off: tcpFlagsOffset, Size: 1})
	a.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: tcpSYN | tcpACK})
	a.jump(bpf.JumpEqual, tcpSYN, "syn", "all")
	for _, k := range []struct {
		label string
		kind  Kind
	}{{"all", All}, {"syn", SYN}, {"icmp", ICMP}, {"udp", UDP}} {
		a.label(k.label)
		a.add(bpf.RetConstant{Val: uint32(k.kind)})
	}
	raw, err := a.assemble()
	if err != nil {
		return nil, fmt.Errorf("program that sorts packets: %w", err)
	}
	return raw, nil
}

// filter returns the program that accepts packets of a kind, addressed to one of the addresses
// if there are any. Fragments count by their IP protocol; only a first one can be a SYN.
func filter(k Kind, to []netip.Addr) ([]bpf.RawInstruction, error) {
	var a assembler
	a.add(bpf.LoadExtension{Num: bpf.ExtType})
	a.jump(bpf.JumpEqual, packetOtherhost, "reject", "")
	if k == All && len(to) == 0 {
		a.goTo("accept")
	} else {
		a.add(bpf.LoadExtension{Num: bpf.ExtProto})
		a.jump(bpf.JumpEqual, etherIPv4, "ipv4", "")
		a.jump(bpf.JumpEqual, etherIPv6, "ipv6", "reject")
		a.ipv4(k, to)
		a.ipv6(k, to)
	}
	a.label("accept")
	a.add(bpf.RetConstant{Val: 1}) // one byte: nobody reads it
	a.label("reject")
	a.add(bpf.RetConstant{Val: 0})
	raw, err := a.assemble()
	if err != nil {
		return nil, fmt.Errorf("filter for %s packets: %w", k, err)
	}
	return raw, nil
}

func (a *assembler) ipv4(k Kind, to []netip.Addr) {
	a.label("ipv4")
	a.destination4(to)
	if k == All {
		a.goTo("accept")
		return
	}
	a.add(bpf.LoadAbsolute{Off: 9, Size: 1})
	switch k {
	case ICMP:
		a.jump(bpf.JumpEqual, protoICMP, "accept", "reject")
	case UDP:
		a.jump(bpf.JumpEqual, protoUDP, "accept", "reject")
	case SYN:
		a.jump(bpf.JumpEqual, protoTCP, "", "reject")
		a.add(bpf.LoadAbsolute{Off: 6, Size: 2})
		a.jump(bpf.JumpBitsSet, 0x1fff, "reject", "") // not the first fragment
		a.add(bpf.LoadMemShift{Off: 0})               // X = header length
		a.synWithoutACK()
	}
}

func (a *assembler) ipv6(k Kind, to []netip.Addr) {
	a.label("ipv6")
	a.destination6(to)
	if k == All {
		a.goTo("accept")
		return
	}
	a.add(bpf.LoadConstant{Dst: bpf.RegX, Val: 40})
	a.add(bpf.LoadAbsolute{Off: 6, Size: 1})
	a.add(bpf.StoreScratch{Src: bpf.RegA, N: slotProto})
	for n := range maxExtensions {
		a.extension(k, n)
	}
	a.add(bpf.LoadScratch{Dst: bpf.RegA, N: slotProto})
	a.label("ipv6 protocol")
	switch k {
	case ICMP:
		a.jump(bpf.JumpEqual, protoICMPv6, "accept", "reject")
	case UDP:
		a.jump(bpf.JumpEqual, protoUDP, "accept", "reject")
	case SYN:
		a.jump(bpf.JumpEqual, protoTCP, "", "reject")
		a.synWithoutACK()
	}
}

// extension steps over the nth extension header, if one is there.
func (a *assembler) extension(k Kind, n int) {
	options, fragment, step := fmt.Sprint("options ", n), fmt.Sprint("fragment ", n), fmt.Sprint("step ", n)
	a.add(bpf.LoadScratch{Dst: bpf.RegA, N: slotProto})
	a.jump(bpf.JumpEqual, extHopByHop, options, "")
	a.jump(bpf.JumpEqual, extRouting, options, "")
	a.jump(bpf.JumpEqual, extDestination, options, "")
	a.jump(bpf.JumpEqual, extFragment, fragment, "ipv6 protocol")

	a.label(fragment)
	switch k {
	case SYN:
		a.add(bpf.LoadIndirect{Off: 2, Size: 2})
		a.jump(bpf.JumpBitsSet, 0xfff8, "reject", "") // not the first fragment
	case All: // of the sorter
		a.add(bpf.LoadIndirect{Off: 2, Size: 2})
		a.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xfff8})
		a.add(bpf.StoreScratch{Src: bpf.RegA, N: slotLater})
	case ICMP, UDP:
	}
	a.next()
	a.add(bpf.LoadConstant{Dst: bpf.RegA, Val: 8})
	a.goTo(step)

	a.label(options)
	a.next()
	a.add(bpf.LoadIndirect{Off: 1, Size: 1})
	a.add(bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 1})
	a.add(bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 3})

	a.label(step) // A = length of this header
	a.add(bpf.ALUOpX{Op: bpf.ALUOpAdd})
	a.add(bpf.TAX{})
}

// next notes the protocol after the extension header at X.
func (a *assembler) next() {
	a.add(bpf.LoadIndirect{Off: 0, Size: 1})
	a.add(bpf.StoreScratch{Src: bpf.RegA, N: slotProto})
}

func (a *assembler) synWithoutACK() {
	a.add(bpf.LoadIndirect{Off: tcpFlagsOffset, Size: 1})
	a.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: tcpSYN | tcpACK})
	a.jump(bpf.JumpEqual, tcpSYN, "accept", "reject")
}

func (a *assembler) destination4(to []netip.Addr) {
	if len(to) == 0 {
		return
	}
	a.add(bpf.LoadAbsolute{Off: 16, Size: 4})
	for _, addr := range to {
		if addr = addr.Unmap(); addr.Is4() {
			b := addr.As4()
			a.jump(bpf.JumpEqual, binary.BigEndian.Uint32(b[:]), "ipv4 ours", "")
		}
	}
	a.goTo("reject")
	a.label("ipv4 ours")
}

func (a *assembler) destination6(to []netip.Addr) {
	if len(to) == 0 {
		return
	}
	for i, addr := range to {
		if addr = addr.Unmap(); !addr.Is6() {
			continue
		}
		b, other := addr.As16(), fmt.Sprint("ipv6 other ", i)
		for word := range 4 {
			a.add(bpf.LoadAbsolute{Off: uint32(24 + 4*word), Size: 4})
			a.jump(bpf.JumpEqual, binary.BigEndian.Uint32(b[4*word:]), "", other)
		}
		a.goTo("ipv6 ours")
		a.label(other)
	}
	a.goTo("reject")
	a.label("ipv6 ours")
}
