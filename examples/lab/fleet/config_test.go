package fleet

import (
	"testing"

	"migrationsensor/examples/lab"
	"migrationsensor/proxyd"
)

func TestNamesOfAddresses(t *testing.T) {
	for addr, want := range map[string]string{
		"198.18.72.11": "p1", "198.18.72.93:7443": "p2", "[2001:2:0:72::171]:7443": "p3", "2001:2:0:72::93": "p2", "198.18.72.1:80": "198.18.72.1:80",
		"198.18.72.57:7443": "e2",
	} {
		if got := NameOf(addr); got != want {
			t.Errorf("%s is %q, want %q", addr, got, want)
		}
	}
}

// TestConfigurationsAreProxyds holds that proxyd takes what is written for it, with one entry and with
// two, and that a service is at every entry.
func TestConfigurationsAreProxyds(t *testing.T) {
	p := dirs{work: "/run/x", logs: "/tmp"}.of("sign")
	for publics, nodes := range map[int][]Node{
		2: PaperNodes(),
		4: {{Name: "p1", Kind: Entry}, {Name: "e2", Kind: Entry, Neighbours: []string{"p1"}}, {Name: "a1", Kind: Anchor}},
	} {
		text := signConfig(p, Config{Nodes: nodes, Services: DefaultServices()[:2]})
		c, err := proxyd.ParseConfig("sign.toml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if len(c.Services) != 2 || len(c.Services[0].Public) != publics || len(c.Nodes) != 4 {
			t.Errorf("%d nodes, services %v, want 4 nodes and each service at %d addresses", len(c.Nodes), c.Services, publics)
		}
	}
	if _, err := proxyd.ParseConfig("a1.toml", []byte(anchorConfig(p))); err != nil {
		t.Error(err)
	}
	text := edgeConfig(p, Edge{SYN: 250, ICMP: 300, Quiet: 2e9, Suspend: 3e9, P: 0.25}, lab.Uplink)
	c, err := proxyd.ParseConfig("p1.toml", []byte(text))
	if err != nil || c.SYNChecker.Probability != 0.25 || c.Detector.Threshold.SYN != 250 || c.Detector.Threshold.UDP != 0 {
		t.Errorf("%v: %+v\n%s", err, c, text)
	}
	text = edgeConfig(p, Edge{Quiet: 1e9, Suspend: 1e9}, lab.Uplink)
	if c, err = proxyd.ParseConfig("p1.toml", []byte(text)); err != nil || c.SYNChecker.Probability != 0 || c.SYNChecker.Answers == 0 {
		t.Errorf("%v: %+v: without a p the SYN Checker goes by its budget\n%s", err, c.SYNChecker, text)
	}
}
