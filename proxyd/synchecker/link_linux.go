// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

package synchecker

import "github.com/cilium/ebpf/asm"

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
