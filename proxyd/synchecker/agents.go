package synchecker

import (
	"net/netip"
	"time"
)

const (
	agentRate  = 10 // keyed SYNs and knocks a second and agent, as PROTOCOL says
	agentBurst = 40
	knockPause = 20 * time.Second // no new knock of the same agent and address after an admission

	// Tokens may prove themselves this often, all together and from one address (PROTOCOL, Enrolment):
	// their secret is in more hands than an agent's key.
	enrolRate   = 100
	enrolBurst  = 100
	enrolEach   = 1
	enrolEachUp = 10

	agentWays = 4
	agentSets = 2048
)

// bucket is a token bucket that holds at most burst.
type bucket struct {
	tokens float64
	last   time.Time
}

func (b *bucket) take(now time.Time, rate, burst float64) bool {
	return b.takeAbove(now, rate, burst, 0)
}

// takeAbove takes a token if keep are left behind.
func (b *bucket) takeAbove(now time.Time, rate, burst, keep float64) bool {
	if b.last.IsZero() {
		b.tokens = burst
	} else if d := now.Sub(b.last); d > 0 {
		b.tokens = min(burst, b.tokens+d.Seconds()*rate)
	}
	b.last = now
	if b.tokens < 1+keep {
		return false
	}
	b.tokens--
	return true
}

// agent is what is remembered of a handle that showed a valid tag.
type agent struct {
	handle   [16]byte
	rate     bucket
	admitted time.Time
	addr     netip.Addr
}

// agents is a table of fixed size. Only the fleet's own agents get into it, each with one handle,
// since a tag can't be made for another; when a set is full the one unheard of for longest goes.
type agents struct {
	sets [agentSets][agentWays]agent
}

// allow counts one keyed SYN or knock of handle, and says whether it is within the rate.
func (t *agents) allow(handle [16]byte, now time.Time) (*agent, bool) {
	return t.take(handle, now, agentRate, agentBurst)
}

func (t *agents) take(handle [16]byte, now time.Time, rate, burst float64) (*agent, bool) {
	set := &t.sets[be.Uint16(handle[:])%agentSets] // AES output: evenly spread
	a := &set[0]
	for i := range set {
		if x := &set[i]; x.handle == handle {
			return x, x.rate.take(now, rate, burst)
		} else if x.rate.last.Before(a.rate.last) {
			a = x
		}
	}
	*a = agent{handle: handle}
	return a, a.rate.take(now, rate, burst)
}

// admit notes an admission of addr; false when the last one of the same address is too recent.
func (a *agent) admit(addr netip.Addr, now time.Time) bool {
	if a.addr == addr && now.Sub(a.admitted) < knockPause {
		return false
	}
	a.addr, a.admitted = addr, now
	return true
}
