// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

package synchecker

import "github.com/cilium/ebpf/asm"

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
