package capture

import (
	"net/netip"
	"testing"
	"time"
)

// at makes packets of what was sent (positive) and received (negative) at so many milliseconds.
func at(ms ...int) (out []Packet) {
	for _, m := range ms {
		p := Packet{At: time.Unix(0, 0).Add(time.Duration(max(m, -m)) * time.Millisecond), Out: m > 0}
		out = append(out, p)
	}
	return out
}

func TestRoundTrips(t *testing.T) {
	const rtt = 10 * time.Millisecond
	for _, tt := range []struct {
		rule    string
		packets []Packet
		want    int
	}{
		{"nothing", nil, 0},
		{"sent and never answered", at(1, 2), 0},
		{"heard without asking", at(-5), 0},
		{"one handshake", at(1, -11), 1},
		{"handshake, question, answer", at(1, -11, 12, -22), 2},
		{"a flight of several packets is one", at(1, 2, 3, -11, -12, -13), 1},
		{"an answer that comes too soon was to something before", at(1, -5, -11), 1},
		{"two that cross on the way wait together", at(1, 5, -11, -15), 1},
		{"an acknowledgement before the answer", at(1, -11, -12, 13, -23), 2},
		{"three in a row", at(1, -12, 12, -23, 24, -35), 3},
	} {
		if got := RoundTrips(tt.packets, rtt); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.rule, got, tt.want)
		}
	}
}

// syn4 and data6 are packets as an interface without a link layer gives them.
var (
	syn4 = []byte{
		0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 198, 18, 0, 1, 198, 18, 7, 1,
		0x9c, 0x40, 0, 80, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
	}
	knock6 = append([]byte{
		0x60, 0, 0, 0, 0, 10, 17, 64,
		0x20, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x20, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
		0x9c, 0x40, 0x1d, 0x13, 0, 10, 0, 0,
	}, 1, 2)
)

func TestParse(t *testing.T) {
	src, dst, p, ok := parse(syn4)
	if !ok || src != netip.MustParseAddrPort("198.18.0.1:40000") || dst != netip.MustParseAddrPort("198.18.7.1:80") || p.Flags != 2 || p.Payload != 0 {
		t.Errorf("SYN: got %v %v %+v %v", src, dst, p, ok)
	}
	p.Out, p.Remote = true, dst
	if got, want := p.String(), "→ 198.18.7.1:80 TCP S 0 bytes"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	src, dst, p, ok = parse(knock6)
	if !ok || src.Addr() != netip.MustParseAddr("2001:2::1") || dst != netip.MustParseAddrPort("[2001:2::2]:7443") || p.Payload != 2 {
		t.Errorf("knock: got %v %v %+v %v", src, dst, p, ok)
	}
	for n := range syn4 {
		if _, _, _, ok := parse(syn4[:n]); ok {
			t.Errorf("a packet cut after %d bytes was taken", n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(syn4)
	f.Add(knock6)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, p, ok := parse(b); ok && p.Payload < 0 {
			t.Errorf("%d bytes of payload", p.Payload)
		}
	})
}
