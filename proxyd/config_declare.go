package proxyd

import "migrationsensor/proxyd/fleet"

// Declaration is what the signing node's configuration says about the fleet.
func (c *Config) Declaration() fleet.Declaration {
	d := fleet.Declaration{Fleet: c.Fleet}
	for _, s := range c.Services {
		d.Services = append(d.Services, fleet.DeclaredService(s))
	}
	for _, n := range c.Nodes {
		d.Nodes = append(d.Nodes, fleet.DeclaredNode(n))
	}
	return d
}
