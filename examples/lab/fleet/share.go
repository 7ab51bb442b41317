package fleet

import (
	"net/netip"

	"migrationsensor/examples/lab"
)

// What the lab in memory shares with the one on the real kernel: the same files describe both fleets.

// Fill puts in what was left out.
func (c *Config) Fill() error { return c.fill() }

// SignText is the signing node's configuration.
func (c Config) SignText(p Paths) string { return signConfig(p, c) }

// EdgeText is an edge's configuration.
func EdgeText(p Paths, e Edge) string { return edgeConfig(p, e, lab.Uplink) }

// AgentText is an agent's configuration; probe is "warm" or "each".
func (c Config) AgentText(p Paths, probe string) string { return agentConfig(p, probe, c.Restless) }

// AddressesOf are an edge's: public ones, and where its peers find it.
func AddressesOf(name string) (public []netip.Addr, backplane netip.AddrPort) {
	at := placeOf(name)
	return []netip.Addr{at.public, at.public6}, at.backplane
}
