// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

package synchecker

import "github.com/cilium/ebpf/asm"

// functions are what the main function calls. They take r1 to r5 and return r0.
func (p *program) functions() {
	p.flowFunction()
	p.claimFunction()
	p.taggedFunction()
	p.takeFunction()
	p.agentFunction()
	p.allowedFunction()
	p.socketFunction("live", asm.FnSkcLookupTcp, func() { p.add(asm.JEq.Imm(r6, listen, "live no")) })
	p.socketFunction("connected", asm.FnSkLookupUdp, func() { p.add(asm.JNE.Imm(r6, established, "connected no")) })
	p.optionsFunction()
}

func (p *program) yes() {
	p.set(r0, 1)
	p.add(asm.Return())
}

func (p *program) no(label string) {
	p.at(label)
	p.set(r0, 0)
	p.add(asm.Return())
}

// flowFunction is jar.flow: r1 the frame's flow, r2 the family, r3 the epoch, r4 and r5 the key.
func (p *program) flowFunction() {
	p.at("flow")
	p.add(asm.And.Imm(r3, 0xffffff))
	p.mov(r0, r3)
	s := sip{&p.code, [4]asm.Register{r6, r7, r8, r9}, r3}
	p.set64(r3, 15<<24)
	p.add(asm.JEq.Imm(r2, 4, "flow length"))
	p.set64(r3, 39<<24)
	p.at("flow length")
	p.add(asm.Or.Reg(r0, r3))
	p.store(r1, 36, r0, size4)
	s.begin(r4, r5)
	p.add(asm.JEq.Imm(r2, 4, "flow of 4"))
	for i := int16(0); i < 24; i += 8 {
		p.load(r0, r1, i, size8)
		s.block(r0)
	}
	p.at("flow of 4")
	for i := int16(24); i < 40; i += 8 {
		p.load(r0, r1, i, size8)
		s.block(r0)
	}
	s.end()
	p.mov(r0, r6)
	p.add(asm.Return())
}

// claimFunction copies a preamble and checks its tag: r1 the context, r2 where in the frame it is, r3 64
// bytes for it, r4 the class or less than 0, r5 now. The bytes are laid out for the hash: 52, zeros,
// their length; then the tag.
func (p *program) claimFunction() {
	const key = -32 // of the agents' table: handle 16, class 8
	p.at("claim")
	p.mov(r6, r3)
	p.store(fp, key+16, r4, size8)
	p.mov(r9, r5)
	p.load(r7, r1, 0, size4)
	p.load(r8, r1, 4, size4)
	p.add(asm.Add.Reg(r7, r2))
	p.within(r7, r8, preambleLen, r1, "claim no")
	p.load(r1, r7, 0, size4)
	p.add(asm.JNE.Imm32(r1, int32(le.Uint32(preambleMagic[:])), "claim no"))
	for i := int16(0); i < 48; i += 8 {
		p.load(r1, r7, i, size8)
		p.store(r6, i, r1, size8)
	}
	p.load(r1, r7, 48, size4)
	p.store(r6, 48, r1, size4)
	p.put(r6, 52, 52<<24, size4)
	p.load(r1, r7, 52, size8)
	p.store(r6, 56, r1, size8)
	p.load(r1, r7, 6, size2)
	p.store(fp, -4, r1, size4)

	p.load(r1, fp, key+16, size8)
	p.add(asm.JSLT.Imm(r1, 0, "claim unlimited"))
	for i := int16(0); i < 16; i += 8 {
		p.load(r1, r6, 8+i, size8)
		p.store(fp, key+i, r1, size8)
	}
	p.lookup(p.m.agents, key, "claim unlimited")
	p.load(r1, r0, 0, size8)
	p.set64(r2, inAdvance(agentRate, agentBurst))
	p.add(asm.Add.Reg(r2, r9), asm.JLE.Reg(r1, r2, "claim unlimited"))
	p.set(r0, claimLimited)
	p.add(asm.Return())
	p.at("claim unlimited")
	p.lookup(p.m.masters, -4, "claim no")
	p.mov(r2, r0)
	p.mov(r1, r6)
	p.sub("tagged")
	p.add(asm.Return())
	p.no("claim no")
}

