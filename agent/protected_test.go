package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestProtectable(t *testing.T) {
	gateway := netip.MustParseAddr("198.18.0.1")
	accept := []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16"), netip.MustParsePrefix("2001:2::/48")}
	for _, tt := range []struct{ rule, addr, why string }{
		{"an ordinary address", "198.18.1.1:443", ""},
		{"IPv6", "[2001:2::1]:443", ""},
		{"the default route", "0.0.0.0:443", "no address"},
		{"the default route, IPv6", "[::]:443", "no address"},
		{"every port", "198.18.1.1:0", "no port"},
		{"the machine's gateway", "198.18.0.1:443", "gateway"},
		{"loopback", "127.0.0.1:443", "another host"},
		{"link-local", "169.254.1.1:443", "another host"},
		{"multicast", "224.0.0.1:443", "another host"},
		{"IPv4 in IPv6", "[::ffff:198.18.1.1]:443", "written as IPv6"},
		{"outside accept", "198.19.1.1:443", "accept"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			take, refused := protectable([]public{{"web", netip.MustParseAddrPort(tt.addr)}}, accept, []netip.Addr{gateway})
			if tt.why == "" && (len(take) != 1 || len(refused) != 0) {
				t.Errorf("got %v refused %q, want it taken", take, refused)
			}
			if tt.why != "" && (len(take) != 0 || len(refused) != 1 || !strings.Contains(refused[0], tt.why)) {
				t.Errorf("got %v refused %q, want it refused: %s", take, refused, tt.why)
			}
		})
	}
}

func TestOwnAddresses(t *testing.T) {
	const v4 = "Iface\tDestination\tGateway\tFlags\neth0\t00000000\t010012C6\t0003\neth0\t0000FEA9\t00000000\t0001\n"
	if got, want := gateways4(strings.NewReader(v4)), netip.MustParseAddr("198.18.0.1"); !slices.Equal(got, []netip.Addr{want}) {
		t.Skipf("got %v: only a little-endian machine writes it as %v", got, want)
	}
	const v6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 1 0 3 eth0\n"
	if got, want := gateways6(strings.NewReader(v6)), netip.MustParseAddr("fe80::1"); !slices.Equal(got, []netip.Addr{want}) {
		t.Errorf("got %v, want %v", got, want)
	}
	const conf = "# comment\nsearch example\nnameserver 198.18.0.53\nnameserver fe80::1%eth0\nnameserver nonsense\n"
	want := []netip.Addr{netip.MustParseAddr("198.18.0.53"), netip.MustParseAddr("fe80::1")}
	if got := resolvers(strings.NewReader(conf)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
