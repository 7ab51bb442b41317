package compose

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/container"
	"migrationsensor/examples/lab/kernel"
	"migrationsensor/proxyd"
)

// load reads compose.yaml as docker compose 2 does, with the machines that only make compose-demo has.
func load(t *testing.T) *types.Project {
	t.Helper()
	o, err := cli.NewProjectOptions([]string{"compose.yaml"}, cli.WithDotEnv, cli.WithProfiles([]string{"demo"}), cli.WithInterpolation(true), cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(t.Context())
	if err != nil {
		t.Fatalf("compose.yaml is not valid for docker compose 2: %v", err)
	}
	return p
}

func TestValidForCompose2(t *testing.T) {
	p := load(t)
	if len(p.Services) != 17 {
		t.Errorf("%d services, want 17", len(p.Services))
	}
	var subnets []netip.Prefix
	for name, n := range p.Networks {
		if inside := name == "backplane" || name == "origin"; n.Internal != inside {
			t.Errorf("network %s: internal %v", name, n.Internal)
		}
		for _, c := range n.Ipam.Config {
			subnets = append(subnets, netip.MustParsePrefix(c.Subnet))
		}
	}
	slices.SortFunc(subnets, netip.Prefix.Compare)
	if !slices.Equal(subnets, container.Subnets) {
		t.Errorf("the networks are %v, and package container has %v", subnets, container.Subnets)
	}
}

// TestLeastRights: no container may do more than it must, and none gets a secret by its environment.
func TestLeastRights(t *testing.T) {
	caps := map[string][]string{"router": {"NET_ADMIN"}, "attacker": {"NET_RAW"}}
	for _, edge := range []string{"p1", "p2", "p3", "e2"} {
		caps[edge] = []string{"NET_ADMIN", "NET_RAW"}
	}
	for _, agent := range []string{"client", "each", "fresh"} {
		caps[agent] = []string{"NET_ADMIN"}
	}
	for name, s := range load(t).Services {
		if s.Privileged || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s: privileged %v, read-only %v, cap_drop %v, security_opt %v", name, s.Privileged, s.ReadOnly, s.CapDrop, s.SecurityOpt)
		}
		if !slices.Equal(s.CapAdd, caps[name]) {
			t.Errorf("%s: cap_add %v, want %v", name, s.CapAdd, caps[name])
		}
		if caps[name] == nil && s.User != "65534:65534" {
			t.Errorf("%s needs no right and runs as %q", name, s.User)
		}
		if len(s.Environment) > 0 || s.Restart != "no" || len(s.Ports) > 0 {
			t.Errorf("%s: environment %v, restart %q, ports %v: want none", name, s.Environment, s.Restart, s.Ports)
		}
		for _, n := range s.Networks {
			at, err := netip.ParseAddr(n.Ipv4Address)
			if err != nil || !kernel.Ours[0].Contains(at) {
				t.Errorf("%s: address %q: want a fixed one out of %s", name, n.Ipv4Address, kernel.Ours[0])
			}
		}
	}
}

// TestFleetIsTheLabs: the driver plays the lab's scenario, so the addresses must be the lab's.
func TestFleetIsTheLabs(t *testing.T) {
	cfg, err := proxyd.LoadConfig(filepath.Join("etc", "sign.toml"))
	if err != nil {
		t.Fatal(err)
	}
	public := map[string]netip.Addr{"p1": lab.P1.V4, "p2": lab.P2.V4, "p3": lab.P3.V4, "e2": lab.E2.V4}
	back := map[string]netip.Addr{
		"p1": lab.BackP1.V4, "p2": lab.BackP2.V4, "p3": lab.BackP3.V4, "e2": lab.BackE2.V4, "a1": lab.BackA1.V4, "sign": lab.BackSign.V4,
	}
	services := load(t).Services
	for _, n := range cfg.Nodes {
		if n.Backplane != netip.AddrPortFrom(back[n.Name], lab.PeerPort) {
			t.Errorf("%s: backplane %v, want %v", n.Name, n.Backplane, back[n.Name])
		}
		if at := services[n.Name].Networks["backplane"]; at == nil || at.Ipv4Address != back[n.Name].String() {
			t.Errorf("%s is not at %v in compose.yaml", n.Name, back[n.Name])
		}
		want := public[n.Name]
		if !want.IsValid() {
			continue
		}
		if len(n.Public) != 1 || n.Public[0] != want || services[n.Name].Networks["edge"].Ipv4Address != want.String() {
			t.Errorf("%s: public %v, want %v in sign.toml and compose.yaml", n.Name, n.Public, want)
		}
	}
	for _, s := range cfg.Services {
		if len(s.Public) != 2 || s.Public[0].Addr() != lab.P1.V4 || s.Public[1].Addr() != lab.E2.V4 {
			t.Errorf("service %s: public %v, want P1's and E2's address", s.Name, s.Public)
		}
	}
	for file, load := range map[string]func(string) error{
		"edge.toml":   func(f string) error { _, err := proxyd.LoadConfig(f); return err },
		"anchor.toml": func(f string) error { _, err := proxyd.LoadConfig(f); return err },
	} {
		if err := load(filepath.Join("etc", file)); err != nil {
			t.Error(err)
		}
	}
}

// TestReadmeNamesWhatIsThere: each command of the README is about a container, a network and a program that exist.
func TestReadmeNamesWhatIsThere(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	p := load(t)
	known := map[string]bool{}
	for _, s := range p.Services {
		known[s.ContainerName] = true
	}
	for _, n := range p.Networks {
		known[n.Name] = true
	}
	commands := 0
	name := regexp.MustCompile(`\bms-[a-z0-9]+\b`)
	programs := []string{"ms-agent", "ms-lab", "ms-demo"}
	for line := range strings.Lines(string(b)) {
		line, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			continue
		}
		commands++
		for _, n := range name.FindAllString(line, -1) {
			if !known[n] && !slices.Contains(programs, n) {
				t.Errorf("%q: there is no %s", strings.TrimSpace(line), n)
			}
		}
	}
	if commands < 15 {
		t.Errorf("the README has %d commands", commands)
	}
}
