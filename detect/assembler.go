package detect

import (
	"fmt"

	"golang.org/x/net/bpf"
)

// assembler writes a cBPF program with labels instead of distances. cBPF jumps forward only, and
// a condition by at most 255, so a far condition jumps over an unconditional jump.
type assembler struct {
	code   []bpf.Instruction
	labels map[string]int
	fixes  []fix
}

// fix is an unconditional jump whose distance is not known yet.
type fix struct {
	at    int
	label string
}

func (a *assembler) add(i bpf.Instruction) { a.code = append(a.code, i) }

func (a *assembler) label(name string) {
	if a.labels == nil {
		a.labels = make(map[string]int)
	}
	a.labels[name] = len(a.code)
}

func (a *assembler) goTo(label string) {
	a.fixes = append(a.fixes, fix{len(a.code), label})
	a.add(bpf.Jump{})
}

// jump compares A with val and goes to one of the labels; "" is the next instruction.
func (a *assembler) jump(cond bpf.JumpTest, val uint32, yes, no string) {
	if yes == "" {
		a.add(bpf.JumpIf{Cond: cond, Val: val, SkipTrue: 1})
	} else {
		a.add(bpf.JumpIf{Cond: cond, Val: val, SkipFalse: 1})
		a.goTo(yes)
	}
	if no != "" {
		a.goTo(no)
	}
}

func (a *assembler) assemble() ([]bpf.RawInstruction, error) {
	for _, f := range a.fixes {
		at, ok := a.labels[f.label]
		if !ok || at <= f.at {
			return nil, fmt.Errorf("BUG: no label %q after instruction %d", f.label, f.at)
		}
		a.code[f.at] = bpf.Jump{Skip: uint32(at - f.at - 1)}
	}
	return bpf.Assemble(a.code)
}
