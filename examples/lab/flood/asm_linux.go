package flood

import (
	"encoding/binary"
	"net"
	"time"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Where things are in the frames that the programs make and read: Ethernet, IPv4 without options, TCP.
const (
	atType    = 12
	atIP      = 14
	atProto   = 23
	atSum     = 24
	atSrc     = 26
	atDst     = 30
	atPort    = 34
	atSeq     = 38
	atFlags   = 47
	atTCPSum  = 50
	atOption  = 54
	atPayload = 58
	tcpHead   = 54 // as long as a frame with a TCP header is at least
)

// What a program of ours says of a frame (enum xdp_action).
const (
	xdpDrop = 1
	xdpPass = 2
)

// Fields of the context (struct xdp_md).
const (
	mdData    = 0
	mdDataEnd = 4
)

// Offsets of the shared counters; each has one writer.
const (
	nMade     = 8 * iota // client frames put into the belt (by take)
	nTaken               // taken out of it (by the storm)
	nSYN                 // the storm's own packets
	nBeat                // when the storm sent last, in the kernel's ns (each 64th packet)
	nDirect              // client frames that went straight on, because no storm blows
	nFull                // client frames that found the belt full
	nAnswered            // SYN-ACKs to invented addresses
	nBack                // frames to clients
	nStop                // not zero: make no more (by us)
	nNext                // when the next packet is due, in the kernel's ns (a storm with a rate)
	countersLen
)

// The belt carries client frames to the storm, which puts each into its place.
const (
	beltSlots = 256
	slotLen   = 2048
	slotData  = 8 // behind the length and the stamp
	maxFrame  = 1514
	beatGone  = 50_000_000 // ns without a beat: no storm

	beatEvery = 64 // packets

	// A storm shares its processor with clients: when one sends, the storm does not run, and the edge's ring empties. That is no
	// flood's way, so the ring is filled again first: a client's frame waits for as many packets of the storm as come in this
	// time, at most so many.
	slotStamp  = 4 // in a slot: how many packets the storm had sent
	refillTime = 200 * time.Microsecond
	refillMost = 512

	late = 64 // packets that a storm with a rate may be behind; more are left out
)

// word is four bytes as the processor sees them in a register.
func word(b ...byte) int64 { return int64(binary.NativeEndian.Uint32(b)) }

// imm is the same for an instruction's constant, which is signed.
func imm(b ...byte) int64 { return int64(int32(binary.NativeEndian.Uint32(b))) }

func half(v uint16) int64 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return int64(binary.NativeEndian.Uint16(b[:]))
}

// lookup puts the value at an index that is on the stack at fp-4 into R0, and jumps to fail if there is none.
func lookup(fd int, fail string) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, fd),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, fail),
	}
}

// begin keeps the context in R6 and the counters in R8.
func begin(counters int, fail string) asm.Instructions {
	return append(asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.R10, -4, 0, asm.Word),
	}, append(lookup(counters, fail), asm.Mov.Reg(asm.R8, asm.R0))...)
}

// count adds one to a counter.
func count(at int16) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R1, asm.R8, at, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R8, at, asm.R1, asm.DWord),
	}
}

func redirect(ifindex int) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R1, int32(ifindex)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return(),
	}
}

func say(label string, action int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, action).WithSymbol(label), asm.Return()}
}

