package paper

import (
	"maps"
	"net/netip"
	"sync"
	"time"
)

// admission is P2's list of ratified clients, by address: their next connection has another port.
type admission struct {
	ttl time.Duration
	max int

	mu    sync.Mutex
	until map[netip.Addr]time.Time
}

func newAdmission(a Assumed) *admission {
	return &admission{ttl: a.RatifiedFor, max: a.RatifiedMax, until: map[netip.Addr]time.Time{}}
}

// ratify admits a client, or says that the list is full.
func (a *admission) ratify(now time.Time, client netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.until[client]; !known && len(a.until) >= a.max {
		maps.DeleteFunc(a.until, func(_ netip.Addr, end time.Time) bool { return !now.Before(end) })
		if len(a.until) >= a.max {
			return false
		}
	}
	a.until[client] = now.Add(a.ttl)
	return true
}

func (a *admission) admits(now time.Time, client netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	end, known := a.until[client]
	return known && now.Before(end)
}
