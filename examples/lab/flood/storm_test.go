package flood

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

func TestStormRefuses(t *testing.T) {
	storm := good()
	storm.Rate = MostStorm
	if err := storm.CheckStorm(); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	proofs := storm
	proofs.Data = [][]byte{make([]byte, 76), make([]byte, 76)}
	if err := proofs.CheckStorm(); err != nil {
		t.Fatalf("one with payloads: %v", err)
	}
	for rule, change := range map[string]func(*Config){
		"a target on the internet": func(c *Config) { c.Target = netip.MustParseAddrPort("8.8.8.8:80") },
		"sources that others have": func(c *Config) { c.Sources = netip.MustParsePrefix("10.1.0.0/16") },
		"sources that are no /16":  func(c *Config) { c.Sources = netip.MustParsePrefix("198.19.7.0/24") },
		"an IPv6 target": func(c *Config) {
			c.Target, c.Sources = netip.MustParseAddrPort("[2001:2::1]:80"), netip.MustParsePrefix("2001:2::/64")
		},
		"another kind":                  func(c *Config) { c.Kind = UDP },
		"no rate":                       func(c *Config) { c.Rate = 0 },
		"a rate above the cap":          func(c *Config) { c.Rate = MaxStorm + 1 },
		"longer than the cap":           func(c *Config) { c.Time = MaxStormTime + time.Second },
		"an odd payload":                func(c *Config) { c.Size = 75 },
		"a payload that is too long":    func(c *Config) { c.Size = maxStormData + 4 },
		"payloads of different lengths": func(c *Config) { c.Data = [][]byte{make([]byte, 76), make([]byte, 72)} },
		"payloads and random bytes":     func(c *Config) { c.Data, c.Size = [][]byte{make([]byte, 76)}, 76 },
		"too many payloads":             func(c *Config) { c.Data = make([][]byte, MaxData+1) },
		"ports of its own":              func(c *Config) { c.Ports = 7 },
	} {
		t.Run(rule, func(t *testing.T) {
			c := storm
			change(&c)
			if err := c.CheckStorm(); !errors.Is(err, ErrRefused) {
				t.Errorf("got %v, want ErrRefused", err)
			}
		})
	}
}

func TestSYNCarriesWhatItIsGiven(t *testing.T) {
	c := good()
	c.Data = [][]byte{[]byte("one proof"), []byte("and other")}
	s := &heard{}
	c.Count = 64
	if _, err := Over(t.Context(), c, s); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, f := range s.frames {
		seen[string(f[atPayloadOf4:])]++
	}
	if len(seen) != 2 || seen["one proof"]+seen["and other"] != c.Count {
		t.Errorf("payloads %v, want only the two, both", seen)
	}
}

// atPayloadOf4 is where the payload of our SYN over IPv4 is.
const atPayloadOf4 = 58

// heard keeps what is sent.
type heard struct{ frames [][]byte }

func (h *heard) Send(frames [][]byte) (int, error) {
	for _, f := range frames {
		h.frames = append(h.frames, append([]byte(nil), f...))
	}
	return len(frames), nil
}