// takeProgram sees what clients send towards the edge. While a storm blows it puts it onto the belt, else it goes straight on.
func takeProgram(counters, belt, edge int) asm.Instructions {
	p := begin(counters, "drop")
	p = append(p,
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R1, asm.R8, nBeat, asm.DWord),
		asm.Sub.Reg(asm.R0, asm.R1),
		asm.JGT.Imm(asm.R0, beatGone, "direct"),
		asm.LoadMem(asm.R7, asm.R6, mdDataEnd, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, mdData, asm.Word),
		asm.Sub.Reg(asm.R7, asm.R1),
		asm.JGT.Imm(asm.R7, maxFrame, "direct"),
		asm.JLT.Imm(asm.R7, 1, "drop"),
		asm.LoadMem(asm.R1, asm.R8, nMade, asm.DWord),
		asm.LoadMem(asm.R2, asm.R8, nTaken, asm.DWord),
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.Sub.Reg(asm.R3, asm.R2),
		asm.JGE.Imm(asm.R3, beltSlots, "full"),
		asm.And.Imm(asm.R1, beltSlots-1),
		asm.StoreMem(asm.R10, -4, asm.R1, asm.Word),
	)
	p = append(p, lookup(belt, "drop")...)
	p = append(p,
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R9), asm.Add.Imm(asm.R3, slotData),
		asm.Mov.Reg(asm.R4, asm.R7),
		asm.FnXdpLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),
		asm.StoreMem(asm.R9, 0, asm.R7, asm.Word),
		asm.FnGetPrandomU32.Call(), // frames leave in bunches, and the first of a bunch finds room more often
		asm.And.Imm(asm.R0, beatEvery-1),
		asm.LoadMem(asm.R1, asm.R8, nSYN, asm.DWord),
		asm.Add.Reg(asm.R1, asm.R0),
		asm.StoreMem(asm.R9, slotStamp, asm.R1, asm.Word),
	)
	p = append(p, count(nMade)...)
	p = append(p, say("drop", xdpDrop)...)
	full := count(nFull)
	full[0] = full[0].WithSymbol("full")
	p = append(p, append(full, asm.Ja.Label("drop"))...)
	direct := count(nDirect)
	direct[0] = direct[0].WithSymbol("direct")
	return append(p, append(direct, redirect(edge)...)...)
}

// backProgram sees what the edge sends. What is for an invented address ends here, counted if it is a SYN-ACK.
func backProgram(counters, client int, sources [2]byte) asm.Instructions {
	p := begin(counters, "drop")
	p = append(p,
		asm.LoadMem(asm.R7, asm.R6, mdData, asm.Word),
		asm.LoadMem(asm.R9, asm.R6, mdDataEnd, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R7), asm.Add.Imm(asm.R1, tcpHead),
		asm.JGT.Reg(asm.R1, asm.R9, "back"),
		asm.LoadMem(asm.R1, asm.R7, atType, asm.Half),
		asm.JNE.Imm(asm.R1, int32(half(unix.ETH_P_IP)), "back"),
		asm.LoadMem(asm.R1, asm.R7, atDst, asm.Half),
		asm.JNE.Imm(asm.R1, int32(binary.NativeEndian.Uint16(sources[:])), "back"),
		asm.LoadMem(asm.R1, asm.R7, atProto, asm.Byte),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, "drop"),
		asm.LoadMem(asm.R1, asm.R7, atFlags, asm.Byte),
		asm.And.Imm(asm.R1, 0x12),
		asm.JNE.Imm(asm.R1, 0x12, "drop"),
	)
	p = append(p, count(nAnswered)...)
	p = append(p, say("drop", xdpDrop)...)
	back := count(nBack)
	back[0] = back[0].WithSymbol("back")
	return append(p, append(back, redirect(client)...)...)
}

// storm describes the program that makes the flood.
type storm struct {
	counters, belt, data int // maps; data is that of payloads, or 0
	edge                 int // the interface it sends by; 0: it drops all itself, to see what making them costs
	src, dst             net.HardwareAddr
	sources              [2]byte
	target               [4]byte
	port                 uint16
	size                 int // of the payload
	payloads             int // to choose from, a power of two; 0: random bytes
	gap                  int // ns between packets; 0: none
}

// program takes a client's frame from the belt, or writes a whole SYN: the page holds whatever was sent before.
func (s storm) program() asm.Instructions {
	p := begin(s.counters, "drop")
	p = append(p,
		asm.LoadMem(asm.R1, asm.R8, nStop, asm.DWord),
		asm.JNE.Imm(asm.R1, 0, "drop"),
		asm.LoadMem(asm.R1, asm.R8, nSYN, asm.DWord),
		asm.And.Imm(asm.R1, beatEvery-1),
		asm.JNE.Imm(asm.R1, 0, "belt"),
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R8, nBeat, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R8, nMade, asm.DWord).WithSymbol("belt"),
		asm.LoadMem(asm.R2, asm.R8, nTaken, asm.DWord),
		asm.JEq.Reg(asm.R1, asm.R2, "due"),
	)
	p = append(p, s.carry()...)
	p = append(p, s.pace()...)
	p = append(p, s.syn()...)
	p = append(p, count(nSYN)...)
	p = append(p, s.send()...)
	return append(p, say("drop", xdpDrop)...)
}