// taggedFunction is Keyring.CheckTag: r1 the preamble as claim lays it out, r2 the master.
func (p *program) taggedFunction() {
	p.at("tagged")
	s := sip{&p.code, [4]asm.Register{r6, r7, r8, r9}, r5}
	p.load(r3, r2, 0, size8)
	p.load(r4, r2, 8, size8)
	s.begin(r3, r4)
	for i := int16(8); i < 24; i += 8 {
		p.load(r0, r1, i, size8)
		s.block(r0)
	}
	for i, v := range s.v {
		p.store(fp, int16(-8-8*i), v, size8)
	}
	for last := range uint64(2) { // both keys begin alike
		if last == 1 {
			for i, v := range s.v {
				p.load(v, fp, int16(-8-8*i), size8)
			}
		}
		p.set64(r0, 17<<56|last)
		s.block(r0)
		s.end()
		p.mov([]asm.Register{r3, r4}[last], r6)
	}
	s.begin(r3, r4)
	for i := int16(0); i < 56; i += 8 {
		p.load(r0, r1, i, size8)
		s.block(r0)
	}
	s.end()
	p.load(r1, r1, 56, size8)
	p.swap(r1, size8)
	p.add(asm.JNE.Reg(r1, r6, "tagged no"))
	p.yes()
	p.no("tagged no")
}

// takeFunction takes one of a bucket: r1 when it will be full again if nobody takes (the theoretical
// arrival time of GCRA, ITU-T I.371), r2 now, r3 ns for each, r4 ns that may be taken in advance.
// Two processors may both take the last one.
func (p *program) takeFunction() {
	p.at("take")
	p.gcra(r1)
	p.no("take no")
}

func (p *program) gcra(at asm.Register) {
	fresh := p.name("bucket")
	p.load(r5, at, 0, size8)
	p.add(asm.JGE.Reg(r5, r2, fresh))
	p.mov(r5, r2)
	p.store(at, 0, r2, size8)
	p.at(fresh)
	p.add(asm.Add.Reg(r4, r2), asm.JGT.Reg(r5, r4, "take no"))
	p.add(asm.StoreXAdd(at, r3, size8))
	p.yes()
}

// agentFunction takes one of an agent's or an address's bucket: r1 the key, 24 bytes; r2 to r4 as take.
func (p *program) agentFunction() {
	p.at("agent")
	for i, r := range []asm.Register{r6, r7, r8, r9} {
		p.mov(r, asm.Register(i+1))
	}
	p.add(asm.LoadMapPtr(r1, p.m.agents.FD()))
	p.mov(r2, r6)
	p.call(asm.FnMapLookupElem)
	p.add(asm.JEq.Imm(r0, 0, "agent new"))
	p.mov(r1, r0)
	p.mov(r2, r7)
	p.mov(r3, r8)
	p.mov(r4, r9)
	p.sub("take")
	p.add(asm.Return())
	p.at("agent new")
	p.add(asm.Add.Reg(r7, r8))
	p.store(fp, -8, r7, size8)
	p.add(asm.LoadMapPtr(r1, p.m.agents.FD()))
	p.mov(r2, r6)
	p.addr(r3, fp, -8)
	p.set(r4, 0)
	p.call(asm.FnMapUpdateElem)
	p.yes()
}

// allowedFunction looks for the source among the prefixes: r1 the frame's flow, r2 the family.
func (p *program) allowedFunction() {
	p.at("allowed")
	p.add(asm.JEq.Imm(r2, 6, "allowed 6"))
	p.put(fp, -24, 32, size4)
	p.load(r3, r1, 24, size4)
	p.store(fp, -20, r3, size4)
	p.lookup(p.m.allow4, -24, "allowed no")
	p.yes()
	p.at("allowed 6")
	p.put(fp, -24, 128, size4)
	for i := int16(0); i < 16; i += 4 {
		p.load(r3, r1, i, size4)
		p.store(fp, -20+i, r3, size4)
	}
	p.lookup(p.m.allow6, -24, "allowed no")
	p.yes()
	p.no("allowed no")
}

// socketFunction looks the flow's socket up: r1 the context, r2 the frame's flow, r3 the family. refuse
// goes elsewhere if its state, in r6, is wrong.
func (p *program) socketFunction(name string, lookup asm.BuiltinFunc, refuse func()) {
	p.at(name)
	p.mov(r5, r3)
	p.set(r3, 36)
	p.add(asm.JEq.Imm(r5, 6, name+" 6"), asm.Add.Imm(r2, 24))
	p.set(r3, 12)
	p.at(name + " 6")
	p.set(r4, -1) // this network namespace
	p.set(r5, 0)
	p.call(lookup)
	p.add(asm.JEq.Imm(r0, 0, name+" no"))
	p.mov(r1, r0)
	p.load(r6, r0, skState, size4)
	p.call(asm.FnSkRelease)
	refuse()
	p.yes()
	p.no(name + " no")
}
