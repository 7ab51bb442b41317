package synchecker

import (
	"net/netip"
	"testing"

	"migrationsensor/proto"
)

// FuzzFrame: no frame makes the checker panic, and no answer is larger than what was sent, but for
// the sealed reply to a cookie that was earned, which a mutation can't.
func FuzzFrame(f *testing.F) {
	fix := newFixture(f, Defend)
	for _, src := range []netip.Addr{client4, client6} {
		for _, p := range []packet{
			{src: src, options: linuxOptions},
			{src: src, payload: fix.preamble(proto.KindData, 1)},
			{src: src, flags: flagACK, payload: fix.preamble(proto.KindData, 1)},
			{src: src, flags: flagACK | flagFIN},
			{src: src, udp: true, payload: fix.preamble(proto.KindKnock, 1)},
			{src: src, vlan: 7},
		} {
			f.Add(p.frame(f), uint16(0), byte(Defend))
			f.Add(p.frame(f), uint16(5), byte(Dark))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, tci uint16, mode byte) {
		vlan := uint32(0)
		if tci != 0 {
			vlan = etherVLAN<<16 | uint32(tci)
		}
		fix := newFixture(t, Mode(mode%3))
		fix.c.handle(&Frame{Data: b, VLAN: vlan}, fix.now)
		if len(fix.c.out) == 0 {
			return
		}
		if Mode(mode%3) != Defend {
			t.Fatalf("answered in mode %v", Mode(mode%3))
		}
		answer := fix.c.out[0]
		tag := 0
		if vlan != 0 { // stripped from what arrived
			tag = vlanLen
		}
		if len(answer)-tag > len(b) {
			t.Fatalf("answer of %d bytes to %d", len(answer)-tag, len(b))
		}
		decode(t, answer)
	})
}
