package agent

import (
	"cmp"
	"slices"
	"time"

	"migrationsensor/proto"
)

// attackedFor is how long a node counts as attacked after it has sent its clients away, and how long an anchor that can't
// be reached is not asked for again.
const attackedFor = 60 * time.Second

// anchorTries is after how many failures in a row an anchor is passed over. Ours.
const anchorTries = 2

// choice is the agent's choice of anchors. The session to one that was chosen stays where it is; the choice is made anew
// when something has changed: the edge, the catalogue, an attack, an anchor's end. Guarded by Agent.mu.
type choice struct {
	declared map[string][]proto.NodeID // by service, in the catalogue's order
	names    []string                  // of the services, in the catalogue's order
	by       map[string]proto.NodeID   // the anchor of a service's new streams; zero: whatever edge is used
	attacked map[proto.NodeID]time.Time
	failed   map[proto.NodeID]failure
}

// failure counts dials that an anchor did not answer.
type failure struct {
	n  int
	at time.Time
}

func (c *choice) declare(services []proto.CatalogueService) {
	c.declared, c.names = make(map[string][]proto.NodeID), nil
	for _, s := range services {
		c.declared[s.Name] = s.Anchors
		c.names = append(c.names, s.Name)
	}
}

// anchor is where a new session for the service should end, by way of the edge: the first declared anchor that is not
// known to be under attack and not the edge itself, which comes last.
func (c *choice) anchor(service string, edge proto.NodeID, now time.Time) proto.NodeID {
	declared := c.declared[service]
	for _, a := range declared {
		if a != edge && !c.isAttacked(a, now) && !c.isFailed(a, now) {
			return a
		}
	}
	if slices.Contains(declared, edge) || len(declared) == 0 {
		return edge
	}
	return declared[0] // none is fit: the first may be again
}

// choose makes the choice for every service.
func (c *choice) choose(edge proto.NodeID, now time.Time) {
	c.by = make(map[string]proto.NodeID, len(c.names))
	for _, name := range c.names {
		c.by[name] = c.anchor(name, edge, now)
	}
}

// wanted lists the chosen anchors, each once, the first service's first.
func (c *choice) wanted() (out []proto.NodeID) {
	for _, name := range c.names {
		if a := c.by[name]; !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

func (c *choice) isAttacked(n proto.NodeID, now time.Time) bool {
	at, ok := c.attacked[n]
	return ok && now.Sub(at) < attackedFor
}

func (c *choice) isFailed(n proto.NodeID, now time.Time) bool {
	f := c.failed[n]
	return f.n >= anchorTries && now.Sub(f.at) < attackedFor
}

// attack notes that the node has sent its clients away.
func (c *choice) attack(n proto.NodeID, now time.Time) {
	if c.attacked == nil || len(c.attacked) > 64 { // of edges left long ago
		c.attacked = make(map[proto.NodeID]time.Time)
	}
	c.attacked[n] = now
}

// answered notes whether a dial reached the anchor.
func (c *choice) answered(n proto.NodeID, yes bool, now time.Time) {
	if yes {
		delete(c.failed, n)
		return
	}
	if c.failed == nil || len(c.failed) > 64 {
		c.failed = make(map[proto.NodeID]failure)
	}
	c.failed[n] = failure{c.failed[n].n + 1, now}
}

// anchorGone notes that an edge has said that an anchor is gone: that counts as much as several failures.
func (a *Agent) anchorGone(n proto.NodeID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range anchorTries {
		a.choice.answered(n, false, a.sys.Now())
	}
}

// anchorVia is the anchor for new sessions by way of an edge: that of the first service, if service is empty.
func (a *Agent) anchorVia(service string, edge proto.NodeID) proto.NodeID {
	a.mu.Lock()
	defer a.mu.Unlock()
	if service == "" && len(a.choice.names) > 0 {
		service = a.choice.names[0]
	}
	return a.choice.anchor(service, edge, a.sys.Now())
}

// nodeName is what a person calls a node: its name, or its id.
func (a *Agent) nodeName(n proto.NodeID) string {
	if e := a.enrolled(); e != nil {
		return cmp.Or(e.nameOf(n), n.String())
	}
	return n.String()
}
