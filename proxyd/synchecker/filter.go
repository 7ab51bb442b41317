package synchecker

import (
	"encoding/binary"
	"fmt"
	"math"

	"golang.org/x/net/bpf"
)

// A port has a ring for each class, so that a flood of one can fill no other's. A flood of SYNs with
// random data is plain, one with the preamble's magic is keyed: it delays keyed SYNs, but not the first
// flights of clients that got a cookie.
type class int

const (
	keyed   class = iota // SYNs with the preamble's magic in its place
	flights              // data with it: the client shows its cookie
	knocks               // datagrams with it
	plain                // other SYNs, and FINs
	classes
)

const (
	snapClaims = etherLen + 60 + 60 + preambleLen // longest headers
	snapPlain  = etherLen + 60 + 60

	// maxFilterAddrs keeps the program under the kernel's limit and each packet's cost bounded.
	maxFilterAddrs = 64
)

var dropAll = []bpf.Instruction{bpf.RetConstant{Val: 0}}

// program is the classic BPF program of one ring in one mode. It only saves work: everything is
// judged again in user space. A load beyond the packet ends the program with "drop".
func (f Filter) program(c class, m Mode) ([]bpf.Instruction, error) { return f.sampled(c, m, 1) }

// sampled is program, which takes a share of the plain SYNs only: more than can be read would wait in
// the ring for nothing.
func (f Filter) sampled(c class, m Mode, share float64) ([]bpf.Instruction, error) {
	if len(f.Addrs) == 0 || len(f.Addrs) > maxFilterAddrs {
		return nil, fmt.Errorf("packet filter for %d addresses, want 1 to %d", len(f.Addrs), maxFilterAddrs)
	}
	if m == Off || m == Dark && c != keyed && c != knocks {
		return dropAll, nil
	}
	var a assembler
	// Ours by MAC: other stations' frames (OTHERHOST), broadcasts and our own answers are not.
	a.add(bpf.LoadExtension{Num: bpf.ExtType})
	a.jump(bpf.JumpNotEqual, 0, "drop")
	if c == plain && share < 1 {
		a.add(bpf.LoadExtension{Num: bpf.ExtRand})
		a.jump(bpf.JumpGreaterOrEqual, uint32(max(0, share)*math.MaxUint32), "drop")
	}
	f.network(&a)
	f.transport(&a, c, m)
	return a.resolve()
}

// network leaves the address check behind, the IP header's length in X and that of what follows it,
// by the IP header, in M[0]; it goes on at "tcp" or "udp".
func (f Filter) network(a *assembler) {
	a.add(bpf.LoadAbsolute{Off: 12, Size: 2})
	a.jump(bpf.JumpEqual, etherIPv6, "ipv6")
	a.jump(bpf.JumpNotEqual, etherIPv4, "drop")

	a.add(bpf.LoadAbsolute{Off: etherLen + 6, Size: 2})
	a.jump(bpf.JumpBitsSet, 0x3fff, "drop") // a fragment
	a.add(bpf.LoadAbsolute{Off: etherLen + 16, Size: 4})
	for _, addr := range f.Addrs {
		if addr = addr.Unmap(); addr.Is4() {
			a.jump(bpf.JumpEqual, be.Uint32(addr.AsSlice()), "ours4")
		}
	}
	a.goTo("drop")
	a.label("ours4")
	a.add(bpf.LoadMemShift{Off: etherLen})
	a.add(bpf.LoadAbsolute{Off: etherLen + 2, Size: 2})
	a.add(bpf.ALUOpX{Op: bpf.ALUOpSub})
	a.add(bpf.StoreScratch{Src: bpf.RegA, N: 0})
	a.add(bpf.LoadAbsolute{Off: etherLen + 9, Size: 1})
	a.jump(bpf.JumpEqual, protoUDP, "udp")
	a.jump(bpf.JumpEqual, protoTCP, "tcp")
	a.goTo("drop")

	a.label("ipv6")
	for i, addr := range f.Addrs {
		if addr.Unmap().Is4() {
			continue
		}
		next := fmt.Sprint("next6-", i)
		for w, b := 0, addr.As16(); w < 16; w += 4 {
			a.add(bpf.LoadAbsolute{Off: uint32(etherLen + 24 + w), Size: 4})
			a.jump(bpf.JumpNotEqual, be.Uint32(b[w:]), next)
		}
		a.goTo("ours6")
		a.label(next)
	}
	a.goTo("drop")
	a.label("ours6")
	a.add(bpf.LoadConstant{Dst: bpf.RegX, Val: 40})
	a.add(bpf.LoadAbsolute{Off: etherLen + 4, Size: 2})
	a.add(bpf.StoreScratch{Src: bpf.RegA, N: 0})
	a.add(bpf.LoadAbsolute{Off: etherLen + 6, Size: 1})
	a.jump(bpf.JumpEqual, protoUDP, "udp")
	a.jump(bpf.JumpEqual, protoTCP, "tcp")
	a.goTo("drop")
}

