package proxyd

import "migrationsensor/proxyd/fleet"

// What agents do whose edge falls silent without a word.
const (
	RescueEntries = "entries" // they ask the entries; the default
	RescueStandby = "standby" // they go to an address that they were told ahead, counted as disclosed
)

// Declaration is what the signing node's configuration says about the fleet.
func (c *Config) Declaration() fleet.Declaration {
	d := fleet.Declaration{Fleet: c.Fleet, Rescue: c.Rescue}
	for _, s := range c.Services {
		d.Services = append(d.Services, fleet.DeclaredService(s))
	}
	for _, n := range c.Nodes {
		d.Nodes = append(d.Nodes, fleet.DeclaredNode(n))
	}
	return d
}

// The values of a service's plain: how clients without an agent are taken while their edge is attacked.
const (
	PlainCookie = "cookie" // by SYN cookies
	PlainDrop   = "drop"
	PlainAdmit  = "admit" // as in peace, and the flood with them
)
