package proxyd

import (
	"net/netip"
	"testing"
	"time"
)

func TestStrangersByPrefix(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := newStrangers(func() time.Time { return now })
	for range 3 {
		s.count(netip.MustParseAddr("198.18.7.9"), "mute")
	}
	s.count(netip.MustParseAddr("::ffff:198.18.7.200"), "bad_mac")
	s.count(netip.MustParseAddr("2001:2:0:1::5"), "bad_tag")
	s.count(netip.Addr{}, "bad_tag")
	got := s.top(map[netip.Prefix]uint64{netip.MustParsePrefix("2001:2::/48"): 9, netip.MustParsePrefix("198.19.0.0/24"): 2})
	want := []StrangerStatus{
		{Prefix: netip.MustParsePrefix("2001:2::/48"), Count: 10},
		{Prefix: netip.MustParsePrefix("198.18.7.0/24"), Count: 4},
		{Prefix: netip.MustParsePrefix("198.19.0.0/24"), Count: 2},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i, w := range want {
		if got[i].Prefix != w.Prefix || got[i].Count != w.Count {
			t.Errorf("got %+v, want %+v", got[i], w)
		}
	}
	if w := got[1].Why; w["mute"] != 3 || w["bad_mac"] != 1 || !got[1].Last.Equal(now) {
		t.Errorf("got %+v, want 3 mute and one bad_mac just now", got[1])
	}
}

// Who sends from everywhere drives out neither the table's bound nor who comes often.
func TestStrangersAreBounded(t *testing.T) {
	s := newStrangers(time.Now)
	often := netip.MustParseAddr("198.18.0.1")
	for range 100 {
		s.count(often, "mute")
	}
	for i := range 20 * maxStrangers {
		s.count(netip.AddrFrom4([4]byte{198, 19 + byte(i>>16), byte(i >> 8), byte(i)}), "mute")
		s.count(netip.AddrFrom16([16]byte{0x20, 0x01, 0, 2, byte(i >> 8), byte(i)}), "mute")
		if i%100 == 0 {
			s.count(often, "mute")
		}
	}
	if len(s.seen) > maxStrangers {
		t.Errorf("%d prefixes are known, want %d at most", len(s.seen), maxStrangers)
	}
	if x := s.seen[prefixOf(often)]; x == nil || x.why["mute"] < 300 {
		t.Errorf("who came most often was forgotten: %+v", x)
	}
}
