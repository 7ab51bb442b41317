package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"migrationsensor/proto"
)

// What the parts of an agent tell each other: which tethers there are, which edge is the current one, what has happened.

// warmFor is the tether for a service's new streams, nil when there is none, and the round that may bring another. While
// the chosen anchor's is being made another one does it, the best of all that may.
func (a *Agent) warmFor(service string) (*tether, *round) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := a.warm[a.choice.by[service]]; t != nil && !t.ended() {
		return t, a.round
	}
	return a.substituteLocked(service), a.round
}

func (a *Agent) substituteLocked(service string) (best *tether) {
	declared, now := a.choice.declared[service], a.sys.Now()
	rank := func(t *tether) int {
		r := 0
		if !t.up() {
			r += 2
		}
		if a.choice.isAttacked(t.anchor, now) {
			r++
		}
		return r
	}
	for _, t := range a.warm {
		fit := len(declared) == 0
		for _, d := range declared {
			fit = fit || d == t.anchor
		}
		if fit && !t.ended() && (best == nil || rank(t) < rank(best)) {
			best = t
		}
	}
	return best
}

// lead is the tether whose edge the control link follows: that of the first service.
func (a *Agent) lead() *tether {
	a.mu.Lock()
	names := a.choice.names
	a.mu.Unlock()
	service := ""
	if len(names) > 0 {
		service = names[0]
	}
	t, _ := a.warmFor(service)
	return t
}

// startTether runs t until it ends. One that is not single takes new streams from now on.
func (a *Agent) startTether(t *tether) bool {
	a.mu.Lock()
	a.tethers[t] = struct{}{}
	a.mu.Unlock()
	ok := a.spawn(func(ctx context.Context) {
		t.run(ctx)
		a.forgetTether(t)
	})
	if !ok {
		t.shut(context.Canceled)
		a.forgetTether(t)
		return false
	}
	if !t.single {
		a.mu.Lock()
		old := a.warm[t.anchor]
		a.warm[t.anchor] = t
		a.endRoundLocked(nil)
		a.mu.Unlock()
		if old != nil {
			old.setRetired(true)
		}
	}
	return true
}

func (a *Agent) forgetTether(t *tether) {
	a.mu.Lock()
	delete(a.tethers, t)
	was := a.warm[t.anchor] == t
	if was {
		delete(a.warm, t.anchor)
	}
	a.mu.Unlock()
	if was {
		a.lookAround()
	}
}

// lookAround has the supervisor compare what there is with what there should be.
func (a *Agent) lookAround() {
	select {
	case a.around <- struct{}{}:
	default:
	}
}

// sessions lists the tethers that have not ended, those for new streams first.
func (a *Agent) sessions() (out []*tether) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, single := range []bool{false, true} {
		for t := range a.tethers {
			if t.single == single && !t.ended() {
				out = append(out, t)
			}
		}
	}
	return out
}

// rechoose makes the choice of anchors anew, lets go of the tethers that no service wants for new streams any more, and
// lists the anchors to which there is none.
func (a *Agent) rechoose(edge proto.NodeID) (missing []proto.NodeID) {
	missing, out := a.rechosen(edge)
	retire(out)
	return missing
}

func (a *Agent) rechosen(edge proto.NodeID) (missing []proto.NodeID, out []*tether) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.choice.choose(edge, a.sys.Now())
	wanted := make(map[proto.NodeID]bool)
	for _, n := range a.choice.wanted() {
		wanted[n] = true
		if t := a.warm[n]; t == nil || t.ended() {
			missing = append(missing, n)
		}
	}
	if len(missing) > 0 { // they stand in until the missing ones are there
		return missing, nil
	}
	for n, t := range a.warm {
		if !wanted[n] && len(wanted) > 0 {
			delete(a.warm, n)
			out = append(out, t)
		}
	}
	return nil, out
}

// letGo retires every tether: new streams need another.
func (a *Agent) letGo() {
	a.mu.Lock()
	out := slices.Collect(maps.Values(a.warm))
	clear(a.warm)
	a.mu.Unlock()
	retire(out)
}

// retire has tethers end with their last streams. Nobody who calls it holds the agent's mu.
func retire(ts []*tether) {
	for _, t := range ts {
		t.setRetired(true)
	}
}

// endRound wakes those who wait for a session.
func (a *Agent) endRound(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.endRoundLocked(err)
}

func (a *Agent) endRoundLocked(err error) {
	a.round.err = err
	close(a.round.done)
	a.round = newRound()
}

