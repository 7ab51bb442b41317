package synchecker

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"

	"migrationsensor/proto"
)

var testFilter = Filter{Addrs: []netip.Addr{netip.MustParseAddr("198.18.1.7"), edge4, edge6}, LinkPort: testPort}

// ringOf says which ring takes the frame: a class's, "both" or "none".
func ringOf(t testing.TB, m Mode, frame []byte) string {
	t.Helper()
	got := "none"
	for c, name := range [classes]string{"keyed", "flights", "knocks", "plain"} {
		prog, err := testFilter.program(class(c), m)
		if err != nil {
			t.Fatal(err)
		}
		if len(prog) > 1 {
			prog = prog[3:] // the packet type, which this machine does not know
		}
		vm, err := bpf.NewVM(prog)
		if err != nil {
			t.Fatal(err)
		}
		n, err := vm.Run(frame)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case n > 0 && got != "none":
			got = "both"
		case n > 0:
			got = name
		}
	}
	return got
}

func TestFilter(t *testing.T) {
	f := newFixture(t, Defend)
	preamble := f.preamble(proto.KindData, 1)
	for name, row := range map[string]struct {
		p            packet
		defend, dark string
	}{
		"SYN":                   {packet{}, "plain", "none"},
		"SYN with options":      {packet{options: linuxOptions}, "plain", "none"},
		"keyed SYN":             {packet{payload: preamble, options: linuxOptions}, "keyed", "keyed"},
		"SYN with short data":   {packet{payload: preamble[:75]}, "plain", "none"},
		"SYN with other data":   {packet{payload: make([]byte, 300)}, "plain", "none"},
		"SYN, 76 random bytes":  {packet{payload: append([]byte{1, 2, 3, 4}, preamble[4:]...)}, "plain", "none"},
		"SYN, only the magic":   {packet{payload: append(bytes.Clone(preamble[:4]), make([]byte, 72)...)}, "keyed", "keyed"},
		"first flight":          {packet{flags: flagACK | flagPSH, payload: append(preamble, hello...)}, "flights", "none"},
		"other data":            {packet{flags: flagACK, payload: make([]byte, 300)}, "none", "none"},
		"bare ACK":              {packet{flags: flagACK}, "none", "none"},
		"FIN":                   {packet{flags: flagACK | flagFIN}, "plain", "none"},
		"FIN with a preamble":   {packet{flags: flagACK | flagFIN, payload: preamble}, "plain", "none"},
		"RST":                   {packet{flags: flagRST}, "none", "none"},
		"another port":          {packet{dport: 443}, "none", "none"},
		"another address":       {packet{dst: edge4.Next()}, "none", "none"},
		"knock":                 {packet{udp: true, payload: preamble}, "knocks", "knocks"},
		"knock to another port": {packet{udp: true, payload: preamble, dport: 53}, "none", "none"},
		"long datagram":         {packet{udp: true, payload: append(preamble, 0)}, "none", "none"},
		"other datagram":        {packet{udp: true, payload: make([]byte, 76)}, "none", "none"},
	} {
		for _, src := range []netip.Addr{client4, client6} {
			t.Run(fmt.Sprint(name, " from ", src), func(t *testing.T) {
				p := row.p
				p.src = src
				if src.Is6() && p.dst.IsValid() {
					p.dst = edge6.Next()
				}
				b := p.frame(t)
				if got := ringOf(t, Defend, b); got != row.defend {
					t.Errorf("defending: %s, want %s", got, row.defend)
				}
				if got := ringOf(t, Dark, b); got != row.dark {
					t.Errorf("dark: %s, want %s", got, row.dark)
				}
				if got := ringOf(t, Off, b); got != "none" {
					t.Errorf("off: %s, want none", got)
				}
			})
		}
	}
}

// TestFilterLosesNothing breaks good frames at random: whatever is answered or admitted without a
// filter must also pass it. Excepted are VLAN tags, which a kernel takes off first, and frames shorter
// than their IP header says.
func TestFilterLosesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, mode := range []Mode{Defend, Dark} {
		f := newFixture(t, mode)
		for i := range 3000 {
			p := packet{src: []netip.Addr{client4, client6}[i%2], options: linuxOptions, udp: i%3 == 0}
			if p.udp {
				p.payload = f.preamble(proto.KindKnock, byte(i))
			} else if i%5 == 0 {
				p.payload = f.preamble(proto.KindData, byte(i))
			}
			b := p.frame(t)
			for range rng.IntN(3) {
				b[12+rng.IntN(len(b)-12)] ^= 1 << rng.IntN(8)
			}
			admitted := len(f.admitted)
			acted := f.raw(b) != nil || len(f.admitted) > admitted
			odd := f.c.seg.vlan != 0 || f.c.seg.length > len(f.c.seg.data)
			if acted && !odd && ringOf(t, mode, b) == "none" {
				t.Fatalf("mode %v, frame %x: acted upon, but filtered out", mode, b)
			}
		}
	}
}

func TestFilterBounds(t *testing.T) {
	for _, n := range []int{0, maxFilterAddrs + 1} {
		if _, err := (Filter{Addrs: make([]netip.Addr, n)}).program(plain, Defend); err == nil {
			t.Errorf("%d addresses: accepted", n)
		}
	}
	f := Filter{LinkPort: testPort}
	for range maxFilterAddrs {
		f.Addrs = append(f.Addrs, edge6)
	}
	prog, err := f.program(keyed, Defend)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bpf.Assemble(prog); err != nil || len(prog) > 4096 {
		t.Errorf("%d instructions, %v; the kernel takes 4096", len(prog), err)
	}
}
