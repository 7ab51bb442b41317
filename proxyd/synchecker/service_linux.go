// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

package synchecker

import "github.com/cilium/ebpf/asm"

// service decides about TCP to a service port; the way of its plain clients is in r1.
//
// With PlainCookie the kernel's own cookie answers, so that an ordinary listener accepts the client:
// asked for before anything is changed, since only a listener has one. Where the kernel finds none
// needed (net.ipv4.tcp_syncookies = 1, and its own queue is not full) the SYN goes up, within a budget.
func (p *program) service() {
	p.at("service")
	p.load(r2, r9, ruleMode, size4)
	p.add(asm.JEq.Imm(r2, int32(Dark), "other tcp"))
	p.add(asm.JEq.Imm(r1, int32(PlainAdmit), "pass"))
	p.store(fp, frClass, r1, size8)
	p.allowed("pass")
	p.mov(r1, r6)
	p.socketArgs()
	p.call(asm.FnSkcLookupTcp)
	p.load(r1, fp, frClass, size8)
	p.add(asm.JEq.Imm(r0, 0, "no listener"))
	p.load(r2, r0, skState, size4)
	p.add(asm.JEq.Imm(r2, listen, "listener"))
	p.mov(r1, r0)
	p.call(asm.FnSkRelease)
	p.goTo("pass")

	p.at("no listener") // it may be forwarded to another machine
	p.add(asm.JEq.Imm(r1, int32(PlainDrop), "plain drop"))
	p.load(r1, fp, frFlags, size8)
	p.add(asm.JEq.Imm(r1, flagSYN, "plain up"))
	p.budget(bucketRest, restRate, "pass")
	p.goTo("plain drop")

	p.at("listener")
	p.store(fp, frFlow64, r0, size8)
	p.add(asm.JEq.Imm(r1, int32(PlainDrop), "plain release"))
	p.copyTCP()
	p.load(r1, fp, frFlags, size8)
	p.add(asm.JEq.Imm(r1, flagSYN, "plain syn"))
	p.add(asm.And.Imm(r1, flagSYN|flagACK|flagRST), asm.JNE.Imm(r1, flagACK, "plain release"))
	p.cookieCall(asm.FnTcpCheckSyncookie)
	p.add(asm.JEq.Imm(r0, 0, "pass"))
	p.goTo("plain drop")
	p.at("plain release")
	p.load(r1, fp, frFlow64, size8)
	p.call(asm.FnSkRelease)
	p.goTo("plain drop")

	p.at("plain syn")
	p.cookieCall(asm.FnTcpGenSyncookie)
	p.add(asm.JSGE.Imm(r0, 0, "plain cookie"))
	p.at("plain up")
	p.budget(bucketPlain, plainRate, "pass")
	p.at("plain drop")
	p.drop(statPlainDropped)

	p.at("plain cookie")
	p.add(asm.Mov.Reg32(r0, r0)) // above it: the MSS that it stands for
	p.store(fp, frCookie, r0, size8)
	p.put(fp, frClass, synFresh, size8)
	p.spend("plain drop")
	p.count(statPlainAnswered)
	p.plainOptions()
	p.goTo("send")
}

// socketArgs are the tuple and the rest for a socket lookup, in r2 to r5.
func (p *program) socketArgs() {
	four := p.name("tuple4")
	p.load(r4, fp, frFamily, size1)
	p.addr(r2, fp, frFlow4)
	p.set(r3, 12)
	p.add(asm.JEq.Imm(r4, 4, four))
	p.addr(r2, fp, frFlow)
	p.set(r3, 36)
	p.at(four)
	p.set(r4, -1) // this network namespace
	p.set(r5, 0)
}

// copyTCP copies the header to frTCP, with what follows it up to 60 bytes, and zeros behind: the
// cookie's maker wants all that there might be.
func (p *program) copyTCP() {
	for i := int16(0); i < 64; i += 8 {
		p.put(fp, frTCP+i, 0, size8)
	}
	p.load(r1, fp, frL4, size8)
	p.mov(r4, r7)
	p.add(asm.Add.Reg(r4, r1))
	for i := int16(0); i < 60; i += 4 {
		if i == 0 {
			p.within(r4, r8, tcpLen, r1, "copied")
		} else if i >= tcpLen {
			p.within(r4, r8, int32(i)+4, r1, "copied")
		}
		p.load(r1, r4, i, size4)
		p.store(fp, frTCP+i, r1, size4)
	}
	p.at("copied")
	p.set(r1, 0) // so that the verifier needs not follow each length of its own
	p.set(r4, 0)
}

