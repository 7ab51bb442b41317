package synchecker

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"migrationsensor/proto"
)

// again is code that makes the frame what it was, so that a program that changes it can be run over and
// over: for measurements.
func again(frame []byte) *code {
	c := new(code)
	c.mov(r6, r1)
	c.load(r1, r6, 0, size4)
	c.load(r2, r6, 4, size4)
	c.add(asm.Sub.Reg(r2, r1), asm.Neg.Imm(r2, 0), asm.Add.Imm(r2, int32(len(frame))))
	c.add(asm.JEq.Imm(r2, 0, "long again"))
	c.mov(r1, r6)
	c.call(asm.FnXdpAdjustTail)
	c.at("long again")
	c.load(r7, r6, 0, size4)
	c.load(r8, r6, 4, size4)
	c.within(r7, r8, int32(len(frame)), r1, "written again")
	for i := 0; i < len(frame); {
		switch n := len(frame) - i; {
		case n >= 8:
			c.set64(r1, le.Uint64(frame[i:]))
			c.store(r7, int16(i), r1, size8)
			i += 8
		default:
			c.put(r7, int16(i), int64(frame[i]), size1)
			i++
		}
	}
	c.at("written again")
	c.mov(r1, r6)
	return c
}

// cost is the time that a program takes for the frame, ns, when nothing else is measured with it.
func (w *twin) cost(frame []byte) float64 {
	w.t.Helper()
	const repeat = 300_000
	measure := func(ins asm.Instructions, want uint32) float64 {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Dual BSD/GPL", Instructions: ins})
		if err != nil {
			w.t.Fatal(err)
		}
		defer p.Close()
		verdict, took, err := p.Benchmark(frame, repeat, nil)
		if err != nil || verdict != want {
			w.t.Fatalf("verdict %d, %v, want %d", verdict, err, want)
		}
		return float64(took.Nanoseconds())
	}
	want, _ := w.run(frame)
	whole := again(frame)
	whole.ins = append(whole.ins, w.program...)
	alone := again(frame)
	if want == xdpTX { // it also shortens the frame
		alone.set(r2, -8)
		alone.call(asm.FnXdpAdjustTail)
	}
	alone.set(r0, int32(want))
	alone.add(asm.Return())
	return measure(whole.ins, want) - measure(alone.ins, want)
}

// BenchmarkProgram reports the program's own time a frame, without driver and transmission.
func BenchmarkProgram(b *testing.B) {
	w := newTwin(b, Defend)
	w.program = Filter{Addrs: []netip.Addr{edge4, edge6}, LinkPort: testPort}.packetProgram(w.d.shared)
	for _, row := range []struct {
		name   string
		p      packet
		shares Shares
	}{
		{"SYN", packet{options: linuxOptions}, Shares{Fresh: 1, Again: 1}},
		{"SYN under a cap", packet{options: linuxOptions}, Shares{Fresh: 1, Again: 1, Answers: 1e9}},
		{"SYN at p=0", packet{options: linuxOptions}, Shares{}},
		{"SYN over IPv6", packet{src: client6, options: linuxOptions}, Shares{Fresh: 1, Again: 1}},
		{"SYN with 76 random bytes", packet{options: linuxOptions, payload: make([]byte, preambleLen)}, Shares{Fresh: 1, Again: 1}},
		{"SYN with a proof that is replayed", packet{options: linuxOptions, payload: w.preamble(proto.KindData, 1)}, Shares{Fresh: 1, Again: 1}},
		{"ACK with a wrong cookie", packet{flags: flagACK, payload: w.preamble(proto.KindData, 1)}, Shares{}},
		{"bare ACK", packet{flags: flagACK}, Shares{}},
		{"UDP to the link port", packet{udp: true}, Shares{}},
		{"not ours", packet{dst: netip.MustParseAddr("198.18.9.9")}, Shares{}},
	} {
		b.Run(row.name, func(b *testing.B) {
			w.t = b
			w.shares(row.shares)
			frame := row.p.frame(b)
			best := 0.0
			for b.Loop() {
				if ns := w.cost(frame); best == 0 || ns < best {
					best = ns
				}
			}
			b.ReportMetric(best, "ns/frame")
		})
	}
}
