package proxyd

import (
	"sync"
	"time"

	"migrationsensor/proto"
)

// How clones are noticed. Ours.
const (
	cloneWindow = 10 * time.Minute // in which a boot id comes back after another one
	maxBoots    = 1 << 16          // agents that are remembered
)

// clones notices two machines that run with one agent's identity, as after the copy of a disk: an agent's boot id
// changes with each of its starts, and never back.
type clones struct {
	mu    sync.Mutex
	boots map[proto.AgentID]*boots
}

// boots are an agent's last two boot ids.
type boots struct {
	now, before uint64
	changed     time.Time // when before became now
	alarmed     time.Time
}

// seen notes a control link's boot id; true: it is one that another one had replaced, and nobody was told of it within
// the window.
func (c *clones) seen(agent proto.AgentID, id uint64, at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.boots[agent]
	switch {
	case b == nil:
		if c.boots == nil {
			c.boots = make(map[proto.AgentID]*boots)
		}
		if len(c.boots) >= maxBoots {
			for victim := range c.boots { // any: an alarm comes a little later
				delete(c.boots, victim)
				break
			}
		}
		c.boots[agent] = &boots{now: id}
		return false
	case b.now == id:
		return false
	}
	back := b.before == id && at.Sub(b.changed) < cloneWindow
	b.now, b.before, b.changed = id, b.now, at
	if !back || at.Sub(b.alarmed) < cloneWindow {
		return false
	}
	b.alarmed = at
	return true
}
