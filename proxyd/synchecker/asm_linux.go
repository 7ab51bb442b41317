// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

package synchecker

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
)

const (
	r0 = asm.R0
	r1 = asm.R1
	r2 = asm.R2
	r3 = asm.R3
	r4 = asm.R4
	r5 = asm.R5
	r6 = asm.R6
	r7 = asm.R7
	r8 = asm.R8
	r9 = asm.R9
	fp = asm.RFP

	size1 = asm.Byte
	size2 = asm.Half
	size4 = asm.Word
	size8 = asm.DWord
)

// code is a program of the kernel's machine as it is written, one instruction after the other. Labels
// are looked up by name when it is loaded.
type code struct {
	ins   asm.Instructions
	label string // of the next instruction
	count int    // of names made
}

func (c *code) add(ins ...asm.Instruction) {
	for _, i := range ins {
		if c.label != "" {
			i, c.label = i.WithSymbol(c.label), ""
		}
		c.ins = append(c.ins, i)
	}
}

// at names the place of the next instruction.
func (c *code) at(label string) {
	if c.label != "" { // two names for one place
		c.add(asm.Ja.Label(label))
	}
	c.label = label
}

// name makes a label that nobody else has.
func (c *code) name(what string) string {
	c.count++
	return fmt.Sprint(what, "-", c.count)
}

func (c *code) load(dst, src asm.Register, off int16, s asm.Size) {
	c.add(asm.LoadMem(dst, src, off, s))
}

func (c *code) store(dst asm.Register, off int16, src asm.Register, s asm.Size) {
	c.add(asm.StoreMem(dst, off, src, s))
}

func (c *code) put(dst asm.Register, off int16, v int64, s asm.Size) {
	// asm.StoreImm refuses 8 bytes, which the kernel takes: a signed 32-bit number, extended.
	c.add(asm.Instruction{OpCode: asm.StoreImmOp(size1).SetSize(s), Dst: dst, Offset: off, Constant: v})
}

func (c *code) mov(dst, src asm.Register)        { c.add(asm.Mov.Reg(dst, src)) }
func (c *code) set(dst asm.Register, v int32)    { c.add(asm.Mov.Imm(dst, v)) }
func (c *code) set64(dst asm.Register, v uint64) { c.add(asm.LoadImm(dst, int64(v), size8)) }
func (c *code) call(f asm.BuiltinFunc)           { c.add(f.Call()) }
func (c *code) sub(name string)                  { c.add(asm.Call.Label(name)) }
func (c *code) goTo(label string)                { c.add(asm.Ja.Label(label)) }
func (c *code) addr(dst, base asm.Register, off int32) {
	c.mov(dst, base)
	c.add(asm.Add.Imm(dst, off))
}

// within jumps to label unless the n bytes at p lie before end.
func (c *code) within(p, end asm.Register, n int32, scratch asm.Register, label string) {
	c.addr(scratch, p, n)
	c.add(asm.JGT.Reg(scratch, end, label))
}

// swap turns a number of the wire into one of the machine, or back.
func (c *code) swap(r asm.Register, s asm.Size) { c.add(asm.HostTo(asm.BE, r, s)) }

// SipHash-2-4 (Aumasson and Bernstein, 2012). sip holds its state in four registers.
type sip struct {
	*code
	v [4]asm.Register
	t asm.Register // scratch
}

var sipInit = [4]uint64{0x736f6d6570736575, 0x646f72616e646f6d, 0x6c7967656e657261, 0x7465646279746573}

// begin keys the state; k is destroyed.
func (s sip) begin(k0, k1 asm.Register) {
	for i, v := range s.v {
		s.set64(v, sipInit[i])
		s.add(asm.Xor.Reg(v, []asm.Register{k0, k1}[i%2]))
	}
}

func (s sip) rotate(x asm.Register, n int32) {
	s.mov(s.t, x)
	s.add(asm.RSh.Imm(s.t, 64-n), asm.LSh.Imm(x, n), asm.Or.Reg(x, s.t))
}

func (s sip) rounds(n int) {
	v0, v1, v2, v3 := s.v[0], s.v[1], s.v[2], s.v[3]
	for range n {
		s.add(asm.Add.Reg(v0, v1))
		s.rotate(v1, 13)
		s.add(asm.Xor.Reg(v1, v0))
		s.rotate(v0, 32)
		s.add(asm.Add.Reg(v2, v3))
		s.rotate(v3, 16)
		s.add(asm.Xor.Reg(v3, v2), asm.Add.Reg(v0, v3))
		s.rotate(v3, 21)
		s.add(asm.Xor.Reg(v3, v0), asm.Add.Reg(v2, v1))
		s.rotate(v1, 17)
		s.add(asm.Xor.Reg(v1, v2))
		s.rotate(v2, 32)
	}
}

// block takes in the 8 bytes in m, which must not be the scratch register.
func (s sip) block(m asm.Register) {
	s.add(asm.Xor.Reg(s.v[3], m))
	s.rounds(2)
	s.add(asm.Xor.Reg(s.v[0], m))
}

// end leaves the hash in the first register of the state.
func (s sip) end() {
	s.add(asm.Xor.Imm(s.v[2], 0xff))
	s.rounds(4)
	s.add(asm.Xor.Reg(s.v[0], s.v[1]), asm.Xor.Reg(s.v[0], s.v[2]), asm.Xor.Reg(s.v[0], s.v[3]))
}
