package synchecker

import (
	"net/netip"
	"testing"
	"time"

	"migrationsensor/proto"
)

func TestKeyedSYN(t *testing.T) {
	none := func(c *Config) { c.shares = &Shares{} }
	for name, row := range map[string]struct {
		payload func(f *fixture) []byte
		count   string
		answer  bool
	}{
		"valid":               {func(f *fixture) []byte { return f.preamble(proto.KindData, 1) }, "keyed", true},
		"valid and a hello":   {func(f *fixture) []byte { return append(f.preamble(proto.KindData, 1), hello...) }, "keyed", true},
		"MAC not looked at":   {func(f *fixture) []byte { b := f.preamble(proto.KindData, 1); b[75]++; return b }, "keyed", true},
		"tag wrong":           {func(f *fixture) []byte { b := f.preamble(proto.KindData, 1); b[59]++; return b }, "bad_tag", false},
		"too old":             {func(f *fixture) []byte { return f.preambleAt(proto.KindData, 1, f.now.Add(-11*time.Minute)) }, "keyed_stale", false},
		"of the future":       {func(f *fixture) []byte { return f.preambleAt(proto.KindData, 1, f.now.Add(11*time.Minute)) }, "keyed_stale", false},
		"too short":           {func(f *fixture) []byte { return f.preamble(proto.KindData, 1)[:75] }, "syn_sampled_out", false},
		"other data entirely": {func(*fixture) []byte { return make([]byte, 300) }, "bad_tag", false},
	} {
		t.Run(name, func(t *testing.T) {
			bothFamilies(t, func(t *testing.T, src netip.Addr) {
				f := newFixture(t, Defend, none)
				p := packet{src: src, seq: 9, options: linuxOptions, payload: row.payload(f)}
				r := f.send(p)
				if (r != nil) != row.answer {
					t.Fatalf("answer %+v, want one: %v", r, row.answer)
				}
				if r != nil && r.Ack != 10 {
					t.Errorf("acknowledges %d, want 10: never the SYN's data", r.Ack)
				}
				f.wantCounts("keyed SYN", map[string]uint64{row.count: 1})
			})
		})
	}
}

func TestKeyedSYNsAreCountedPerAgent(t *testing.T) {
	f := newFixture(t, Defend, func(c *Config) { c.shares = &Shares{} })
	send := func(agent byte) bool {
		return f.send(packet{payload: f.preamble(proto.KindData, agent)}) != nil
	}
	for i := range agentBurst {
		if !send(1) {
			t.Fatalf("keyed SYN %d refused, want a burst of %d", i, agentBurst)
		}
	}
	if send(1) {
		t.Error("beyond the burst it must count as an ordinary SYN (p = 0: silence)")
	}
	if !send(2) {
		t.Error("one agent's burst was charged to another")
	}
	f.now = f.now.Add(time.Second)
	n := 0
	for range 2 * agentRate {
		if send(1) {
			n++
		}
	}
	if n != agentRate {
		t.Errorf("%d keyed SYNs a second later, want %d", n, agentRate)
	}
}

func TestAgentTableIsBounded(t *testing.T) {
	var tab agents
	for i := range 1_000_000 {
		var h [16]byte
		be.PutUint64(h[:], uint64(i)*0x9e3779b97f4a7c15)
		if _, ok := tab.allow(h, epoch0.Add(time.Duration(i))); !ok {
			t.Fatal("a new agent met another one's limit")
		}
	}
}

func TestKnock(t *testing.T) {
	for _, mode := range []Mode{Dark, Defend} {
		t.Run(mode.String(), func(t *testing.T) {
			bothFamilies(t, func(t *testing.T, src netip.Addr) {
				f := newFixture(t, mode)
				knock := packet{src: src, udp: true, payload: f.preamble(proto.KindKnock, 1)}
				if r := f.send(knock); r != nil {
					t.Fatal("a knock was answered")
				}
				if len(f.admitted) != 1 || f.admitted[0] != src {
					t.Fatalf("admitted %v, want %v", f.admitted, src)
				}
			})
		})
	}
}

func TestKnockRules(t *testing.T) {
	for name, row := range map[string]struct {
		payload func(f *fixture) []byte
		count   string
	}{
		"a link's preamble": {func(f *fixture) []byte { return f.preamble(proto.KindControl, 1) }, "bad_kind"},
		"tag wrong":         {func(f *fixture) []byte { b := f.preamble(proto.KindKnock, 1); b[52]++; return b }, "bad_tag"},
		"MAC wrong":         {func(f *fixture) []byte { b := f.preamble(proto.KindKnock, 1); b[60]++; return b }, "bad_mac"},
		"too short":         {func(f *fixture) []byte { return f.preamble(proto.KindKnock, 1)[:75] }, "short"},
		"too long":          {func(f *fixture) []byte { return append(f.preamble(proto.KindKnock, 1), 0) }, "short"},
		"empty":             {func(*fixture) []byte { return nil }, "short"},
		"too old":           {func(f *fixture) []byte { return f.preambleAt(proto.KindKnock, 1, f.now.Add(-11*time.Minute)) }, "clock"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Dark)
			if f.send(packet{udp: true, payload: row.payload(f)}) != nil || len(f.admitted) != 0 {
				t.Error("admitted or answered")
			}
			f.wantCounts("knock", map[string]uint64{row.count: 1, "admitted": 0})
		})
	}
}

func TestKnockPauses(t *testing.T) {
	f := newFixture(t, Dark)
	knock := func(src netip.Addr) int {
		f.send(packet{src: src, udp: true, payload: f.preamble(proto.KindKnock, 1)})
		f.kernel[src] = true // its door is open
		return len(f.admitted)
	}
	for range 2 {
		if knock(client4) != 1 {
			t.Error("knocks at once: want one admission")
		}
	}
	if knock(client4.Next()) != 2 {
		t.Error("another address of the same agent must be admitted")
	}
	f.now = f.now.Add(knockPause)
	if knock(client4.Next()) != 3 {
		t.Error("20 s after the admission a knock must count again")
	}
	delete(f.kernel, client4.Next())
	if knock(client4.Next()) != 4 {
		t.Error("a door that was closed for somebody else's must open at once")
	}
	for range agentBurst { // two more than are left: the knocks before took two of a full burst
		knock(client4)
	}
	f.wantCounts("rate", map[string]uint64{"knock_limited": 2})
}

// TestDarkSaysNothing sends all that an entry under attack would answer.
func TestDarkSaysNothing(t *testing.T) {
	f := newFixture(t, Defend)
	data := f.connect(packet{})
	data.payload = f.preamble(proto.KindControl, 1)
	fin := data
	fin.flags, fin.payload = flagFIN|flagACK, nil
	all := []packet{{}, {options: linuxOptions}, data, fin, {payload: f.preamble(proto.KindData, 1)}, {udp: true}}
	f.c.SetMode(Dark)
	for _, p := range all {
		if r := f.send(p); r != nil {
			t.Errorf("a hidden edge answered %+v with %+v", p, r.TCP)
		}
	}
	if len(f.admitted) != 1 || f.admitted[0] != client4 {
		t.Errorf("admitted %v; want %v, once, by its keyed SYN", f.admitted, client4)
	}
}

func TestKeyedSYNAtHiddenEdgeNeedsMAC(t *testing.T) {
	f := newFixture(t, Dark)
	b := f.preamble(proto.KindData, 1)
	b[75]++
	f.send(packet{payload: b})
	if len(f.admitted) != 0 {
		t.Error("a tag alone admitted")
	}
	f.wantCounts("dark keyed SYN", map[string]uint64{"bad_mac": 1})
}