// cookieCall asks about a cookie, with the listener at frFlow64, and gives the listener back. The answer
// is in r0.
func (p *program) cookieCall(f asm.BuiltinFunc) {
	four, none, done := p.name("header4"), p.name("header"), p.name("cookie")
	p.load(r1, fp, frL3, size1)
	p.mov(r2, r7)
	p.add(asm.Add.Reg(r2, r1))
	p.set(r3, 20)
	p.load(r1, fp, frFamily, size1)
	p.add(asm.JEq.Imm(r1, 4, four))
	p.within(r2, r8, 40, r1, none)
	p.set(r3, 40)
	p.at(four)
	p.within(r2, r8, 20, r1, none)
	p.load(r5, fp, frHeader, size8)
	p.add(asm.JLT.Imm(r5, tcpLen, none), asm.JGT.Imm(r5, 60, none))
	p.load(r1, fp, frFlow64, size8)
	p.addr(r4, fp, frTCP)
	p.call(f)
	p.store(fp, frCookie, r0, size8)
	p.goTo(done)
	p.at(none)
	p.put(fp, frCookie, -1, size8)
	p.at(done)
	p.load(r1, fp, frFlow64, size8)
	p.call(asm.FnSkRelease)
	p.load(r0, fp, frCookie, size8)
}

// plainOptions makes the SYN-ACK that answers the header at frTCP, but for the ports and numbers.
//
// Window scale and SACK fit into a stateless answer only as the kernel puts them: into the timestamp
// that comes back with the ACK. It reads them right only if its timestamps have no secret offset
// (net.ipv4.tcp_timestamps = 2, flagStamps); else the option is the MSS alone.
func (p *program) plainOptions() {
	p.put(fp, frOut, tcpLen, size8)
	p.set(r0, 0)
	p.load(r2, fp, frHeader, size8)
	p.add(asm.JEq.Imm(r2, tcpLen, "options read"))
	p.put(fp, frOut, tcpLen+4, size8)
	p.load(r1, r9, ruleFlags, size4)
	p.add(asm.And.Imm(r1, flagStamps), asm.JEq.Imm(r1, 0, "options read"))
	p.addr(r1, fp, frTCP)
	p.sub("options")
	p.at("options read")
	p.store(fp, frScratch, r0, size8) // scale 4, SACK 1, then 0; timestamp 32
	for i := int16(0); i < 40; i += 8 {
		p.put(fp, frTCP+i, 0, size8)
	}
	p.put(fp, frTCP+14, plainWindow>>8|plainWindow&0xff<<8, size2)
	p.mssOption()
	p.load(r1, fp, frScratch, size8)
	p.mov(r2, r1)
	p.add(asm.RSh.Imm(r2, 32), asm.JEq.Imm(r2, 0, "send")) // no timestamp, or 0
	p.store(fp, frTCP+tcpLen+12, r2, size4)
	p.mov(r3, r1)
	p.add(asm.And.Imm(r3, 15)) // the scale
	p.set(r4, tcpLen+16)
	p.add(asm.JEq.Imm(r3, noScale, "unscaled"))
	p.set(r4, tcpLen+20)
	p.put(fp, frTCP+tcpLen+16, 0x030301, size4)
	p.load(r5, r9, ruleScale, size4)
	p.store(fp, frTCP+tcpLen+19, r5, size1)
	p.at("unscaled")
	p.load(r5, fp, frHeader, size8)
	p.add(asm.JGT.Reg(r4, r5, "stampless")) // it would be larger than the SYN
	p.store(fp, frOut, r4, size8)
	p.put(fp, frTCP+tcpLen+4, 0x0a080101, size4)
	p.mov(r2, r1)
	p.add(asm.And.Imm(r2, optionSACK), asm.JEq.Imm(r2, 0, "no sack"))
	p.put(fp, frTCP+tcpLen+4, 0x0a080204, size4)
	p.at("no sack")
	p.load(r3, fp, frNow, size8)
	p.add(asm.Div.Imm(r3, 1_000_000), asm.Mov.Reg32(r3, r3))
	p.mov(r2, r3)
	p.add(asm.RSh.Imm(r2, 6), asm.LSh.Imm(r2, 6), asm.And.Imm(r1, 0x1f), asm.Or.Reg(r2, r1))
	p.add(asm.JLE.Reg(r2, r3, "stamped"), asm.Sub.Imm(r2, 64))
	p.at("stamped")
	p.swap(r2, size4)
	p.store(fp, frTCP+tcpLen+8, r2, size4)
	p.goTo("send")
	p.at("stampless")
	p.put(fp, frTCP+tcpLen+12, 0, size4)
	p.put(fp, frTCP+tcpLen+16, 0, size4)
}

