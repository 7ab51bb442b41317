// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

package synchecker

import (
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// The frame of the main function, below fp. The flow comes first: it is what the cookie hashes, and the
// tuple that the kernel looks sockets up by.
//
//	IPv4   24: source 4, destination 4   IPv6   0: source 16, destination 16
//	both   32: ports 4, epoch 3, length 1
const (
	frFlow  = -40
	frFlow4 = frFlow + 24
	frPorts = frFlow + 32
	frNow   = -48 // ns of the coarse clock
	frCount = -56 // the counters of this CPU
	frKind  = -64 // for the DDoS Detector
	frL3    = -71 // offset of the IP header in the frame. This and the family are unaligned bytes: so the
	// verifier does not know them, and follows what comes after once, not for each of their values
	frL4      = -80 // and of what follows it
	frLen     = -88 // of what follows it by the IP header; later of TCP's payload
	frData    = -96 // offset of TCP's payload
	frSeq     = -104
	frAck     = -112
	frFlags   = -120 // TCP's
	frHeader  = -128 // length of TCP's header
	frFamily  = -135
	frCookie  = -144
	frFlow64  = -152 // hash of the flow
	frOut     = -160 // length of the answer's TCP header
	frClass   = -168 // of the SYN, see answers
	frScratch = -176
	frSource  = -192 // 16: the source as an IPv6 address
	frService = -216 // 24: destination as an IPv6 address, port, zero
	frClaim   = -280 // 64: preamble, see claim
	frTCP     = -344 // 64: a TCP header
)

// XDP's verdicts.
const (
	xdpDrop = 1
	xdpPass = 2
	xdpTX   = 3
)

const (
	wireIPv4 = 0x0008 // as a little-endian machine loads them
	wireIPv6 = 0xdd86
	wireVLAN = 0x0081

	protoICMP   = 1
	protoICMPv6 = 58

	skState     = 72 // of struct bpf_sock
	established = 1
	listen      = 10
)

// program writes the packet program; maps are loaded already.
//
// The cheapest test goes first, and a packet that passes has cost no more than what shows that it must.
// What it drops or answers is counted; what passes, the kernel and the checker count.
func (f Filter) packetProgram(m *shared) asm.Instructions {
	p := &program{f: f, m: m}
	p.start()
	p.ethernet()
	p.ipv4()
	p.ipv6()
	p.transport()
	p.tcp()
	p.link()
	p.syn()
	p.answer()
	p.knock()
	p.udp()
	p.icmp()
	p.otherTCP()
	p.service()
	p.ends()
	p.functions()
	return p.ins
}

// program is the code under construction. In the main function r6 is the context, r7 the frame, r8
// its end and r9 the rules.
type program struct {
	code
	f Filter
	m *shared
}

func (p *program) start() {
	p.mov(r6, r1)
	p.add(asm.LoadMapValue(r1, p.m.which.FD(), 0))
	p.load(r1, r1, 0, size4)
	p.store(fp, frScratch, r1, size4)
	p.lookup(p.m.rules, frScratch, "pass")
	p.mov(r9, r0)
	p.load(r1, r9, ruleMode, size4)
	p.add(asm.JEq.Imm(r1, int32(Off), "pass"))
	p.put(fp, frScratch, 0, size4)
	p.lookup(p.m.counters, frScratch, "pass")
	p.store(fp, frCount, r0, size8)
	p.call(asm.FnKtimeGetCoarseNs)
	p.store(fp, frNow, r0, size8)
	p.put(fp, frKind, kindOther, size8)
}

// lookup leaves a pointer to the value in r0, or goes elsewhere.
func (p *program) lookup(m *ebpf.Map, key int32, miss string) {
	p.add(asm.LoadMapPtr(r1, m.FD()))
	p.addr(r2, fp, key)
	p.call(asm.FnMapLookupElem)
	p.add(asm.JEq.Imm(r0, 0, miss))
}

// ethernet ends at "ipv4" or "ipv6", r4 being that header. ARP, other stations' frames and stacked tags
// pass.
func (p *program) ethernet() {
	p.load(r7, r6, 0, size4)
	p.load(r8, r6, 4, size4)
	p.within(r7, r8, etherLen, r1, "pass")
	p.load(r1, r7, 0, size4)
	p.load(r2, r9, ruleMAC, size4)
	p.add(asm.JNE.Reg(r1, r2, "pass"))
	p.load(r1, r7, 4, size2)
	p.load(r2, r9, ruleMAC+4, size2)
	p.add(asm.JNE.Reg(r1, r2, "pass"))
	p.load(r2, r7, 12, size2)
	p.set(r3, etherLen)
	p.add(asm.JNE.Imm(r2, wireVLAN, "untagged"))
	p.within(r7, r8, etherLen+vlanLen, r1, "pass")
	p.load(r2, r7, 16, size2)
	p.set(r3, etherLen+vlanLen)
	p.at("untagged")
	p.store(fp, frL3, r3, size1)
	p.mov(r4, r7)
	p.add(asm.Add.Reg(r4, r3))
	p.add(asm.JEq.Imm(r2, wireIPv4, "ipv4"), asm.JEq.Imm(r2, wireIPv6, "ipv6"))
	p.goTo("pass")
}

// ipv4 goes on at "transport" with the protocol in r1. The order of the tests is segment.parse's.
func (p *program) ipv4() {
	p.at("ipv4")
	p.within(r4, r8, 20, r1, "malformed")
	p.load(r1, r4, 16, size4)
	for _, a := range p.f.Addrs {
		if a = a.Unmap(); a.Is4() {
			p.add(asm.JEq.Imm32(r1, int32(le.Uint32(a.AsSlice())), "ours4"))
		}
	}
	p.goTo("pass")
	if !slices.ContainsFunc(p.f.Addrs, func(a netip.Addr) bool { return a.Unmap().Is4() }) {
		return // nobody may come to what follows
	}

	p.at("ours4")
	for i := int16(0); i < 24; i += 8 {
		p.put(fp, frFlow+i, 0, size8)
	}
	p.load(r2, r4, 12, size4)
	p.store(fp, frFlow4, r2, size4)
	p.store(fp, frFlow4+4, r1, size4)
	p.add(asm.JEq.Reg(r1, r2, "malformed"))
	for _, half := range []struct {
		at int16
		r  asm.Register
	}{{frSource, r2}, {frService, r1}} { // as ::ffff:a.b.c.d
		p.put(fp, half.at, 0, size8)
		p.put(fp, half.at+8, -0x10000, size4) // 00 00 ff ff
		p.store(fp, half.at+12, half.r, size4)
	}
	p.put(fp, frFamily, 4, size1)
	p.load(r1, r4, 0, size1)
	p.mov(r2, r1)
	p.add(asm.RSh.Imm(r2, 4), asm.JNE.Imm(r2, 4, "malformed"))
	p.add(asm.And.Imm(r1, 15), asm.LSh.Imm(r1, 2), asm.JLT.Imm(r1, 20, "malformed"))
	p.load(r2, r4, 2, size2)
	p.swap(r2, size2)
	p.add(asm.JLT.Reg(r2, r1, "malformed"))
	p.add(asm.Sub.Reg(r2, r1))
	p.store(fp, frLen, r2, size8)
	p.mov(r2, r4)
	p.add(asm.Add.Reg(r2, r1), asm.JGT.Reg(r2, r8, "malformed"))
	p.load(r3, fp, frL3, size1)
	p.add(asm.Add.Reg(r3, r1))
	p.store(fp, frL4, r3, size8)

	p.load(r2, r4, 12, size1)
	p.add(asm.JEq.Imm(r2, 0, "malformed"), asm.JEq.Imm(r2, 127, "malformed"), asm.JGE.Imm(r2, 224, "malformed"))
	p.load(r1, r4, 9, size1)
	p.load(r2, r4, 6, size2)
	p.add(asm.And.Imm(r2, 0xff3f), asm.JEq.Imm(r2, 0, "transport")) // more fragments, or an offset
	p.kinds()
	p.goTo("rest")
}

// kinds notes UDP and ICMP of the protocol in r1.
func (p *program) kinds() {
	end := p.name("kind")
	for _, k := range []struct{ proto, kind int32 }{{protoUDP, kindUDP}, {protoICMP, kindICMP}, {protoICMPv6, kindICMP}} {
		next := p.name("kind")
		p.add(asm.JNE.Imm(r1, k.proto, next))
		if k.proto != protoUDP { // each with its own version of IP
			p.load(r2, fp, frFamily, size1)
			p.add(asm.JNE.Imm(r2, map[int32]int32{protoICMP: 4, protoICMPv6: 6}[k.proto], next))
		}
		p.put(fp, frKind, int64(k.kind), size8)
		p.goTo(end)
		p.at(next)
	}
	p.at(end)
}

func (p *program) ipv6() {
	p.at("ipv6")
	p.within(r4, r8, 40, r1, "malformed")
	p.load(r1, r4, 24, size8)
	p.load(r2, r4, 32, size8)
	for _, a := range p.f.Addrs {
		if a = a.Unmap(); a.Is6() {
			b, next := a.As16(), p.name("next6")
			p.set64(r3, le.Uint64(b[:]))
			p.add(asm.JNE.Reg(r1, r3, next))
			p.set64(r3, le.Uint64(b[8:]))
			p.add(asm.JEq.Reg(r2, r3, "ours6"))
			p.at(next)
		}
	}
	p.goTo("pass")
	if !slices.ContainsFunc(p.f.Addrs, func(a netip.Addr) bool { return a.Unmap().Is6() }) {
		return
	}

	p.at("ours6")
	p.store(fp, frFlow+16, r1, size8)
	p.store(fp, frFlow+24, r2, size8)
	p.store(fp, frService, r1, size8)
	p.store(fp, frService+8, r2, size8)
	p.load(r3, r4, 8, size8)
	p.load(r5, r4, 16, size8)
	p.store(fp, frFlow, r3, size8)
	p.store(fp, frFlow+8, r5, size8)
	p.store(fp, frSource, r3, size8)
	p.store(fp, frSource+8, r5, size8)
	p.add(asm.JNE.Reg(r1, r3, "other6"), asm.JEq.Reg(r2, r5, "malformed"))
	p.at("other6")
	p.put(fp, frFamily, 6, size1)
	p.load(r1, r4, 0, size1)
	p.add(asm.RSh.Imm(r1, 4), asm.JNE.Imm(r1, 6, "malformed"))
	p.add(asm.JEq.Imm(r3, 0, "malformed")) // unspecified, loopback, mapped
	p.add(asm.And.Imm(r3, 0xff), asm.JEq.Imm(r3, 0xff, "malformed"))
	p.load(r1, r4, 4, size2)
	p.swap(r1, size2)
	p.store(fp, frLen, r1, size8)
	p.load(r3, fp, frL3, size1)
	p.add(asm.Add.Imm(r3, 40))
	p.store(fp, frL4, r3, size8)
	p.load(r1, r4, 6, size1)
	p.goTo("transport")
}

// transport tells the protocols apart.
func (p *program) transport() {
	p.at("transport")
	p.load(r2, r7, 6, size1)                                   // within: the IP header was
	p.add(asm.And.Imm(r2, 1), asm.JNE.Imm(r2, 0, "malformed")) // no station has a group address
	p.add(asm.JEq.Imm(r1, protoTCP, "tcp"))
	p.kinds()
	p.load(r2, fp, frL4, size8)
	p.mov(r4, r7)
	p.add(asm.Add.Reg(r4, r2))
	p.add(asm.JEq.Imm(r1, protoUDP, "udp"))
	p.load(r2, fp, frKind, size8)
	p.add(asm.JEq.Imm(r2, kindICMP, "icmp"))
	p.goTo("rest")
}

// tcp reads the header and goes to "link", "service" or "other tcp"; flags are in r1.
func (p *program) tcp() {
	p.at("tcp")
	p.load(r2, fp, frL4, size8)
	p.mov(r4, r7)
	p.add(asm.Add.Reg(r4, r2))
	p.within(r4, r8, tcpLen, r1, "malformed")
	p.load(r1, r4, 13, size1)
	p.mov(r3, r1)
	p.add(asm.And.Imm(r3, flagSYN|flagACK), asm.JNE.Imm(r3, flagSYN, "no syn"))
	p.put(fp, frKind, kindSYN, size8)
	p.at("no syn")
	p.add(asm.And.Imm(r1, flagFIN|flagSYN|flagRST|flagACK))
	p.store(fp, frFlags, r1, size8)

	p.load(r1, r4, 12, size1)
	p.add(asm.RSh.Imm(r1, 4), asm.LSh.Imm(r1, 2), asm.JLT.Imm(r1, tcpLen, "malformed"))
	p.load(r3, fp, frLen, size8)
	p.add(asm.JLT.Reg(r3, r1, "malformed"))
	p.mov(r5, r4)
	p.add(asm.Add.Reg(r5, r1), asm.JGT.Reg(r5, r8, "malformed"))
	p.store(fp, frHeader, r1, size8)
	p.add(asm.Sub.Reg(r3, r1))
	p.store(fp, frLen, r3, size8)
	p.add(asm.Add.Reg(r2, r1))
	p.store(fp, frData, r2, size8)
	p.load(r1, r4, 0, size4)
	p.store(fp, frPorts, r1, size4)
	p.add(asm.And.Imm(r1, 0xffff), asm.JEq.Imm(r1, 0, "malformed"))
	for at, slot := range map[int16]int16{4: frSeq, 8: frAck} {
		p.load(r1, r4, at, size4)
		p.swap(r1, size4)
		p.store(fp, slot, r1, size8)
	}
	p.load(r1, fp, frFlags, size8)
	p.load(r2, r4, 2, size2)
	p.load(r3, r9, rulePort, size2)
	p.add(asm.JEq.Reg(r2, r3, "link"))

	p.load(r3, r9, ruleFlags, size4)
	p.add(asm.And.Imm(r3, flagServices), asm.JEq.Imm(r3, 0, "other tcp"))
	p.store(fp, frService+16, r2, size2)
	p.put(fp, frService+18, 0, size2)
	p.lookup(p.m.services, frService, "other tcp")
	p.load(r1, r0, 0, size4)
	p.goTo("service")
}

// allowed goes to label if the source is a peer's or the management's.
func (p *program) allowed(label string) {
	end := p.name("strange")
	p.load(r3, r9, ruleFlags, size4)
	p.add(asm.And.Imm(r3, flagAllow), asm.JEq.Imm(r3, 0, end))
	p.addr(r1, fp, frFlow)
	p.load(r2, fp, frFamily, size1)
	p.sub("allowed")
	p.add(asm.JNE.Imm(r0, 0, label))
	p.at(end)
}

// admitted goes to label if the source has leave to the link port. Strangers, who come by the million, are told by a bit that
// stays in the cache; the table does not.
func (p *program) admitted(label string) {
	end := p.name("strange")
	p.load(r2, fp, frSource, size8)
	p.load(r1, fp, frSource+8, size8)
	p.add(asm.Xor.Reg(r2, r1))
	p.set64(r1, hintFactor)
	p.add(asm.Mul.Reg(r2, r1), asm.RSh.Imm(r2, 64-hintBits))
	p.mov(r3, r2)
	p.add(asm.And.Imm(r3, 63), asm.RSh.Imm(r2, 6), asm.LSh.Imm(r2, 3), asm.And.Imm(r2, hintSize-8))
	p.add(asm.LoadMapValue(r1, p.m.hints.FD(), 0), asm.Add.Reg(r1, r2))
	p.load(r1, r1, 0, size8)
	p.add(asm.RSh.Reg(r1, r3), asm.And.Imm(r1, 1), asm.JEq.Imm(r1, 0, end))
	p.lookup(p.m.admitted, frSource, end)
	p.load(r1, r0, 0, size8)
	p.load(r2, fp, frNow, size8)
	p.add(asm.JGT.Reg(r1, r2, label))
	p.at(end)
}

// live goes to label if the kernel has a socket for the flow that is not a listener.
func (p *program) live(label string) {
	p.mov(r1, r6)
	p.addr(r2, fp, frFlow)
	p.load(r3, fp, frFamily, size1)
	p.sub("live")
	p.add(asm.JNE.Imm(r0, 0, label))
}

// budget goes to label while a bucket lasts; rate is a second, and so is the burst.
func (p *program) budget(bucket uint32, rate int64, label string) {
	p.add(asm.LoadMapValue(r1, p.m.buckets.FD(), bucket))
	p.load(r2, fp, frNow, size8)
	p.set(r3, int32(oneSecond/rate))
	p.set(r4, oneSecond)
	p.sub("take")
	p.add(asm.JNE.Imm(r0, 0, label))
}

// drop counts and drops.
func (p *program) drop(s stat) {
	p.count(s)
	p.goTo("drop")
}

func (p *program) count(s stat) {
	p.load(r1, fp, frCount, size8)
	p.increment(r1, s)
}

func (p *program) increment(at asm.Register, s stat) {
	p.load(r2, at, int16(s)*8, size8)
	p.add(asm.Add.Imm(r2, 1))
	p.store(at, int16(s)*8, r2, size8)
}

// link decides about TCP to the link port; flags are in r1.
func (p *program) link() {
	p.at("link")
	p.add(asm.JEq.Imm(r1, flagSYN, "syn"))
	p.admitted("pass")
	p.allowed("pass")
	p.load(r1, r9, ruleMode, size4)
	p.add(asm.JEq.Imm(r1, int32(Dark), "stray"))
	p.load(r1, fp, frFlags, size8)
	p.mov(r2, r1)
	p.add(asm.And.Imm(r2, flagSYN|flagRST|flagACK), asm.JNE.Imm(r2, flagACK, "stray"))
	p.load(r3, fp, frLen, size8)
	p.add(asm.And.Imm(r1, flagFIN), asm.JNE.Imm(r1, 0, "fin"))
	p.add(asm.JEq.Imm(r3, 0, "stray"), asm.JLT.Imm(r3, preambleLen, "short"), asm.JGT.Imm(r3, firstFlightMax, "short"))

	// A first flight: a cookie of this epoch or of the last?
	p.load(r1, fp, frData, size8)
	p.add(asm.Add.Reg(r1, r7), asm.Add.Imm(r1, preambleLen), asm.JGT.Reg(r1, r8, "short"))
	p.epochs(func() {
		p.load(r1, fp, frSeq, size8)
		p.add(asm.Sub.Imm(r1, 1))
		p.mix(r0, r1, r2)
		p.load(r2, fp, frAck, size8)
		p.add(asm.Sub.Imm(r2, 1), asm.JEq.Reg32(r0, r2, "flight"))
	})
	p.live("pass")
	p.drop(statCookiesBad)

	p.at("flight")
	p.claim(-1)
	p.add(asm.JNE.Imm(r0, claimGood, "flight forged"))
	// Proven by its cookie, so each address has a budget of its own.
	p.load(r1, fp, frSource, size8)
	p.store(fp, frClaim+8, r1, size8)
	p.load(r2, fp, frFamily, size1)
	p.load(r1, fp, frSource+8, size8)
	p.add(asm.JEq.Imm(r2, 4, "flight of 4"))
	p.set(r1, 0) // a /64
	p.at("flight of 4")
	p.store(fp, frClaim+16, r1, size8)
	p.agent(classFlight, flightRate, flightBurst, "pass")
	p.drop(statFlightsLimited)
	p.at("flight forged")
	p.count(statCookiesOK)
	p.stranger()
	p.drop(statBadTag)

	p.at("short")
	p.live("pass")
	p.drop(statShort)

	p.at("fin") // the checker answers ours
	p.epochs(func() {
		p.add(asm.RSh.Imm(r0, 48))
		for _, sent := range []int32{0, sealedLen + 1} {
			p.load(r1, fp, frAck, size8)
			p.add(asm.Sub.Imm32(r1, 1+sent), asm.RSh.Imm32(r1, 16))
			p.add(asm.JEq.Reg(r0, r1, "pass"))
		}
	})

	p.at("stray")
	p.live("pass")
	p.at("ignored")
	p.drop(statIgnored)
}

// stranger counts the source's prefix: its /48, or what is before the last byte of ::ffff:a.b.c.d.
func (p *program) stranger() {
	six, counted, unknown := p.name("six"), p.name("counted"), p.name("unknown")
	p.load(r1, fp, frFamily, size1)
	p.load(r2, fp, frSource, size8)
	p.set64(r3, 1<<48-1)
	p.add(asm.JEq.Imm(r1, 6, six))
	p.load(r2, fp, frSource+8, size8)
	p.set64(r3, 1<<56-1)
	p.at(six)
	p.add(asm.And.Reg(r2, r3))
	p.store(fp, frClaim+8, r2, size8)
	p.lookup(p.m.strangers, frClaim+8, unknown)
	p.load(r1, r0, 0, size8)
	p.add(asm.Add.Imm(r1, 1))
	p.store(r0, 0, r1, size8)
	p.goTo(counted)
	p.at(unknown)
	p.put(fp, frClaim+16, 1, size8)
	p.add(asm.LoadMapPtr(r1, p.m.strangers.FD()))
	p.addr(r2, fp, frClaim+8)
	p.addr(r3, fp, frClaim+16)
	p.set(r4, 0)
	p.call(asm.FnMapUpdateElem)
	p.at(counted)
}

// epochs hashes the flow into r0 for this epoch and the last; try goes elsewhere if it likes it.
func (p *program) epochs(try func()) {
	for back := range int32(2) {
		next := p.name("epoch")
		p.epoch(r3)
		if back == 1 {
			p.add(asm.JEq.Imm(r3, 0, next), asm.Sub.Imm(r3, 1))
		}
		p.flow()
		try()
		p.at(next)
	}
}

func (p *program) epoch(dst asm.Register) {
	p.load(dst, fp, frNow, size8)
	p.load(r1, r9, ruleStart, size8)
	p.add(asm.Sub.Reg(dst, r1), asm.RSh.Imm(dst, epochBits))
}

// flow hashes the flow in the epoch of r3 into r0.
func (p *program) flow() {
	p.addr(r1, fp, frFlow)
	p.load(r2, fp, frFamily, size1)
	p.load(r4, r9, ruleKey, size8)
	p.load(r5, r9, ruleKey+8, size8)
	p.sub("flow")
}

// mix turns the hash in h into the cookie of an ISN, which is destroyed; see jar.
func (p *program) mix(h, isn, scratch asm.Register) {
	p.add(asm.Mov.Reg32(scratch, isn), asm.RSh.Imm32(scratch, 16), asm.Xor.Reg32(isn, scratch), asm.Xor.Reg32(isn, h))
	p.add(asm.And.Imm32(isn, 0xffff), asm.RSh.Imm(h, 48), asm.LSh.Imm(h, 16), asm.Or.Reg(h, isn))
}

// claim leaves the preamble at frData in frClaim, and in r0 claimGood or why not. With a class, 0 or more,
// it first looks whether the handle is over its rate in that: who replays a proof makes no work.
func (p *program) claim(class int32) {
	p.mov(r1, r6)
	p.load(r2, fp, frData, size8)
	p.addr(r3, fp, frClaim)
	p.set(r4, class)
	p.load(r5, fp, frNow, size8)
	p.sub("claim")
}

// agent goes to label while what begins at frClaim+8, a handle or an address, keeps within its rate.
func (p *program) agent(class int64, rate, burst int64, label string) {
	p.put(fp, frClaim+24, class, size8)
	p.addr(r1, fp, frClaim+8)
	p.load(r2, fp, frNow, size8)
	p.set(r3, int32(oneSecond/rate))
	p.set64(r4, inAdvance(rate, burst))
	p.sub("agent")
	p.add(asm.JNE.Imm(r0, 0, label))
}

// syn decides about a SYN to the link port.
func (p *program) syn() {
	p.at("syn")
	p.admitted("pass")
	p.allowed("pass")
	p.load(r3, fp, frLen, size8)
	p.load(r1, r9, ruleMode, size4)
	p.add(asm.JNE.Imm(r1, int32(Dark), "seen"), asm.JLT.Imm(r3, preambleLen, "ignored"))
	p.at("seen")
	p.count(statSYNSeen)
	p.put(fp, frClass, synFresh, size8)
	p.add(asm.JLT.Imm(r3, preambleLen, "ordinary"))
	p.load(r1, fp, frData, size8)
	p.add(asm.Add.Reg(r1, r7), asm.Add.Imm(r1, preambleLen), asm.JGT.Reg(r1, r8, "ordinary"))
	p.claim(classSYN)
	p.add(asm.JEq.Imm(r0, claimForged, "forged"), asm.JEq.Imm(r0, claimLimited, "limited"))
	p.timely("stale")
	p.agent(classSYN, agentRate, agentBurst, "keyed")
	p.at("limited")
	p.count(statKeyedLimited)
	p.goTo("ordinary")
	p.at("forged")
	p.count(statBadTag)
	p.goTo("ordinary")
	p.at("stale")
	p.count(statKeyedStale)

	p.at("ordinary")
	p.load(r1, r9, ruleMode, size4)
	p.add(asm.JEq.Imm(r1, int32(Dark), "drop"))
	p.epoch(r3)
	p.flow()
	p.store(fp, frFlow64, r0, size8)
	p.share()
	p.goTo("answer")

	p.at("keyed")
	p.load(r1, r9, ruleMode, size4)
	p.add(asm.JEq.Imm(r1, int32(Dark), "dark keyed"))
	p.count(statKeyed)
	p.put(fp, frClass, synKeyed, size8)
	p.epoch(r3)
	p.flow()
	p.store(fp, frFlow64, r0, size8)
	p.goTo("answer")
	p.at("dark keyed") // the checker counts and admits
	p.load(r1, fp, frCount, size8)
	p.load(r2, r1, int16(statSYNSeen)*8, size8)
	p.add(asm.Sub.Imm(r2, 1))
	p.store(r1, int16(statSYNSeen)*8, r2, size8)
	p.goTo("pass")
}

// timely goes to label if the preamble's time is too far from ours.
func (p *program) timely(label string) {
	p.load(r1, fp, frNow, size8)
	p.load(r2, r9, ruleWall, size8)
	p.add(asm.Add.Reg(r1, r2))
	p.load(r2, fp, frClaim+32, size4)
	p.swap(r2, size4)
	p.add(asm.Mul.Imm(r2, 1_000_000_000), asm.Sub.Reg(r1, r2))
	p.set64(r2, uint64(maxSkew))
	p.add(asm.JSGT.Reg(r1, r2, label), asm.Neg.Imm(r1, 0), asm.JSGT.Reg(r1, r2, label))
}

// share lets a SYN's share by, having looked whether it was seen before, if that matters. The flow's
// hash is in r0.
func (p *program) share() {
	p.load(r1, r9, ruleFresh, size8)
	p.set64(r2, 1<<32)
	p.add(asm.JEq.Reg(r1, r2, "fair"))
	// 4 cells in a row of the table: fingerprint 24 bits, time 8. The newest comes first, the oldest
	// falls out: a SYN is remembered until 4 more come to its row.
	p.load(r1, fp, frSeq, size8)
	p.set64(r2, 0x9e3779b97f4a7c15)
	p.add(asm.Mul.Reg(r1, r2), asm.RSh.Imm(r0, 16), asm.Xor.Reg(r0, r1))
	p.mov(r1, r0)
	p.add(asm.RSh.Imm(r1, 40), asm.And.Imm(r1, seenRows-1))
	p.store(fp, frScratch, r1, size4)
	p.add(asm.RSh.Imm(r0, 16), asm.And.Imm(r0, 0xffffff))
	p.store(fp, frCookie, r0, size8)
	p.lookup(p.m.seen, frScratch, "drop")
	p.load(r3, fp, frCookie, size8) // fingerprint
	p.load(r1, fp, frNow, size8)
	p.add(asm.RSh.Imm(r1, seenTick), asm.And.Imm(r1, 0xff)) // time
	p.load(r4, r0, 0, size8)
	p.load(r5, r0, 8, size8)
	for _, cells := range []asm.Register{r4, r5} {
		for _, high := range []bool{false, true} {
			next := p.name("cell")
			p.mov(r2, cells)
			if high {
				p.add(asm.RSh.Imm(r2, 32))
			} else {
				p.add(asm.Mov.Reg32(r2, r2))
			}
			p.add(asm.RSh.Imm(r2, 8), asm.JNE.Reg(r2, r3, next))
			p.mov(r2, cells)
			if high {
				p.add(asm.RSh.Imm(r2, 32))
			}
			p.add(asm.Sub.Reg(r2, r1), asm.Neg.Imm(r2, 0), asm.And.Imm(r2, 0xff)) // its age
			p.add(asm.JEq.Imm(r2, 0, next), asm.JGT.Imm(r2, seenAge, next))
			p.put(fp, frClass, synAgain, size8)
			p.at(next)
		}
	}
	p.add(asm.LSh.Imm(r3, 8), asm.Or.Reg(r3, r1))
	p.add(asm.LSh.Imm(r5, 32))
	p.mov(r2, r4)
	p.add(asm.RSh.Imm(r2, 32), asm.Or.Reg(r5, r2), asm.LSh.Imm(r4, 32), asm.Or.Reg(r4, r3))
	p.store(r0, 0, r4, size8)
	p.store(r0, 8, r5, size8)
	p.call(asm.FnGetPrandomU32)
	p.load(r1, r9, ruleFresh, size8)
	p.load(r2, fp, frClass, size8)
	p.add(asm.JEq.Imm(r2, synFresh, "draw"))
	p.count(statSYNAgain)
	p.load(r1, r9, ruleAgain, size8)
	p.at("draw")
	p.add(asm.Mov.Reg32(r0, r0), asm.JLT.Reg(r0, r1, "fair"))
	p.drop(statSYNSampledOut)
	p.at("fair")
}

// answer sends a SYN-ACK back the way the SYN came. At "answer" the cookie is made of the flow's hash;
// at "send" it is in frCookie, and the options behind a TCP header in frTCP, of frOut bytes.
func (p *program) answer() {
	p.at("answer")
	p.spend("over budget")
	p.count(statSYNAnswered)
	p.load(r0, fp, frFlow64, size8)
	p.load(r1, fp, frSeq, size8)
	p.mix(r0, r1, r2)
	p.store(fp, frCookie, r0, size8)
	for i := int16(0); i < 40; i += 8 {
		p.put(fp, frTCP+i, 0, size8)
	}
	p.put(fp, frTCP+14, int64(window>>8|window&0xff<<8), size2)
	p.set(r1, tcpLen)
	p.load(r2, fp, frHeader, size8)
	p.add(asm.JEq.Imm(r2, tcpLen, "bare"))
	p.mssOption()
	p.set(r1, tcpLen+4)
	p.at("bare")
	p.store(fp, frOut, r1, size8)
	p.goTo("send")

	p.at("over budget")
	p.drop(statSYNCapped)

	p.at("send")
	p.tcpHeader()
	p.resize()
	p.load(r7, r6, 0, size4)
	p.load(r8, r6, 4, size4)
	p.within(r7, r8, etherLen, r1, "lost")
	p.load(r1, r7, 0, size4)
	p.load(r2, r7, 4, size2)
	p.load(r3, r7, 6, size4)
	p.load(r4, r7, 10, size2)
	p.store(r7, 6, r1, size4)
	p.store(r7, 10, r2, size2)
	p.store(r7, 0, r3, size4)
	p.store(r7, 4, r4, size2)
	p.load(r1, fp, frL3, size1)
	p.mov(r4, r7)
	p.add(asm.Add.Reg(r4, r1))
	p.load(r1, fp, frFamily, size1)
	p.add(asm.JEq.Imm(r1, 6, "send6"))
	p.send4()
	p.at("send6")
	p.send6()
}

// spend takes an answer from the budget: keyed SYNs find something left when others do not.
func (p *program) spend(over string) {
	p.load(r3, r9, ruleAnswers, size8)
	end := p.name("no cap")
	p.add(asm.JEq.Imm(r3, 0, end))
	p.add(asm.LoadMapValue(r1, p.m.buckets.FD(), bucketAnswers))
	p.load(r2, fp, frNow, size8)
	p.load(r4, fp, frClass, size8)
	p.add(asm.Mul.Imm(r4, answerStep), asm.Add.Imm(r4, answerStep))
	p.sub("take")
	p.add(asm.JEq.Imm(r0, 0, over))
	p.at(end)
}

// mssOption puts the option into the header at frTCP.
func (p *program) mssOption() {
	family := p.name("mss")
	p.load(r4, r9, ruleMSS, size4)
	p.load(r5, fp, frFamily, size1)
	p.add(asm.JEq.Imm(r5, 4, family))
	p.load(r4, r9, ruleMSS+4, size4)
	p.at(family)
	p.store(fp, frTCP+tcpLen, r4, size4)
}

// tcpHeader fills in all but the window and the checksum, for which it leaves a sum in r0, with the
// ports, in frScratch.
func (p *program) tcpHeader() {
	p.load(r1, fp, frPorts, size2)
	p.store(fp, frTCP+2, r1, size2)
	p.load(r1, fp, frPorts+2, size2)
	p.store(fp, frTCP, r1, size2)
	p.load(r1, fp, frCookie, size8)
	p.swap(r1, size4)
	p.store(fp, frTCP+4, r1, size4)
	p.load(r1, fp, frSeq, size8)
	p.add(asm.Add.Imm(r1, 1))
	p.swap(r1, size4)
	p.store(fp, frTCP+8, r1, size4)
	p.load(r1, fp, frOut, size8)
	p.add(asm.LSh.Imm(r1, 2))
	p.store(fp, frTCP+12, r1, size1)
	p.put(fp, frTCP+13, flagSYN|flagACK, size1)
}

// resize makes the frame as long as the answer.
func (p *program) resize() {
	p.load(r2, fp, frL3, size1)
	p.load(r1, fp, frOut, size8)
	p.add(asm.Add.Reg(r2, r1), asm.Add.Imm(r2, 20))
	p.load(r1, fp, frFamily, size1)
	p.add(asm.JEq.Imm(r1, 4, "sized4"), asm.Add.Imm(r2, 20))
	p.at("sized4")
	p.mov(r1, r8)
	p.add(asm.Sub.Reg(r1, r7), asm.Sub.Reg(r2, r1))
	p.add(asm.JEq.Imm(r2, 0, "sized"), asm.JSGT.Imm(r2, 0, "lost")) // never larger than the SYN
	p.mov(r1, r6)
	p.call(asm.FnXdpAdjustTail)
	p.add(asm.JNE.Imm(r0, 0, "lost"))
	p.at("sized")
}

func (p *program) send4() {
	const ip = 20
	p.within(r4, r8, ip+tcpLen, r1, "lost")
	p.load(r5, fp, frOut, size8)
	p.mov(r1, r5)
	p.add(asm.Add.Imm(r1, ip))
	p.swap(r1, size2)
	p.add(asm.LSh.Imm(r1, 16), asm.Or.Imm(r1, 0x45))
	p.store(r4, 0, r1, size4)
	p.put(r4, 4, 0x400000, size4) // don't fragment
	p.set(r2, 64|protoTCP<<8)
	p.store(r4, 8, r2, size4)
	p.add(asm.Add.Reg(r1, r2), asm.Add.Imm(r1, 0x400000))
	p.load(r0, fp, frFlow4+4, size4)
	p.store(r4, 12, r0, size4)
	p.load(r2, fp, frFlow4, size4)
	p.store(r4, 16, r2, size4)
	p.add(asm.Add.Reg(r0, r2), asm.Add.Reg(r1, r0))
	p.fold(r1, r2)
	p.store(r4, 10, r1, size2)
	p.finish(ip)
}

func (p *program) send6() {
	const ip = 40
	p.within(r4, r8, ip+tcpLen, r1, "lost")
	p.load(r5, fp, frOut, size8)
	p.put(r4, 0, 0x60, size4)
	p.mov(r1, r5)
	p.swap(r1, size2)
	p.set64(r2, protoTCP<<16|64<<24)
	p.add(asm.Or.Reg(r1, r2))
	p.store(r4, 4, r1, size4)
	p.set(r0, 0)
	for i := int16(0); i < 16; i += 4 {
		p.load(r1, fp, frFlow+16+i, size4)
		p.store(r4, 8+i, r1, size4)
		p.add(asm.Add.Reg(r0, r1))
		p.load(r1, fp, frFlow+i, size4)
		p.store(r4, 24+i, r1, size4)
		p.add(asm.Add.Reg(r0, r1))
	}
	p.finish(ip)
}

// finish copies the TCP header behind an IP header at r4. The sum of the addresses is in r0, the TCP
// header's length in r5.
func (p *program) finish(ip int16) {
	p.mov(r1, r5)
	p.swap(r1, size2)
	p.add(asm.LSh.Imm(r1, 16), asm.Add.Imm(r1, protoTCP<<8), asm.Add.Reg(r0, r1))
	for i := int16(0); i < 40; i += 4 {
		p.load(r1, fp, frTCP+i, size4)
		p.add(asm.Add.Reg(r0, r1))
		if i < tcpLen {
			p.store(r4, ip+i, r1, size4)
		}
	}
	p.fold(r0, r1)
	p.store(r4, ip+16, r0, size2)
	for _, length := range []int16{4, 16, 20} {
		p.add(asm.JLT.Imm(r5, int32(tcpLen+length), "tx"))
		p.within(r4, r8, int32(ip+tcpLen+length), r1, "lost")
		for i := map[int16]int16{4: 0, 16: 4, 20: 16}[length]; i < length; i += 4 {
			p.load(r1, fp, frTCP+tcpLen+i, size4)
			p.store(r4, ip+tcpLen+i, r1, size4)
		}
	}
	p.goTo("tx")
}

// fold turns a sum of 32-bit words into a checksum.
func (p *program) fold(r, scratch asm.Register) {
	p.mov(scratch, r)
	p.add(asm.RSh.Imm(scratch, 32), asm.Mov.Reg32(r, r), asm.Add.Reg(r, scratch))
	for range 3 {
		p.mov(scratch, r)
		p.add(asm.RSh.Imm(scratch, 16), asm.And.Imm(r, 0xffff), asm.Add.Reg(r, scratch))
	}
	p.add(asm.Xor.Imm(r, 0xffff))
}

// knock lets a datagram with a good tag up to the checker. r4 is the UDP header.
func (p *program) knock() {
	p.at("udp")
	p.within(r4, r8, udpLen, r1, "malformed")
	p.load(r1, fp, frLen, size8)
	p.load(r2, r4, 4, size2)
	p.swap(r2, size2)
	p.add(asm.JLT.Imm(r1, udpLen, "malformed"), asm.JNE.Reg(r1, r2, "malformed"))
	p.load(r2, r4, 0, size4)
	p.store(fp, frPorts, r2, size4)
	p.load(r2, r4, 2, size2)
	p.load(r3, r9, rulePort, size2)
	p.add(asm.JNE.Reg(r2, r3, "other udp"))
	p.add(asm.JNE.Imm(r1, udpLen+preambleLen, "short knock"))
	p.within(r4, r8, udpLen+preambleLen, r1, "short knock")
	p.load(r1, fp, frL4, size8)
	p.add(asm.Add.Imm(r1, udpLen))
	p.store(fp, frData, r1, size8)
	p.claim(classKnock)
	p.add(asm.JEq.Imm(r0, claimForged, "forged knock"), asm.JEq.Imm(r0, claimLimited, "limited knock"))
	p.agent(classKnock, agentRate, agentBurst, "pass")
	p.at("limited knock")
	p.count(statKnocks)
	p.drop(statKnockLimited)
	p.at("forged knock")
	p.drop(statBadTag)
	p.at("short knock")
	p.drop(statShort)
}

// udp decides about datagrams to other ports: answers to connected sockets pass, and the rest within
// a budget, since a service or a masqueraded container may want them.
func (p *program) udp() {
	p.at("other udp")
	p.allowed("pass")
	p.mov(r1, r6)
	p.addr(r2, fp, frFlow)
	p.load(r3, fp, frFamily, size1)
	p.sub("connected")
	p.add(asm.JNE.Imm(r0, 0, "pass"))
	p.budget(bucketUDP, udpRate, "pass")
	p.drop(statFlooded)
}

// icmp lets by what path MTU discovery and IPv6's neighbour discovery need; of the rest an entry gets
// some, a hidden edge none. r4 is the ICMP header.
func (p *program) icmp() {
	p.at("icmp")
	p.within(r4, r8, 2, r1, "malformed")
	p.load(r1, r4, 0, size1)
	p.load(r2, r4, 1, size1)
	p.load(r3, fp, frFamily, size1)
	p.add(asm.JEq.Imm(r3, 6, "icmp6"))
	p.add(asm.JNE.Imm(r1, 3, "other icmp"), asm.JEq.Imm(r2, 4, "too big"))
	p.goTo("other icmp")

	p.at("icmp6")
	p.add(asm.JEq.Imm(r1, 2, "too big"))
	p.load(r3, fp, frL3, size1)
	p.mov(r4, r7)
	p.add(asm.Add.Reg(r4, r3))
	p.within(r4, r8, 40, r2, "malformed")
	p.load(r2, r4, 7, size1) // hop limit
	p.add(asm.JEq.Imm(r2, 255, "neighbour"))
	p.add(asm.JNE.Imm(r2, 1, "other icmp"), asm.JEq.Imm(r1, 130, "pass")) // an MLD query
	p.goTo("other icmp")
	p.at("neighbour")
	p.add(asm.JLT.Imm(r1, 133, "other icmp"), asm.JGT.Imm(r1, 137, "other icmp"))
	p.goTo("pass")

	p.at("too big")
	p.allowed("pass")
	p.budget(bucketTooBig, icmpRate, "pass")
	p.drop(statFlooded)

	p.at("other icmp")
	p.allowed("pass")
	p.load(r1, r9, ruleMode, size4)
	p.add(asm.JEq.Imm(r1, int32(Dark), "flooded"))
	p.budget(bucketICMP, icmpRate, "pass")
	p.at("flooded")
	p.drop(statFlooded)

	p.at("rest") // other protocols, extension headers, fragments
	p.allowed("pass")
	p.load(r1, r9, ruleMode, size4)
	p.add(asm.JEq.Imm(r1, int32(Dark), "flooded"))
	p.budget(bucketRest, restRate, "pass")
	p.goTo("flooded")
}

// otherTCP decides about ports that nobody guards.
func (p *program) otherTCP() {
	p.at("other tcp")
	p.allowed("pass")
	p.load(r1, fp, frFlags, size8)
	p.add(asm.JEq.Imm(r1, flagSYN, "other syn"))
	p.live("pass")
	p.goTo("other left")
	p.at("other syn")
	p.load(r1, r9, ruleMode, size4)
	p.add(asm.JEq.Imm(r1, int32(Dark), "flooded"))
	p.budget(bucketSYN, otherSYNRate, "pass")
	p.goTo("flooded")
	p.at("other left")
	p.budget(bucketRest, restRate, "pass")
	p.goTo("flooded")
}

// ends are the ways out.
func (p *program) ends() {
	p.at("malformed")
	p.count(statMalformed)
	p.at("drop")
	p.eaten()
	p.set(r0, xdpDrop)
	p.add(asm.Return())

	p.at("lost") // the frame is not whole any more
	p.count(statSendLost)
	p.goTo("drop")

	p.at("tx")
	p.eaten()
	p.set(r0, xdpTX)
	p.add(asm.Return())

	p.at("pass")
	p.set(r0, xdpPass)
	p.add(asm.Return())
}

// eaten counts a packet that no packet socket will see.
func (p *program) eaten() {
	p.load(r1, fp, frCount, size8)
	p.increment(r1, statFrames)
	p.load(r2, fp, frKind, size8)
	p.add(asm.And.Imm(r2, kindUDP), asm.LSh.Imm(r2, 3), asm.Add.Reg(r1, r2))
	p.increment(r1, 0)
}
