package flood

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/frame"
	"migrationsensor/examples/lab/kernel"
)

// openWire is P1's cable with a wire in it.
func openWire(t *testing.T) (*lab.World, *lab.Cable, *Wire) {
	t.Helper()
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	w, err := lab.New(lab.Config{RTT: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	c, err := w.OpenCable(w.P1, lab.P1, "wiretest")
	if err != nil {
		t.Fatal(err)
	}
	a := lab.FloodSources4.Addr().As4()
	x, err := NewWire(c.NS, c.Client, c.Edge, [2]byte(a[:2]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return w, c, x
}

// TestStormMakesWhatTheFrameMakes compares each frame of the program with the one that package frame makes of its fields.
func TestStormMakesWhatTheFrameMakes(t *testing.T) {
	_, c, x := openWire(t)
	proofs := [][]byte{bytes.Repeat([]byte{1, 2, 3, 4}, 19), bytes.Repeat([]byte{0xff}, 76), append(make([]byte, 72), 9, 8, 7, 6)}
	m, err := payloads(proofs)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	target := netip.MustParseAddrPort("198.18.72.11:7443")
	for name, s := range map[string]storm{
		"bare":     {},
		"random":   {size: 76},
		"replayed": {size: 76, data: m.FD(), payloads: int(m.MaxEntries())},
		"paced":    {gap: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s.counters, s.belt, s.edge = x.counters.FD(), x.belt.FD(), 1
			s.src, s.dst, s.sources, s.target, s.port = net.HardwareAddr{2, 0, 0, 0, 0, 9}, c.MAC, x.sources, target.Addr().As4(), target.Port()
			prog, err := load(s.program())
			if err != nil {
				t.Fatal(err)
			}
			defer prog.Close()
			sources := map[netip.Addr]bool{}
			carried := map[string]bool{}
			for range 50 {
				o := &ebpf.RunOptions{Data: bytes.Repeat([]byte{0xaa}, atPayload+s.size), DataOut: make([]byte, 2000)}
				action, err := prog.Run(o)
				if err != nil || action != 4 { // XDP_REDIRECT
					t.Fatalf("action %d, %v, want the frame sent on", action, err)
				}
				v, ok := frame.Look(o.DataOut)
				if !ok {
					t.Fatalf("no packet of ours: %x", o.DataOut)
				}
				src, _ := netip.AddrFromSlice(v.Src)
				be := func(b []byte) uint32 { return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]) }
				p := frame.Packet{
					SrcMAC: s.src, DstMAC: s.dst, Src: src, Dst: target.Addr(), Proto: frame.TCP, SrcPort: uint16(be(v.Segment) >> 16), DstPort: target.Port(),
					Seq: be(v.Segment[4:]), Flags: frame.SYN, Window: 64240, Options: []byte{2, 4, 5, 0xb4}, Payload: v.Segment[synHeader:],
				}
				want := p.Append(nil)
				copy(want[18:20], o.DataOut[18:20]) // the IP identification, which package frame leaves zero
				frame.Sum(want)
				if !bytes.Equal(o.DataOut, want) {
					t.Fatalf("got  %x\nwant %x", o.DataOut, want)
				}
				if !lab.FloodSources4.Contains(src) || p.SrcPort < firstPort {
					t.Fatalf("from %s port %d", src, p.SrcPort)
				}
				sources[src], carried[string(p.Payload)] = true, true
			}
			if len(sources) < 45 {
				t.Errorf("%d sources in 50 packets", len(sources))
			}
			switch {
			case name == "random" && len(carried) != 50:
				t.Errorf("%d payloads in 50 packets, want another each", len(carried))
			case name == "replayed" && len(carried) != len(proofs):
				t.Errorf("%d payloads, want all %d", len(carried), len(proofs))
			}
			for p := range carried {
				if name == "replayed" && !slices.ContainsFunc(proofs, func(q []byte) bool { return string(q) == p }) {
					t.Errorf("payload %x is none of those that were given", p)
				}
			}
		})
	}
}

// TestWireCarriesClientsThroughAStorm says a byte to P1 in peace and under a storm that the ring has room for, and counts both.
func TestWireCarriesClientsThroughAStorm(t *testing.T) {
	w, c, x := openWire(t)
	at, _ := lab.P1.Port(lab.EchoPort)
	l, err := w.P1.Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	near, err := w.AddNear("near", lab.Near)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := near.Dial(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	say := func() {
		t.Helper()
		b := []byte{'x'}
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			t.Fatal(err)
		}
	}
	say()
	peace := x.Counts()
	if peace.SYN != 0 || peace.Clients < 4 || peace.Back < 2 {
		t.Errorf("in peace: %+v, want a handshake and a byte, and no flood", peace)
	}
	before, err := w.P1.Traffic(c.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	cfg := good()
	cfg.Target, cfg.Rate, cfg.Time = netip.AddrPortFrom(lab.P1.V4, lab.EchoPort), 20_000, 500*time.Millisecond
	type outcome struct {
		Storm
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := x.Storm(t.Context(), cfg, c.MAC, 0)
		done <- outcome{r, err}
	}()
	for x.Counts().SYN == peace.SYN { // it has begun
		time.Sleep(time.Millisecond)
	}
	say()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	after, err := w.P1.Traffic(c.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	n := x.Counts()
	if r.Sent == 0 || float64(r.Sent) > 1.2*float64(cfg.Rate)*r.Seconds || uint64(r.Sent) != n.SYN-peace.SYN {
		t.Errorf("sent %d in %.2f s at %d/s; the wire counts %d", r.Sent, r.Seconds, cfg.Rate, n.SYN-peace.SYN)
	}
	const announced = 50 // packets at most: interfaces that are new tell IPv6's routers and groups of it
	if got := after.RxPackets - before.RxPackets; got == 0 || got > uint64(r.Sent)+n.Clients-peace.Clients+announced {
		t.Errorf("P1 got %d packets of %d", got, r.Sent)
	}
	if n.Answered == 0 || n.Answered > n.SYN || n.Clients <= peace.Clients || n.Back <= peace.Back {
		t.Errorf("after it: %+v, want answers to the flood, and the client's own", n)
	}
	if _, err := x.Storm(t.Context(), Config{}, c.MAC, 0); err == nil {
		t.Error("a storm to nowhere is not refused")
	}
}

// TestKernelThreads pins the ring's thread of a wire, or is told that there is none to be seen.
func TestKernelThreads(t *testing.T) {
	w, c, _ := openWire(t)
	if err := w.P1.Threaded(c.Proxy, true); err != nil {
		t.Fatal(err)
	}
	err := kernel.PinThread("napi/"+c.Proxy+"-", 0, 0)
	if used, uerr := kernel.ThreadUsed("napi/" + c.Proxy + "-"); (err == nil) != (uerr == nil) || used < 0 {
		t.Errorf("pinned: %v; used %v, %v", err, used, uerr)
	}
	if err := kernel.PinThread("napi/nobody-", 0, 0); err == nil {
		t.Error("a thread that is not there was pinned")
	}
	if err := w.P1.Threaded(c.Proxy, false); err != nil {
		t.Fatal(err)
	}
}