// refill is how many packets a client's frame waits for.
func (s storm) refill() int32 {
	if s.gap == 0 {
		return refillMost
	}
	return int32(min(refillMost, int(refillTime)/s.gap))
}

// pace goes on if a packet is due: one each gap ns.
func (s storm) pace() asm.Instructions {
	if s.gap == 0 {
		return asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("due")}
	}
	return asm.Instructions{
		asm.FnKtimeGetNs.Call().WithSymbol("due"),
		asm.StoreMem(asm.R8, nBeat, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R8, nNext, asm.DWord),
		asm.JLT.Reg(asm.R0, asm.R1, "drop"),
		asm.Add.Imm(asm.R1, int32(s.gap)),
		asm.Sub.Imm(asm.R0, int32(late*s.gap)),
		asm.JGE.Reg(asm.R1, asm.R0, "next"),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.StoreMem(asm.R8, nNext, asm.R1, asm.DWord).WithSymbol("next"),
	}
}

func (s storm) send() asm.Instructions {
	if s.edge == 0 {
		return asm.Instructions{asm.Mov.Imm(asm.R0, xdpDrop), asm.Return()}
	}
	return redirect(s.edge)
}

// carry sends the client's frame that is next.
func (s storm) carry() asm.Instructions {
	p := append(asm.Instructions{
		asm.And.Imm(asm.R2, beltSlots-1),
		asm.StoreMem(asm.R10, -4, asm.R2, asm.Word),
	}, lookup(s.belt, "drop")...)
	p = append(p,
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.LoadMem(asm.R1, asm.R8, nSYN, asm.DWord),
		asm.LoadMem(asm.R2, asm.R9, slotStamp, asm.Word),
		asm.Sub.Reg32(asm.R1, asm.R2),
		asm.JSLT.Imm32(asm.R1, s.refill(), "due"),
	)
	p = append(p, count(nTaken)...) // whatever happens to it
	p = append(p,
		asm.LoadMem(asm.R7, asm.R9, 0, asm.Word),
		asm.JGT.Imm(asm.R7, maxFrame, "drop"),
		asm.JLT.Imm(asm.R7, 1, "drop"),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.LoadMem(asm.R3, asm.R6, mdDataEnd, asm.Word),
		asm.LoadMem(asm.R4, asm.R6, mdData, asm.Word),
		asm.Sub.Reg(asm.R3, asm.R4),
		asm.Sub.Reg(asm.R2, asm.R3),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnXdpAdjustTail.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R9), asm.Add.Imm(asm.R3, slotData),
		asm.Mov.Reg(asm.R4, asm.R7),
		asm.FnXdpStoreBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),
	)
	return append(p, s.send()...)
}

