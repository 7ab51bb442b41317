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