// connected notes the control link, and remembers its edge for the next start.
func (a *Agent) connected(u *uplink) {
	a.mu.Lock()
	if e := a.enr.Current; e == nil || e.Node != u.cand.Node {
		a.standby = nil // it was the last edge's to give
	}
	a.up, a.upSince = u, a.sys.Now()
	e := *a.enr
	a.mu.Unlock()
	a.setState(stateConnected, "")
	if e.Current == nil || e.Current.Node != u.cand.Node || e.Current.target() != u.cand.Target {
		e.Current = saveEdge(u.cand.Target)
		a.keep(&e)
	}
	a.isReady.Do(func() { close(a.ready) })
}

func (a *Agent) disconnected() {
	a.mu.Lock()
	a.up = nil
	a.mu.Unlock()
	a.setState(stateConnecting, "")
}

// setSecond notes the warm control link to another entry, or that there is none.
func (a *Agent) setSecond(u *uplink) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.second = u
}

// secondEdge is the entry to which there is a warm control link: an edge that is known to live.
func (a *Agent) secondEdge() (candidate, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.second == nil {
		return candidate{}, false
	}
	return a.second.cand, true
}

// secondAt is the warm control link to the entry, if it lives.
func (a *Agent) secondAt(n proto.NodeID) *uplink {
	a.mu.Lock()
	defer a.mu.Unlock()
	if u := a.second; u != nil && u.cand.Node == n && u.lives() {
		return u
	}
	return nil
}

// suspect asks the control link of an edge for a sign of life, because a data link by way of it has none.
func (a *Agent) suspect(edge candidate) {
	a.mu.Lock()
	up := a.up
	a.mu.Unlock()
	if up != nil && up.cand.Node == edge.Node {
		up.ask()
	}
}

// candidateAt is an edge that a dial has led to.
func (a *Agent) candidateAt(t proto.Target) candidate {
	name := a.enrolled().nameOf(t.Node)
	return candidate{Target: t, name: name, told: name == ""}
}

// unreachable ends a round that no candidate answered.
func (a *Agent) unreachable(why string, err error) {
	a.setState(stateConnecting, why)
	a.endRound(err)
	a.isReady.Do(func() { close(a.ready) })
}

// keep replaces the enrolment, here and on disk. What can't be written is used all the same.
func (a *Agent) keep(e *enrolment) {
	a.setEnrolment(e)
	if err := e.save(a.cfg.State); err != nil {
		a.log.Error("state not saved", "err", err)
	}
}

func (a *Agent) setState(state, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != state {
		a.state, a.since = state, a.sys.Now()
	}
	a.why = why
}

// event keeps what an operator would want to know of, and logs it.
func (a *Agent) event(what, detail string) {
	a.events.add(Event{Time: a.sys.Now(), What: what, Detail: detail})
	a.log.Info(what, "detail", detail)
}

// attacked notes that a node has sent its clients away.
func (a *Agent) attacked(n proto.NodeID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.choice.attack(n, a.sys.Now())
}

// reached notes whether an anchor could be reached by way of an edge that answers.
func (a *Agent) reached(anchor proto.NodeID, yes bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.choice.answered(anchor, yes, a.sys.Now())
}

func (a *Agent) isAttacked(n proto.NodeID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.choice.isAttacked(n, a.sys.Now())
}

// setNamed keeps the targets of a migration that has not succeeded yet: a session that loses its link before is sought
// for there first.
func (a *Agent) setNamed(ts []proto.Target) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.named = ts
}

// namedFor is how long the targets of a migration are still good after it: the first may die right then. Ours.
const namedFor = 10 * time.Second

// fadeNamed forgets the targets of a migration that has succeeded, a little later.
func (a *Agent) fadeNamed() {
	ts := a.namedNow()
	if len(ts) == 0 {
		return
	}
	a.later(namedFor, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.named) > 0 && &a.named[0] == &ts[0] { // no other migration meanwhile
			a.named = nil
		}
	})
}

func (a *Agent) namedNow() []proto.Target {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.named
}

// setStandby keeps the one address that the current edge gives ahead, where the fleet has its edges do that.
func (a *Agent) setStandby(ts []proto.Target) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.standby = ts[:min(1, len(ts))]
}

// rescues are where else to look when edges are silent: the address that was given ahead.
func (a *Agent) rescues() []candidate {
	a.mu.Lock()
	defer a.mu.Unlock()
	return told(a.standby)
}
