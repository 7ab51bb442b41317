package firewall

import (
	"net/netip"
	"slices"
	"testing"
)

func TestIntervals(t *testing.T) {
	for _, tc := range []struct {
		rule string
		in   []string
		want []string // ")" marks the end of an interval
	}{
		{"one address", []string{"198.18.0.1/32"}, []string{"198.18.0.1", "198.18.0.2)"}},
		{"only this family", []string{"2001:2::/48", "198.18.0.0/15"}, []string{"198.18.0.0", "198.20.0.0)"}},
		{"inside another", []string{"198.18.7.0/24", "198.18.0.0/15", "198.18.9.1/32"}, []string{"198.18.0.0", "198.20.0.0)"}},
		{"twice", []string{"198.18.0.0/24", "198.18.0.0/24"}, []string{"198.18.0.0", "198.18.1.0)"}},
		{"neighbours", []string{"198.18.1.0/24", "198.18.0.0/24"}, []string{"198.18.0.0", "198.18.2.0)"}},
		{"apart", []string{"198.18.2.0/24", "198.18.0.0/24"}, []string{"198.18.0.0", "198.18.1.0)", "198.18.2.0", "198.18.3.0)"}},
		{"everything", []string{"0.0.0.0/0", "198.18.0.0/24"}, []string{"0.0.0.0"}},
		{"the end of the space", []string{"255.255.255.0/24", "10.0.0.0/8"}, []string{"10.0.0.0", "11.0.0.0)", "255.255.255.0"}},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			var in []netip.Prefix
			for _, p := range tc.in {
				in = append(in, netip.MustParsePrefix(p))
			}
			var got []string
			for _, e := range intervals(in, 4) {
				a, _ := netip.AddrFromSlice(e.Key)
				s := a.String()
				if e.IntervalEnd {
					s += ")"
				}
				got = append(got, s)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// The kernel takes what intervals makes of awkward prefixes.
func TestAwkwardAllowPrefixes(t *testing.T) {
	w := newWorld(t)
	w.serve()
	cfg := config(true)
	for _, p := range []string{"198.18.71.0/30", "198.18.71.4/31", "198.18.71.4/32", "255.255.255.0/24", "::/0", "2001:2::/48"} {
		cfg.Allow = append(cfg.Allow, netip.MustParsePrefix(p))
	}
	w.firewall(cfg)
	for _, e := range families {
		w.wantIn("allowed", e.client, e.edge, sshPort)
	}
}