func (f Filter) transport(a *assembler, c class, m Mode) {
	magic := binary.BigEndian.Uint32(preambleMagic[:])
	var verdict [classes]string
	for i := range verdict {
		verdict[i] = "drop"
	}
	verdict[c] = "take"

	a.label("tcp")
	a.add(bpf.LoadIndirect{Off: etherLen + 2, Size: 2})
	a.jump(bpf.JumpNotEqual, uint32(f.LinkPort), "drop")
	a.add(bpf.LoadIndirect{Off: etherLen + 13, Size: 1})
	a.jump(bpf.JumpBitsSet, flagRST, "drop")
	if m == Dark { // nothing but a keyed SYN is of use to a hidden edge
		a.jump(bpf.JumpBitsNotSet, flagSYN, "drop")
	} else {
		a.jump(bpf.JumpBitsSet, flagFIN, verdict[plain])
	}
	// A = length of the payload.
	a.add(bpf.LoadIndirect{Off: etherLen + 12, Size: 1})
	a.add(bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4})
	a.add(bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 2})
	a.add(bpf.StoreScratch{Src: bpf.RegA, N: 1})
	a.add(bpf.StoreScratch{Src: bpf.RegX, N: 2})
	a.add(bpf.TAX{})
	a.add(bpf.LoadScratch{Dst: bpf.RegA, N: 0})
	a.add(bpf.ALUOpX{Op: bpf.ALUOpSub})
	a.jump(bpf.JumpLessThan, preambleLen, "no claim")
	a.jump(bpf.JumpGreaterThan, 0xffff, "drop") // a TCP header longer than the packet
	// X = where the payload begins, behind the ethernet header.
	a.add(bpf.LoadScratch{Dst: bpf.RegA, N: 2})
	a.add(bpf.ALUOpX{Op: bpf.ALUOpAdd})
	a.add(bpf.TAX{})
	a.add(bpf.LoadIndirect{Off: etherLen, Size: 4})
	a.jump(bpf.JumpNotEqual, magic, "no claim")
	a.add(bpf.LoadScratch{Dst: bpf.RegX, N: 2})
	a.add(bpf.LoadIndirect{Off: etherLen + 13, Size: 1})
	a.jump(bpf.JumpBitsSet, flagSYN, verdict[keyed])
	a.goTo(verdict[flights])
	a.label("no claim")
	a.add(bpf.LoadScratch{Dst: bpf.RegX, N: 2})
	a.add(bpf.LoadIndirect{Off: etherLen + 13, Size: 1})
	a.jump(bpf.JumpBitsSet, flagSYN, verdict[plain])
	a.goTo("drop")

	a.label("udp")
	a.add(bpf.LoadIndirect{Off: etherLen + 2, Size: 2})
	a.jump(bpf.JumpNotEqual, uint32(f.LinkPort), "drop")
	a.add(bpf.LoadIndirect{Off: etherLen + 4, Size: 2})
	a.jump(bpf.JumpNotEqual, udpLen+preambleLen, "drop")
	a.add(bpf.LoadIndirect{Off: etherLen + udpLen, Size: 4})
	a.jump(bpf.JumpEqual, magic, verdict[knocks])

	a.label("drop")
	a.add(bpf.RetConstant{Val: 0})
	a.label("take")
	snap := uint32(snapClaims)
	if c == plain {
		snap = snapPlain
	}
	a.add(bpf.RetConstant{Val: snap})
}

// assembler gives classic BPF labels. Conditional jumps reach 255 instructions only, so each is an
// inverted one over an unconditional jump, which reaches all.
type assembler struct {
	prog   []bpf.Instruction
	labels map[string]int
	jumps  map[int]string
}

func (a *assembler) add(i bpf.Instruction) { a.prog = append(a.prog, i) }

func (a *assembler) label(name string) {
	if a.labels == nil {
		a.labels = map[string]int{}
	}
	a.labels[name] = len(a.prog)
}

func (a *assembler) jump(cond bpf.JumpTest, val uint32, to string) {
	a.add(bpf.JumpIf{Cond: cond, Val: val, SkipFalse: 1})
	a.goTo(to)
}

func (a *assembler) goTo(to string) {
	if a.jumps == nil {
		a.jumps = map[int]string{}
	}
	a.jumps[len(a.prog)] = to
	a.add(bpf.Jump{})
}

func (a *assembler) resolve() ([]bpf.Instruction, error) {
	for at, to := range a.jumps {
		target, ok := a.labels[to]
		if !ok || target <= at {
			panic("BUG: packet filter jumps to " + to)
		}
		a.prog[at] = bpf.Jump{Skip: uint32(target - at - 1)}
	}
	return a.prog, nil
}