// syn writes a SYN with its checksums: R7 the frame, R9 random, R3 and R4 the sums of the two headers so far, R5 scratch.
func (s storm) syn() asm.Instructions {
	st := func(off int16, b ...byte) asm.Instruction { return asm.StoreImm(asm.R7, off, imm(b...), asm.Word) }
	length := s.size + atPayload - atIP
	segment := s.size + atPayload - atPort
	port := []byte{byte(s.port >> 8), byte(s.port)}
	d, m := s.dst, s.src
	t := s.target
	p := asm.Instructions{
		asm.FnGetPrandomU32.Call().WithSymbol("syn"),
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.LoadMem(asm.R7, asm.R6, mdData, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, mdDataEnd, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R7), asm.Add.Imm(asm.R2, int32(atPayload+s.size)),
		asm.JGT.Reg(asm.R2, asm.R1, "drop"),
		st(0, d[0], d[1], d[2], d[3]), st(4, d[4], d[5], m[0], m[1]), st(8, m[2], m[3], m[4], m[5]),
		st(12, 8, 0, 0x45, 0), st(16, byte(length>>8), byte(length), 0x12, 0x34), st(20, 0x40, 0, 64, unix.IPPROTO_TCP),
		// The source: the prefix, and 16 random bits.
		asm.StoreImm(asm.R7, atSrc, int64(binary.NativeEndian.Uint16(s.sources[:])), asm.Half),
		asm.StoreMem(asm.R7, atSrc+2, asm.R9, asm.Half),
		asm.LoadMem(asm.R4, asm.R7, atSrc, asm.Half),
		asm.LoadMem(asm.R1, asm.R7, atSrc+2, asm.Half),
		asm.Add.Reg(asm.R4, asm.R1),
		st(atDst, t[0], t[1], t[2], t[3]),
		asm.LoadImm(asm.R1, word(t[0], t[1], t[2], t[3]), asm.DWord), asm.Add.Reg(asm.R4, asm.R1),
		asm.Mov.Reg(asm.R3, asm.R4),
		asm.LoadImm(asm.R1, word(0x45, 0, byte(length>>8), byte(length))+word(0x12, 0x34, 0x40, 0)+word(64, unix.IPPROTO_TCP, 0, 0), asm.DWord),
		asm.Add.Reg(asm.R3, asm.R1),
		// Ports and number; the first port is 1024.
		asm.Mov.Reg(asm.R1, asm.R9), asm.RSh.Imm(asm.R1, 16), asm.Or.Imm(asm.R1, int32(half(1024))),
		asm.StoreMem(asm.R7, atPort, asm.R1, asm.Half), asm.Add.Reg(asm.R4, asm.R1),
		asm.StoreImm(asm.R7, atPort+2, int64(binary.NativeEndian.Uint16(port)), asm.Half),
		asm.Mov.Reg(asm.R1, asm.R9), asm.Mul.Imm32(asm.R1, -1640531535), asm.Mov.Reg32(asm.R1, asm.R1),
		asm.StoreMem(asm.R7, atSeq, asm.R1, asm.Word), asm.Add.Reg(asm.R4, asm.R1),
		st(atSeq+4, 0, 0, 0, 0), st(atSeq+8, 0x60, 2, 0xfa, 0xf0), st(atOption, 2, 4, 5, 0xb4),
		asm.LoadImm(asm.R1, int64(binary.NativeEndian.Uint16(port))+word(0x60, 2, 0xfa, 0xf0)+word(2, 4, 5, 0xb4)+
			word(0, unix.IPPROTO_TCP, byte(segment>>8), byte(segment)), asm.DWord),
		asm.Add.Reg(asm.R4, asm.R1),
	}
	p = append(p, sum(atSum, asm.R3)...)
	p = append(p, asm.StoreImm(asm.R7, atTCPSum+2, 0, asm.Half))
	p = append(p, s.payload()...)
	return append(p, sum(atTCPSum, asm.R4)...)
}

// payload writes it and adds it to R4.
func (s storm) payload() (p asm.Instructions) {
	if s.payloads > 0 {
		p = append(p,
			asm.Mov.Reg(asm.R1, asm.R9), asm.RSh.Imm(asm.R1, 5), asm.And.Imm(asm.R1, int32(s.payloads-1)),
			asm.StoreMem(asm.R10, -4, asm.R1, asm.Word),
			asm.StoreMem(asm.R10, -16, asm.R4, asm.DWord),
		)
		p = append(p, lookup(s.data, "drop")...)
		p = append(p, asm.LoadMem(asm.R4, asm.R10, -16, asm.DWord))
	}
	for off := range s.size / 4 {
		if s.payloads > 0 {
			p = append(p, asm.LoadMem(asm.R9, asm.R0, int16(4*off), asm.Word))
		} else { // a linear congruence: each word another
			p = append(p, asm.Mul.Imm32(asm.R9, 1664525), asm.Add.Imm32(asm.R9, 1013904223))
		}
		p = append(p, asm.StoreMem(asm.R7, int16(atPayload+4*off), asm.R9, asm.Word), asm.Add.Reg(asm.R4, asm.R9))
	}
	return p
}

// sum folds a sum of words into the Internet checksum and stores it.
func sum(at int16, r asm.Register) asm.Instructions {
	p := asm.Instructions{
		asm.Mov.Reg(asm.R5, r), asm.RSh.Imm(asm.R5, 32), asm.Mov.Reg32(r, r), asm.Add.Reg(r, asm.R5),
	}
	for range 3 {
		p = append(p, asm.Mov.Reg(asm.R5, r), asm.RSh.Imm(asm.R5, 16), asm.And.Imm(r, 0xffff), asm.Add.Reg(r, asm.R5))
	}
	return append(p, asm.Xor.Imm(r, 0xffff), asm.StoreMem(asm.R7, at, r, asm.Half))
}