// optionsFunction reads the options of a SYN: in r1 its header, on the stack, in r2 that header's length.
// It returns the timestamp as it is on the wire <<32 | SACK permitted <<4 | window scale.
//
// All that changes from one option to the next is kept as bytes on the stack, of which the verifier
// knows nothing: what is the same for it in each round it follows once.
func (p *program) optionsFunction() {
	const (
		most    = 12 // options
		atStamp = -4
		atScale = -8
		atSACK  = -7
		atPlace = -9
		atEnd   = -10
	)
	p.at("options")
	p.put(fp, -16, 0, size8)
	p.put(fp, -8, 0, size8)
	p.put(fp, atScale, noScale, size1)
	p.put(fp, atPlace, tcpLen, size1)
	p.store(fp, atEnd, r2, size1)
	for range most {
		sack, stamp, step, next := p.name("option"), p.name("option"), p.name("option"), p.name("option")
		p.load(r5, fp, atPlace, size1)
		p.load(r2, fp, atEnd, size1)
		p.add(asm.JGE.Reg(r5, r2, "options end"), asm.JGT.Imm(r5, 58, "options end"), asm.JLT.Imm(r5, tcpLen, "options end"))
		p.mov(r3, r1)
		p.add(asm.Add.Reg(r3, r5))
		p.load(r4, r3, 0, size1)
		p.set(r6, 1)
		p.add(asm.JEq.Imm(r4, 0, "options end"), asm.JEq.Imm(r4, 1, step))
		p.load(r6, r3, 1, size1)
		p.mov(r7, r5)
		p.add(asm.Add.Reg(r7, r6), asm.JLT.Imm(r6, 2, "options end"), asm.JGT.Reg(r7, r2, "options end"))
		p.add(asm.JNE.Imm(r4, 3, sack), asm.JNE.Imm(r6, 3, step), asm.JGT.Imm(r5, 57, "options end"))
		p.load(r7, r3, 2, size1)
		p.store(fp, atScale, r7, size1)
		p.goTo(step)
		p.at(sack)
		p.add(asm.JNE.Imm(r4, 4, stamp), asm.JNE.Imm(r6, 2, step))
		p.put(fp, atSACK, optionSACK, size1)
		p.goTo(step)
		p.at(stamp)
		p.add(asm.JNE.Imm(r4, 8, step), asm.JNE.Imm(r6, 10, step), asm.JGT.Imm(r5, 50, "options end"))
		for i := range int16(4) { // the stack wants its words aligned
			p.load(r7, r3, 2+i, size1)
			p.store(fp, atStamp+i, r7, size1)
		}
		p.at(step)
		p.add(asm.Add.Reg(r5, r6))
		p.store(fp, atPlace, r5, size1)
		p.at(next)
	}
	p.at("options end")
	p.load(r0, fp, atStamp, size4)
	p.add(asm.LSh.Imm(r0, 32))
	p.load(r2, fp, atSACK, size1)
	p.add(asm.Or.Reg(r0, r2))
	p.load(r2, fp, atScale, size1)
	p.add(asm.JEq.Imm(r2, noScale, "options scale"), asm.JLE.Imm(r2, 14, "options scale"))
	p.set(r2, 14)
	p.at("options scale")
	p.add(asm.Or.Reg(r0, r2), asm.Return())
}
