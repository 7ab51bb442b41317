package agent

import (
	"context"
	"fmt"
	"time"
)

// What the supervisor tells the rest of the agent about the current edge.

// useData makes d, or nothing, the session for new streams. The one before is let go, unless the current uplink still has it: that
// is done when the new uplink is complete.
func (a *Agent) useData(d *dataLink) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.warm; old != nil && old != d && !old.held {
		old.Retire()
	}
	a.warm = d
	if d != nil {
		a.endRoundLocked(nil)
	}
}

// release says that no uplink has d any more; it ends with its streams if new ones go elsewhere.
func (a *Agent) release(d *dataLink) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d.held = false
	if d.ended() && a.warm == d {
		a.warm = nil
	}
	if a.warm != d {
		d.Retire()
	}
}

// endAt resets what still runs on d at a time; zero means never.
func (a *Agent) endAt(d *dataLink, at time.Time) {
	if at.IsZero() {
		return
	}
	wait := at.Sub(a.sys.Now())
	a.spawn(func(ctx context.Context) {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-d.done:
		case <-ctx.Done():
		case <-timer.C:
			if n := d.sess.Streams(); n > 0 {
				a.event("streams ended", fmt.Sprintf("%d streams through %s were reset at the migration's deadline", n, a.edgeName(d.cand.Target)))
			}
			d.end(errDeadline)
		}
	})
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

// connected notes the uplink, and remembers its edge for the next start.
func (a *Agent) connected(u *uplink) {
	a.mu.Lock()
	u.data.held = true
	a.up = u
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
