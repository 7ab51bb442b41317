package paper

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestAssumptionsAreSaid(t *testing.T) {
	for _, tc := range []struct {
		rtt, timeout time.Duration
		says         string
	}{
		{0, 15800 * time.Microsecond, "15.8 ms"},
		{4 * time.Millisecond, 15800 * time.Microsecond, "15.8 ms"},
		{40 * time.Millisecond, 50 * time.Millisecond, "50 ms"},
	} {
		a := Assume(tc.rtt)
		if a.ReceiveTimeout != tc.timeout {
			t.Errorf("round trip %v: receive timeout %v, want %v", tc.rtt, a.ReceiveTimeout, tc.timeout)
		}
		if a.ReceiveTimeout <= a.RTT || a.FirstLimit >= time.Second {
			t.Errorf("round trip %v: a notification can't arrive, or a try is two SYNs: %+v", tc.rtt, a)
		}
		if text := strings.Join(a.Lines(), "\n"); !strings.Contains(text, "receive timeout: "+tc.says) || !strings.Contains(text, "24 SYN/s") {
			t.Errorf("round trip %v: lines do not say it:\n%s", tc.rtt, text)
		}
	}
	if a := (Assumed{}); !strings.Contains(strings.Join(a.Lines(), "\n"), "none in this run") {
		t.Error("no firewall is not said")
	}
}

func TestConfigRefuses(t *testing.T) {
	doors := []Forward{{netip.MustParseAddrPort("198.18.72.93:80"), netip.MustParseAddrPort("198.18.80.30:8080")}}
	good := func(r Role) Config {
		return Config{
			Role: r, Assumed: Assume(0), Forwards: doors, Ratify: netip.MustParseAddrPort("198.18.80.12:7450"),
			Address: testAddress, Ports: []uint16{80}, P2: testNotice.to.Addr(), P: 1, Toward: netip.MustParseAddr("198.18.0.1"),
		}
	}
	for _, r := range Roles {
		if err := good(r).Check(); err != nil {
			t.Errorf("%s: %v", r, err)
		}
	}
	for rule, spoil := range map[string]func() Config{
		"no such role":            func() Config { return good("p3") },
		"no doors":                func() Config { c := good(P1); c.Forwards = nil; return c },
		"P2 without backplane":    func() Config { c := good(P2); c.Ratify = netip.AddrPort{}; return c },
		"P2 that admits nobody":   func() Config { c := good(P2); c.Assumed.RatifiedMax = 0; return c },
		"checker over IPv6":       func() Config { c := good(Checker); c.Address = netip.MustParseAddr("2001:2::1"); return c },
		"checker without ports":   func() Config { c := good(Checker); c.Ports = nil; return c },
		"p above one":             func() Config { c := good(Checker); c.P = 1.1; return c },
		"a firewall, no burst":    func() Config { c := good(Checker); c.Assumed.Burst = 0; return c },
		"a firewall, less than 0": func() Config { c := good(Checker); c.Assumed.PreFilter = -1; return c },
	} {
		if err := spoil().Check(); err == nil {
			t.Errorf("%s: no error", rule)
		}
	}
}

func TestParseForward(t *testing.T) {
	want := Forward{netip.MustParseAddrPort("198.18.72.11:80"), netip.MustParseAddrPort("198.18.80.30:8080")}
	if got, err := ParseForward("198.18.72.11:80=198.18.80.30:8080"); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"", "198.18.72.11:80", "198.18.72.11=198.18.80.30:8080", "198.18.72.11:80=x"} {
		if _, err := ParseForward(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
