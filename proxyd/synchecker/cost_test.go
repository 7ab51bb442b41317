package synchecker

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"migrationsensor/proto"
)

// flood varies source, port and sequence number of a SYN frame; the checksums go stale, which the
// checker does not look at.
func flood(b []byte, r *rand.Rand) {
	be.PutUint32(b[26:], 0xc6130000|r.Uint32()&0xffff)
	be.PutUint16(b[34:], uint16(r.Uint32())|1024)
	be.PutUint32(b[38:], r.Uint32())
}

// TestNoAllocation: what anyone may send costs no memory.
func TestNoAllocation(t *testing.T) {
	f := newFixture(t, Defend)
	data := f.connect(packet{sport: 999})
	wrong := f.preamble(proto.KindData, 1)
	wrong[75]++
	badTag := append([]byte(nil), wrong...)
	badTag[52]++
	data.payload = badTag
	stray := data
	stray.ack++
	fin := data
	fin.flags, fin.payload = flagFIN|flagACK, nil
	for name, p := range map[string]packet{
		"SYN": {options: linuxOptions}, "SYN over IPv6": {src: client6}, "keyed SYN": {payload: wrong},
		"wrong cookie": stray, "wrong tag": data, "knock with wrong tag": {udp: true, payload: badTag},
		"bare ACK": {flags: flagACK}, "FIN": fin, "another port": {dport: 1},
	} {
		frame := Frame{Data: p.frame(t)}
		if n := testing.AllocsPerRun(1000, func() {
			f.c.out = f.c.out[:0]
			f.c.handle(&frame, f.now)
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

func TestFloodCostsNoMemory(t *testing.T) {
	f := newFixture(t, Defend)
	b := packet{options: linuxOptions}.frame(t)
	r := rand.New(rand.NewPCG(5, 6))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	frames := make([]Frame, batch)
	for range 20_000 / batch {
		for i := range frames {
			flood(b, r)
			frames[i].Data = b
		}
		f.c.turn(frames, f.now)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<10 {
		t.Errorf("20,000 SYNs allocated %d bytes", grown)
	}
}

func BenchmarkSYN(b *testing.B) {
	for name, src := range map[string]netip.Addr{"IPv4": client4, "IPv6": client6} {
		b.Run(name, func(b *testing.B) {
			f := newFixture(b, Defend)
			benchmark(b, f, packet{src: src, options: linuxOptions})
		})
	}
	b.Run("p=0", func(b *testing.B) {
		f := newFixture(b, Defend, func(c *Config) { c.shares = &Shares{} })
		benchmark(b, f, packet{options: linuxOptions})
	})
}

func BenchmarkWrongCookie(b *testing.B) {
	f := newFixture(b, Defend)
	f.now = f.now.Add(epochLen)
	benchmark(b, f, packet{flags: flagACK, payload: f.preamble(proto.KindData, 1)})
}

func BenchmarkWrongTag(b *testing.B) {
	f := newFixture(b, Defend)
	benchmark(b, f, packet{udp: true, payload: make([]byte, preambleLen)})
}

func BenchmarkTransfer(b *testing.B) {
	f := newFixture(b, Defend)
	p := f.connect(packet{})
	p.payload = append(f.preamble(proto.KindData, 1), hello...)
	benchmark(b, f, p)
}

func benchmark(b *testing.B, f *fixture, p packet) {
	frame := Frame{Data: p.frame(b)}
	b.ReportAllocs()
	for b.Loop() {
		f.c.out = f.c.out[:0]
		f.c.handle(&frame, f.now)
		f.verified = f.verified[:0]
	}
}

func BenchmarkRepeats(b *testing.B) {
	r, now := newRepeats(bloomBits), epoch0
	frame := packet{options: linuxOptions}.frame(b)
	var s segment
	s.parse(&Frame{Data: frame})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			s.seq++
			now = now.Add(time.Microsecond)
			r.again(&s, now)
		}
	})
	b.Run("ripen", func(b *testing.B) {
		for b.Loop() {
			now = now.Add(ripens)
			r.turn(now)
		}
	})
}
