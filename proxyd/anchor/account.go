package anchor

import (
	"sync"
	"sync/atomic"
	"time"

	"migrationsensor/proto"
)

// What one agent may have and do, over all its sessions: one that takes all it can leaves three quarters to the others
// (ours; the rate is that of a session too, but sessions cost an agent nothing).
const (
	shareOfOne  = 4        // the part of streams and memory that is one agent's
	memoryOfOne = 16 << 20 // at least: a session of a few hundred streams
	openRate    = 200      // OPENs a second
	openBurst   = 2000
)

// account is what one agent has here. It outlives the agent's last session for as long as it still counts, so that a new
// session is no new account.
type account struct {
	memory        int64 // its share; set once
	used, streams atomic.Int64

	mu     sync.Mutex // guards what follows
	tokens float64
	at     time.Time
}

// mayOpen counts an OPEN, if it is within the rate.
func (c *account) mayOpen(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fillLocked(now)
	if c.tokens < 1 {
		return false
	}
	c.tokens--
	return true
}

func (c *account) fillLocked(now time.Time) {
	if !c.at.IsZero() {
		c.tokens = min(c.tokens+openRate*now.Sub(c.at).Seconds(), openBurst)
	}
	c.at = now
}

// full reports whether the agent has no room for a new stream: nine tenths of its share, as with the whole budget.
func (c *account) full() bool { return c.used.Load() > c.memory/10*9 }

// idle reports whether a new account would be the same.
func (c *account) idle(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fillLocked(now)
	return c.used.Load() == 0 && c.streams.Load() == 0 && c.tokens >= openBurst
}

// accounts are kept of agents with a session, and of a few others.
const idleAccounts = 64

// account finds or makes an agent's.
func (a *Anchor) account(agent proto.AgentID) *account {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.accounts[agent]; c != nil {
		return c
	}
	if len(a.accounts) >= 2*len(a.agents)+idleAccounts { // so each look at all of them is paid for by as many agents
		now := time.Now()
		for id, c := range a.accounts {
			if a.agents[id] == nil && c.idle(now) {
				delete(a.accounts, id)
			}
		}
	}
	c := &account{memory: a.cfg.MemoryOfOne, tokens: openBurst}
	a.accounts[agent] = c
	return c
}
