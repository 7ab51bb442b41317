package flood

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func good() Config {
	return Config{
		Kind: SYN, Target: netip.MustParseAddrPort("198.18.72.11:80"),
		Sources: netip.MustParsePrefix("198.19.0.0/16"), Rate: 1000, Time: time.Second,
	}
}

func TestRefusesWhatIsNotTheLabs(t *testing.T) {
	if err := good().Check(); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for rule, change := range map[string]func(*Config){
		"a target on the internet":            func(c *Config) { c.Target = netip.MustParseAddrPort("8.8.8.8:80") },
		"a private target":                    func(c *Config) { c.Target = netip.MustParseAddrPort("10.0.0.1:80") },
		"just above the range":                func(c *Config) { c.Target = netip.MustParseAddrPort("198.20.0.0:80") },
		"a mapped address":                    func(c *Config) { c.Target = netip.MustParseAddrPort("[::ffff:8.8.8.8]:80") },
		"an IPv6 target outside":              func(c *Config) { c.Target = netip.MustParseAddrPort("[2001:2:1::1]:80") },
		"sources that others have":            func(c *Config) { c.Sources = netip.MustParsePrefix("198.0.0.0/8") },
		"sources of the other family":         func(c *Config) { c.Sources = netip.MustParsePrefix("2001:2::/64") },
		"no sources":                          func(c *Config) { c.Sources = netip.Prefix{} },
		"above the rate's cap":                func(c *Config) { c.Rate = MaxRate + 1 },
		"above the time's cap":                func(c *Config) { c.Time = MaxTime + 1 },
		"a payload larger than a wire packet": func(c *Config) { c.Size = 1401 },
	} {
		t.Run(rule, func(t *testing.T) {
			c := good()
			change(&c)
			if err := c.Check(); !errors.Is(err, ErrRefused) {
				t.Errorf("got %v, want ErrRefused", err)
			}
		})
	}
}

func TestPaceSendsItsShareAndNeverABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pace{rate: 10_000, total: 10_000}
		start := time.Now()
		for !p.done() {
			time.Sleep(time.Millisecond) // fake time
			if time.Since(start) == 500*time.Millisecond {
				time.Sleep(100 * time.Millisecond) // the machine was busy: 1,000 packets late
			}
			n := p.due(time.Since(start))
			if n > 100 {
				t.Fatalf("%d packets at once, want at most 10 ms' worth", n)
			}
			p.sent += n
		}
		if p.sent+p.skipped != 10_000 || p.skipped < 900 || p.skipped > 1000 {
			t.Errorf("sent %d, skipped %d; want the late ones skipped, and counted", p.sent, p.skipped)
		}
	})
}
