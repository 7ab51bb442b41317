package synchecker

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/gopacket/layers"

	"migrationsensor/proto"
)

// twin is the packet program, with the checker behind it, beside a checker alone. Both have the same
// keys and rules, so both must say the same to every frame.
type twin struct {
	*fixture          // alone
	behind   *fixture // what the program passes
	d        *datapath
	program  asm.Instructions // for measurements
	out      []byte
}

var loadOnce = sync.OnceValues(func() (*datapath, error) {
	return newDatapath(Filter{Addrs: []netip.Addr{edge4, edge6}, LinkPort: testPort},
		&net.Interface{HardwareAddr: edgeMAC, MTU: wireMTU})
})

// newTwin clears nothing that a program remembers: buckets and counters go on from test to test.
func newTwin(t testing.TB, mode Mode, change ...func(*Config)) *twin {
	t.Helper()
	d, err := loadOnce()
	if err != nil {
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			t.Fatalf("%v\n%v", err, ve.Log[max(0, len(ve.Log)-40):])
		}
		t.Skipf("no packet program: %v (run as root)", err)
	}
	w := &twin{fixture: newFixture(t, mode, change...), behind: newFixture(t, mode, change...), d: d, out: make([]byte, 4096)}
	w.c.jar.start = time.Now().Add(-5 * epochLen / 2) // far from where an epoch ends
	w.behind.c.jar = w.c.jar
	w.tick()
	w.forget()
	d.mode = mode
	w.reprogram()
	w.gate(Gate{})
	t.Cleanup(func() {
		if err := d.admit(nil, slices.Collect(maps.Keys(d.until))); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *twin) tick() { w.now = time.Now(); w.behind.now = w.now }

// forget empties all that is remembered of agents, of addresses and in buckets.
func (w *twin) forget() {
	w.t.Helper()
	var key [24]byte
	var value uint64
	var all [][24]byte
	it := w.d.agents.Iterate()
	for it.Next(&key, &value) {
		all = append(all, key)
	}
	for _, k := range all {
		if err := w.d.agents.Delete(k); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.d.buckets.Update(uint32(0), make([]byte, bucketsSize), ebpf.UpdateAny); err != nil {
		w.t.Fatal(err)
	}
	*w.c.agents, *w.behind.c.agents = agents{}, agents{}
}

func (w *twin) reprogram() {
	w.t.Helper()
	if err := w.d.program(w.c.rules()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *twin) gate(g Gate) {
	w.t.Helper()
	if err := w.d.setGate(g); err != nil {
		w.t.Fatal(err)
	}
}

// admit has both worlds leave an address to the kernel.
func (w *twin) admitBoth(a netip.Addr) {
	w.t.Helper()
	w.kernel[a], w.behind.kernel[a] = true, true
	if err := w.d.admit([]Admission{{a, time.Now().Add(time.Hour)}}, nil); err != nil {
		w.t.Fatal(err)
	}
}

// run has the program judge a frame.
func (w *twin) run(b []byte) (verdict uint32, out []byte) {
	w.t.Helper()
	o := ebpf.RunOptions{Data: b, DataOut: w.out}
	verdict, err := w.d.prog.Run(&o)
	if err != nil {
		w.t.Fatalf("run the program on %x: %v", b, err)
	}
	return verdict, o.DataOut
}

// same gives a frame to both and fails if they differ. It returns the program's verdict and the answer.
func (w *twin) same(what string, b []byte) (verdict uint32, answer []byte) {
	w.t.Helper()
	w.tick()
	var want []byte
	if bytes.Equal(b[:6], edgeMAC) { // else the packet filter drops it
		want = w.raw(b)
	}
	verdict, out := w.run(b)
	switch verdict {
	case xdpTX:
		answer = out
	case xdpPass:
		if !bytes.Equal(out, b) {
			w.t.Fatalf("%s: passed another frame:\n got %x\nwant %x", what, out, b)
		}
		if bytes.Equal(b[:6], edgeMAC) {
			answer = w.behind.raw(b)
		}
	case xdpDrop:
	default:
		w.t.Fatalf("%s: verdict %d", what, verdict)
	}
	if !bytes.Equal(answer, want) {
		w.t.Fatalf("%s: %x\nverdict %d, answer %x\nthe checker alone  %x", what, b, verdict, answer, want)
	}
	if len(w.verified) != len(w.behind.verified) || len(w.admitted) != len(w.behind.admitted) {
		w.t.Fatalf("%s: %x\nverdict %d: %d verified, %d admitted; the checker alone %d, %d", what, b, verdict,
			len(w.behind.verified), len(w.behind.admitted), len(w.verified), len(w.admitted))
	}
	return verdict, answer
}

// counted is how far f raises the program's counters.
func (w *twin) counted(f func()) (Stats, Packets) {
	w.t.Helper()
	before, err := w.d.counts()
	if err != nil {
		w.t.Fatal(err)
	}
	f()
	after, err := w.d.counts()
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range after {
		after[i] -= before[i]
	}
	return statsOf(&after), packetsOf(&after)
}

// corpus is one frame of each sort that the program tells apart, to be cut and changed.
func (w *twin) corpus() map[string][]byte {
	out := map[string][]byte{}
	add := func(name string, p packet) { out[name] = p.frame(w.t) }
	for _, src := range []netip.Addr{client4, client6} {
		v := fmt.Sprint(map[bool]string{true: " v4", false: " v6"}[src.Is4()])
		syn := packet{src: src, seq: rand.Uint32(), options: linuxOptions}
		add("SYN"+v, syn)
		add("SYN without options"+v, packet{src: src})
		add("SYN in a VLAN"+v, packet{src: src, options: linuxOptions, vlan: 7})
		add("keyed SYN"+v, packet{src: src, options: linuxOptions, payload: w.preamble(proto.KindData, 1)})
		add("keyed SYN, more data"+v, packet{src: src, payload: append(w.preamble(proto.KindData, 2), hello...)})
		add("keyed SYN, stale"+v, packet{src: src, payload: w.preambleAt(proto.KindData, 3, w.now.Add(-11*time.Minute))})
		add("keyed SYN, early"+v, packet{src: src, payload: w.preambleAt(proto.KindData, 3, w.now.Add(11*time.Minute))})
		forged := w.preamble(proto.KindData, 4)
		forged[60]++ // the MAC
		add("SYN with a forged MAC"+v, packet{src: src, payload: forged})
		forged = slices.Clone(forged)
		forged[52]++ // the tag
		add("SYN with a forged tag"+v, packet{src: src, payload: forged})
		data := syn
		data.seq, data.flags, data.options = syn.seq+1, flagACK|flagPSH, nil
		probe := &segment{src: src.AsSlice(), dst: syn.withDefaults().dst.AsSlice(), sport: 40000, dport: testPort, seq: syn.seq}
		data.ack = w.c.jar.cookie(probe, w.now) + 1
		data.payload = append(w.preamble(proto.KindControl, 5), hello...)
		add("first flight"+v, data)
		old := data
		old.ack = w.c.jar.cookie(probe, w.now.Add(-epochLen)) + 1
		add("first flight of the last epoch"+v, old)
		older := data
		older.ack = w.c.jar.cookie(probe, w.now.Add(-2*epochLen)) + 1
		add("first flight of an older epoch"+v, older)
		noTag := data
		noTag.payload = slices.Clone(data.payload)
		noTag.payload[52]++
		add("first flight with a forged tag"+v, noTag)
		long := data
		long.payload = append(slices.Clone(data.payload), make([]byte, 300)...)
		add("first flight, too long"+v, long)
		half := data
		half.payload = data.payload[:75]
		add("first flight, too short"+v, half)
		clock := data
		clock.payload = w.preambleAt(proto.KindControl, 6, w.now.Add(-time.Hour))
		add("first flight, clock wrong"+v, clock)
		second := data
		second.seq += 299
		add("second segment"+v, second)
		bare := data
		bare.payload = nil
		add("bare ACK"+v, bare)
		fin := bare
		fin.flags, fin.seq = flagFIN|flagACK, fin.seq+299
		add("FIN"+v, fin)
		fin.ack += sealedLen + 1
		add("FIN after the reply"+v, fin)
		fin.ack ^= 1 << 25
		add("FIN of another"+v, fin)
		add("RST"+v, packet{src: src, flags: flagRST})
		add("SYN-ACK"+v, packet{src: src, flags: flagSYN | flagACK})
		add("SYN and FIN"+v, packet{src: src, flags: flagSYN | flagFIN})
		add("knock"+v, packet{src: src, udp: true, payload: w.preamble(proto.KindKnock, 7)})
		add("knock, too long"+v, packet{src: src, udp: true, payload: append(w.preamble(proto.KindKnock, 7), 0)})
		add("UDP"+v, packet{src: src, udp: true, dport: 53, payload: make([]byte, 30)})
		add("SYN to another port"+v, packet{src: src, dport: 80})
		add("ACK to another port"+v, packet{src: src, dport: 80, flags: flagACK})
		add("SYN from ourselves"+v, packet{src: syn.withDefaults().dst})
		add("SYN to another address"+v, packet{src: src, dst: syn.withDefaults().dst.Next()})
	}
	for name, options := range map[string][]layers.TCPOption{
		"NOPs": {{OptionType: layers.TCPOptionKindNop}}, "MSS": linuxOptions[:1],
		"40 bytes": {{OptionType: 30, OptionLength: 40, OptionData: make([]byte, 38)}},
		"length 0": {{OptionType: 253, OptionLength: 2}},
	} {
		add("SYN with "+name, packet{options: options})
	}
	plain := out["SYN v4"]
	change := func(name string, f func(b []byte) []byte) { out[name] = f(slices.Clone(plain)) }
	change("IPv4 options", func(b []byte) []byte {
		b[14] = 0x46
		be.PutUint16(b[16:], be.Uint16(b[16:])+4)
		return slices.Concat(b[:34], []byte{1, 1, 1, 0}, b[34:])
	})
	change("QinQ", func(b []byte) []byte { return slices.Concat(b[:12], []byte{0x81, 0, 0, 5, 0x81, 0, 0, 6}, b[12:]) })
	change("802.1ad", func(b []byte) []byte { return slices.Concat(b[:12], []byte{0x88, 0xa8, 0, 5}, b[12:]) })
	change("padded", func(b []byte) []byte { return append(b, make([]byte, 20)...) })
	change("ARP", func(b []byte) []byte { b[12], b[13] = 8, 6; return b })
	for name, row := range map[string]struct {
		at    int
		value []byte
	}{
		"more fragments": {20, []byte{0x20}}, "a later fragment": {20, []byte{0, 9}},
		"reserved bit": {20, []byte{0x80}}, "header 16": {14, []byte{0x44}}, "header 60": {14, []byte{0x4f}},
		"version 6": {14, []byte{0x65}}, "total 10": {16, []byte{0, 10}}, "total 30": {16, []byte{0, 30}},
		"total 2000": {16, []byte{7, 208}}, "from 0/8": {26, []byte{0}}, "from 127/8": {26, []byte{127}},
		"from 224/4": {26, []byte{224}}, "from broadcast": {26, []byte{255, 255, 255, 255}},
		"from a group MAC": {6, []byte{1}}, "to another MAC": {0, []byte{2, 2}}, "port 0": {34, []byte{0, 0}},
		"to port 0": {36, []byte{0, 0}}, "data offset 16": {46, []byte{0x40}}, "data offset 60": {46, []byte{0xf0}},
		"checksum": {50, []byte{1, 2}}, "IP checksum": {24, []byte{1, 2}}, "ICMP": {23, []byte{1}}, "SCTP": {23, []byte{132}},
	} {
		change(name, func(b []byte) []byte { copy(b[row.at:], row.value); return b })
	}
	six := out["SYN v6"]
	for _, h := range []byte{0, 43, 44, 60, 58} {
		b := slices.Clone(six)
		b[20] = h
		out[fmt.Sprint("next header ", h)] = b
	}
	return out
}

func eachMode(t *testing.T, f func(t *testing.T, m Mode)) {
	for _, m := range []Mode{Off, Dark, Defend} {
		t.Run(m.String(), func(t *testing.T) { f(t, m) })
	}
}

// TestProgramIsTheChecker: the program and the checker behind it say what the checker says alone.
func TestProgramIsTheChecker(t *testing.T) {
	eachMode(t, func(t *testing.T, m Mode) {
		w := newTwin(t, m)
		for name, b := range w.corpus() {
			w.same(name, b)
		}
	})
}

// TestProgramLeavesAdmittedToTheKernel: never both answer.
func TestProgramLeavesAdmittedToTheKernel(t *testing.T) {
	eachMode(t, func(t *testing.T, m Mode) {
		w := newTwin(t, m)
		w.admitBoth(client4)
		w.admitBoth(client6)
		for name, b := range w.corpus() {
			if v, _ := w.same(name, b); v == xdpTX {
				t.Errorf("%s of an admitted client is answered", name)
			}
		}
	})
}

// TestProgramTruncated cuts every frame everywhere, with and without saying so in its headers.
func TestProgramTruncated(t *testing.T) {
	w := newTwin(t, Defend)
	for name, b := range w.corpus() {
		w.forget()
		for n := etherLen; n < len(b); n += 1 + n/100*10 {
			w.same(fmt.Sprintf("%s, %d bytes", name, n), slices.Clone(b[:n]))
		}
	}
}

// TestProgramMutations changes a byte or three anywhere.
func TestProgramMutations(t *testing.T) {
	for _, m := range []Mode{Dark, Defend} {
		w := newTwin(t, m)
		r := rand.New(rand.NewPCG(3, 4))
		frames := w.corpus()
		names := slices.Sorted(maps.Keys(frames))
		for i := range 20_000 {
			if i%30 == 0 { // fewer than an agent's burst
				w.forget()
			}
			name := names[r.IntN(len(names))]
			b := slices.Clone(frames[name])
			for range 1 + r.IntN(3) {
				b[r.IntN(min(len(b), 90))] = byte(r.Uint32())
			}
			w.same(fmt.Sprintf("%s, mutation %d in mode %v", name, i, m), b)
		}
	}
}

// FuzzProgram: no frame makes the program and the checker differ.
func FuzzProgram(f *testing.F) {
	w := newTwin(f, Defend)
	for _, b := range w.corpus() {
		f.Add(b, byte(Defend))
		f.Add(b, byte(Dark))
	}
	f.Fuzz(func(t *testing.T, b []byte, mode byte) {
		if len(b) < etherLen || len(b) > wireMTU+etherLen+vlanLen { // the kernel takes no such frame
			return
		}
		w := newTwin(t, Mode(mode%3))
		if v, _ := w.same("frame", b); v == xdpTX && Mode(mode%3) != Defend {
			t.Errorf("answered in mode %v", Mode(mode%3))
		}
	})
}
