package proxyd

import (
	"sync"
	"time"

	"migrationsensor/proto"
)

// Bounds of what a link that is not admitted yet is told to wait (ours; a sealed reply can say 25.5 s).
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 25 * time.Second

	maxOpening  = 128 // a second's work of a machine that is ten times slower than it should be
	slowest     = 10  // links a second that every machine can do
	measureOver = 250 * time.Millisecond

	// Of one agent (ours): all its links come at once when it moves, and with `probe = "each"` each of its connections may
	// be one.
	linkRate  = 20 // links a second: a hundredth of what all may have
	linkBurst = 64
	maxLinks  = 256     // that live; an entry has thousands
	maxAgents = 1 << 14 // that are remembered
	countEach = 4       // that wait with the others; all that it waits for at once is one move
)

// intake lets new links in at a rate, so that a thousand clients that come at once cost this proxy
// no more handshakes a second than it has time for. It reads no clock.
//
// Who comes too early is told a time drawn from the whole of the time that those before him take: the
// backlog, which grows with each that is turned away and shrinks at the rate: the configured one, or what this machine
// was seen to do while it had too many.
//
// Each agent has a rate of its own too. What goes beyond that waits in a backlog of its own, and counts in nobody else's.
type intake struct {
	mu  sync.Mutex // guards what follows
	all turns
	own map[proto.AgentID]*turns

	// of the measurement under way, while many are opening
	since  time.Time // zero: there is none
	before int       // that were opening then
	taken  int       // since
}

// turns is a bucket of tokens, and who waits for one.
type turns struct {
	rate, burst, tokens, backlog float64
	speed                        float64 // at which the backlog shrinks: the rate, or what was measured
	at                           time.Time

	// an agent's
	counted int       // that were put into the backlog of all
	until   time.Time // when the last of them is to come
}

func newTurns(rate, burst float64, now time.Time) turns {
	return turns{rate: rate, burst: burst, tokens: burst, speed: rate, at: now}
}

func newIntake(rate, burst float64, now time.Time) *intake {
	return &intake{all: newTurns(rate, burst, now), own: map[proto.AgentID]*turns{}}
}

// take admits an agent's link now, or says when to come again. opening is how many were taken in and are not answered yet:
// what a machine can do in a second nobody knows, so too many of them are too many whatever the rate. live is how many
// links the agent has. jitter draws from the duration that it is given.
func (a *intake) take(now time.Time, agent proto.AgentID, opening, live int, jitter func(time.Duration) time.Duration) (again time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all.rate <= 0 {
		return 0, true
	}
	own := a.ofLocked(now, agent)
	own.pass(now)
	if own.tokens < 1 || live >= maxLinks {
		return own.later(jitter), false
	}
	a.measureLocked(now, opening)
	a.all.pass(now)
	if a.all.tokens < 1 || opening >= maxOpening {
		return a.laterLocked(now, own, jitter), false
	}
	own.tokens--
	a.all.tokens--
	a.taken++
	return 0, true
}

// laterLocked puts an agent's link into the backlog of all. One that does not wait as it was told, or has many, has a few
// there and no more: the others would wait for it.
func (a *intake) laterLocked(now time.Time, own *turns, jitter func(time.Duration) time.Duration) time.Duration {
	if !now.Before(own.until) {
		own.counted = 0
	}
	if own.counted >= countEach {
		return a.all.wait(jitter)
	}
	own.counted++
	again := a.all.later(jitter)
	if until := now.Add(again); until.After(own.until) {
		own.until = until
	}
	return again
}

// measureLocked finds out how many links this machine opens in a second, while so many are opening that it does nothing
// else.
func (a *intake) measureLocked(now time.Time, opening int) {
	over := now.Sub(a.since)
	switch {
	case opening < maxOpening/2:
		a.all.speed, a.since = a.all.rate, time.Time{}
		return
	case !a.since.IsZero() && over < measureOver:
		return
	case !a.since.IsZero():
		opened := float64(a.taken - (opening - a.before))
		a.all.speed = min(max(opened/over.Seconds(), slowest), a.all.rate)
	}
	a.since, a.before, a.taken = now, opening, 0
}

// pass takes in what time has brought.
func (t *turns) pass(now time.Time) {
	passed := max(now.Sub(t.at).Seconds(), 0)
	t.at = now
	t.tokens = min(t.tokens+passed*t.rate, t.burst)
	t.backlog = max(t.backlog-passed*t.speed, 0)
}

// later puts one more into the backlog, and says when it is to come.
func (t *turns) later(jitter func(time.Duration) time.Duration) time.Duration {
	t.backlog = min(t.backlog+1, t.rate*maxRetry.Seconds())
	return t.wait(jitter)
}

// wait is a time in which the backlog is done. Nobody waits longer than a reply can say.
func (t *turns) wait(jitter func(time.Duration) time.Duration) time.Duration {
	all := time.Duration(t.backlog / t.speed * float64(time.Second))
	return minRetry + jitter(min(max(all, minRetry), maxRetry-minRetry))
}

// ofLocked is an agent's own bucket. Where there are too many, those go that would be the same anew; if there are none, any.
func (a *intake) ofLocked(now time.Time, agent proto.AgentID) *turns {
	if t := a.own[agent]; t != nil {
		return t
	}
	if len(a.own) >= maxAgents {
		var any proto.AgentID
		for id, t := range a.own {
			any = id
			if t.pass(now); t.tokens >= t.burst && t.backlog == 0 {
				delete(a.own, id)
			}
		}
		if len(a.own) >= maxAgents {
			delete(a.own, any)
		}
	}
	t := newTurns(linkRate, linkBurst, now)
	a.own[agent] = &t
	return &t
}
