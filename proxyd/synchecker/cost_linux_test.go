package synchecker

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"migrationsensor/proto"
)

// BenchmarkProgram reports the program's own time a frame, without driver and transmission.
func BenchmarkProgram(b *testing.B) {
	w := newTwin(b, Defend)
	for _, row := range []struct {
		name string
		p    packet
	}{
		{"SYN", packet{options: linuxOptions}},
		{"SYN over IPv6", packet{src: client6, options: linuxOptions}},
		{"SYN with 76 random bytes", packet{options: linuxOptions, payload: make([]byte, preambleLen)}},
		{"ACK with a wrong cookie", packet{flags: flagACK, payload: w.preamble(proto.KindData, 1)}},
		{"bare ACK", packet{flags: flagACK}},
		{"UDP", packet{udp: true, dport: 53}},
		{"not ours", packet{dst: netip.MustParseAddr("198.18.9.9")}},
	} {
		b.Run(row.name, func(b *testing.B) {
			const repeat = 200_000
			frame := row.p.frame(b)
			var total, runs int64
			for b.Loop() {
				_, took, err := w.d.prog.Benchmark(frame, repeat, nil)
				if err != nil {
					b.Fatal(err)
				}
				total += took.Nanoseconds()
				runs++
			}
			b.ReportMetric(float64(total)/float64(runs), "ns/frame")
		})
	}
	_ = ebpf.XDP
}
