package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

// supervisor is the one goroutine that decides which edge is the current one. It owns the control links, the moves and
// the backoff; links are made by a goroutine at a time, which reports to it. Data links are the tethers' own.
//
//	connecting → connected ⇄ moving (MIGRATE, GOAWAY)
//	    ↖___________| the control link is lost; sessions go on meanwhile
type supervisor struct {
	*Agent
	up      *uplink // nil while there is none
	attempt *attempt
	results chan joined
	moves   moves
	backoff backoff
	second  second

	owed     plan         // a move whose control link is there, and no data link yet
	followed proto.NodeID // the edge at which a control link was sought last because the sessions are there
}

// attempt is a goroutine that makes a control link, and before it the data links that are to be made or to move.
type attempt struct {
	plan
	cancel  context.CancelFunc
	now     chan struct{} // closed: wait no longer
	waiting bool          // as far as the supervisor told it
}

// joined is what became of an attempt.
type joined struct {
	attempt *attempt
	up      *uplink
	err     error
}

// supervise keeps the agent connected until ctx is done.
func (a *Agent) supervise(ctx context.Context) {
	s := &supervisor{Agent: a, results: make(chan joined), moves: moves{dwell: a.cfg.Dwell, max: a.cfg.MaxMoves}, second: newSecond()}
	defer s.stop()
	s.begin(ctx, plan{cands: s.enrolled().candidates(nil)}, 0)
	for {
		var msgs chan proto.Message
		if s.up != nil {
			msgs = s.up.msgs
		}
		select {
		case <-ctx.Done():
			return
		case r := <-s.results:
			s.joined(ctx, r)
		case m, ok := <-msgs:
			if !ok {
				s.lost(ctx)
				continue
			}
			s.message(ctx, m)
		case m, ok := <-s.second.messages():
			s.secondSays(ctx, m, ok)
		case u := <-s.second.made:
			s.secondMade(u)
		case <-s.second.timer.C:
			s.seekSecond()
		case <-s.around:
			s.lookedAround(ctx)
		case <-s.kick:
			s.kicked(ctx)
		case done := <-s.forgets:
			s.forget(ctx)
			close(done)
		}
	}
}

// stop waits for the attempt and closes what there is.
func (s *supervisor) stop() {
	s.abandon()
	s.dropSecond()
	s.second.timer.Stop()
	if s.second.dialling { // it ends with the agent's context
		if u := <-s.second.made; u != nil {
			u.close()
		}
	}
	if s.up != nil {
		s.up.close()
	}
}

// begin starts an attempt after wait. One that runs already is given up first.
func (s *supervisor) begin(ctx context.Context, p plan, wait time.Duration) {
	s.abandon()
	actx, cancel := context.WithCancel(ctx)
	t := &attempt{plan: p, cancel: cancel, now: make(chan struct{}), waiting: wait > 0}
	s.attempt = t
	go func() { // ends with its result, which joined, abandon or stop takes
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.now:
		case <-actx.Done():
		}
		up, err := (*uplink)(nil), actx.Err()
		if err == nil {
			up, err = s.join(actx, p)
		}
		s.results <- joined{t, up, err}
	}()
}

func (s *supervisor) abandon() {
	if s.attempt == nil {
		return
	}
	s.attempt.cancel()
	if r := <-s.results; r.up != nil && r.up != s.second.up {
		r.up.close()
	}
	s.attempt = nil
}

// joined takes the result of an attempt: the new control link replaces the old one.
func (s *supervisor) joined(ctx context.Context, r joined) {
	s.attempt = nil
	r.attempt.cancel()
	if r.err != nil {
		s.failed(ctx, r)
		return
	}
	old := s.up
	s.up = r.up
	s.backoff.reset()
	if s.second.up == r.up {
		s.second.up = nil
		s.setSecond(nil)
		s.sayBoot(r.up, true)
	}
	if old != nil {
		old.close()
	}
	where := fmt.Sprintf("%s (%s)", s.edgeName(r.up.cand.Target), r.up.control.Remote())
	switch {
	case r.attempt.moves:
		s.moves.done(s.sys.Now())
		if s.owed = r.attempt.plan; !s.settle() {
			s.event("connected", "to "+where+"; the data links have not moved yet")
		}
	case old == nil || old.cand.Node != r.up.cand.Node:
		s.event("connected", "to "+where)
	default:
		s.event("reconnected", "to "+where)
	}
	s.fadeNamed()
	s.connected(r.up)
	s.renew()
	if s.second.up != nil && s.second.up.cand.Node == s.up.cand.Node {
		s.dropSecond()
	}
	if r.attempt.moves {
		s.second.later()
	} else {
		s.second.soon()
	}
	s.lookedAround(ctx)
}

// settle counts a move that has happened: a data link was taken in elsewhere, or there was none to move.
func (s *supervisor) settle() bool {
	if !s.owed.moves || s.up == nil {
		return false
	}
	at, done := s.up.cand, s.up.cand.Node != s.owed.from
	for _, t := range s.sessions() {
		if t.single {
			continue
		}
		if at, done = t.edge(); done && at.Node != s.owed.from && t.state() == "live" {
			break
		}
		done = false
	}
	switch {
	case done:
		s.moved.Add(1)
		where := s.edgeName(at.Target)
		if s.up.cand.Node == at.Node {
			where = fmt.Sprintf("%s (%s)", where, s.up.control.Remote())
		}
		s.event("moved", "now at "+where)
	case s.sys.Now().Before(s.owed.until):
		return false
	}
	s.owed = plan{}
	return done
}

// failed tries again later: a move where it was sent, as long as that may be, everything else everywhere.
func (s *supervisor) failed(ctx context.Context, r joined) {
	if ctx.Err() != nil {
		return
	}
	wait := s.backoff.next()
	if se, ok := errors.AsType[*link.SealedError](r.err); ok {
		wait += se.Reply.After
	}
	why := explainConnect(r.err).Error()
	s.event("no connection", why)
	p := r.attempt.plan
	p.rounds++
	p.seeks = p.moves && s.lead() == nil
	switch {
	case p.moves && s.up != nil && !p.exhausted(r.err, s.sys.Now()):
		s.endRound(r.err)
		s.begin(ctx, p, wait)
	case s.up != nil: // it stays where it is
		if p.moves {
			s.event("not moved", fmt.Sprintf("this client stays at %s: %s", s.edgeName(s.up.cand.Target), why))
		}
		s.setNamed(nil)
		s.setState(stateConnected, "")
		s.endRound(r.err)
	default:
		s.unreachable(why, r.err)
		p.cands = s.candidates()
		if p.exhausted(r.err, s.sys.Now()) {
			p.moves, p.seeks = false, false
		}
		s.begin(ctx, p, wait)
	}
	if r.attempt.moves {
		s.lookedAround(ctx) // it was not, meanwhile
	}
}

// candidates are the edges to try: those that an unfinished migration named first, what was given ahead last.
func (a *Agent) candidates() []candidate {
	return append(a.enrolled().candidates(a.namedNow()), a.rescues()...)
}

// told makes candidates of a migration's targets.
func told(ts []proto.Target) (out []candidate) {
	for _, t := range ts {
		out = append(out, candidate{Target: t, told: true})
	}
	return out
}

// lost goes on without the control link. No data link moves for it; it is opened again, at the same edge if that will,
// else where the sessions are, else anywhere.
func (s *supervisor) lost(ctx context.Context) {
	u := s.up
	s.up = nil
	u.close()
	s.event("lost", fmt.Sprintf("%s: control link ended", s.edgeName(u.cand.Target)))
	s.disconnected()
	if s.attempt != nil {
		s.hurry()
		return
	}
	cands := []candidate{u.cand}
	if c, ok := s.secondEdge(); ok {
		cands = append(cands, c)
	}
	for _, c := range s.candidates() {
		if c.Node != u.cand.Node {
			cands = append(cands, c)
		}
	}
	s.begin(ctx, plan{cands: cands}, 0)
}

// hurry ends the wait of an attempt that has not begun to dial.
func (s *supervisor) hurry() {
	if s.attempt.waiting && (!s.attempt.moves || s.attempt.seeks) {
		s.attempt.waiting = false
		close(s.attempt.now)
	}
}

// kicked answers a connection that found no session.
func (s *supervisor) kicked(ctx context.Context) {
	switch {
	case s.attempt != nil:
		s.seek(ctx)
		s.hurry()
	case s.lead() != nil: // it came meanwhile
	default:
		s.begin(ctx, plan{cands: s.candidates()}, 0)
	}
}

// seek begins a move anew that has lost its session: it must not wait for the targets alone, nor for its time.
func (s *supervisor) seek(ctx context.Context) {
	if p := s.attempt.plan; p.moves && !p.seeks && s.lead() == nil {
		p.seeks = true
		s.begin(ctx, p, 0)
	}
}

// lookedAround compares what there is with what there should be: the control link follows the sessions, and each anchor
// that was chosen has one.
func (s *supervisor) lookedAround(ctx context.Context) {
	s.settle()
	if s.attempt != nil {
		s.seek(ctx)
		if p := s.attempt.plan; s.up != nil && p.moves && p.rounds > 0 && s.lead() != nil && len(s.rechoose(s.up.cand.Node)) > 0 {
			s.completing(s.up.cand) // perhaps the move never succeeds, and new streams need them
		}
		return
	}
	if s.up == nil {
		return
	}
	t := s.lead()
	if t == nil {
		s.begin(ctx, plan{cands: s.candidates()}, s.backoff.next())
		return
	}
	if at, ok := t.edge(); ok && at.Node != s.up.cand.Node && at.Node != s.followed {
		s.followed = at.Node // once: it may be that it takes no control link
		s.begin(ctx, plan{cands: []candidate{at}}, 0)
		return
	} else if ok && at.Node == s.up.cand.Node {
		s.followed = proto.NodeID{}
	}
	if len(s.rechoose(s.up.cand.Node)) > 0 {
		s.completing(s.up.cand)
	}
}

// message obeys or ignores what the current edge says.
func (s *supervisor) message(ctx context.Context, m proto.Message) {
	switch m := m.(type) {
	case *proto.Migrate:
		s.migrate(ctx, m)
	case *proto.CatalogueMsg:
		s.newCatalogue(m.Doc)
	case *proto.Keys:
		s.newKeys(m)
	case *proto.RenewOK:
		s.renewed(m)
	case *proto.EnrolFail:
		s.event("certificate not renewed", m.Reason)
	case *proto.Standby:
		s.setStandby(m.Targets)
	case *proto.GoAway:
		s.event("goaway", fmt.Sprintf("%s will stop: %s", s.edgeName(s.up.cand.Target), m.Reason))
		s.leave(ctx)
	default:
		s.log.Debug("message ignored", "type", fmt.Sprintf("%T", m))
	}
}

// migrate is the receiving end of the paper's migration notification 2 (section 4.2.3).
func (s *supervisor) migrate(ctx context.Context, m *proto.Migrate) {
	now := s.sys.Now()
	moving := s.attempt != nil && s.attempt.moves
	obey, why := s.moves.judge(m, s.up.cand.Node, moving, now)
	if err := s.up.send(&proto.MigrateOK{ID: m.ID}); err != nil {
		s.log.Debug("migration not acknowledged", "err", err)
	}
	if !obey {
		s.event("migration ignored", why)
		return
	}
	s.owed = plan{}
	s.attacked(m.ID.Edge)
	wait := s.moves.wait(m, now)
	p := plan{cands: told(m.Targets), moves: true, from: s.up.cand.Node, planned: m.Deadline <= 0}
	p.control = max(0, m.StartAfter-wait) + jitter(m.StartAfter)
	if p.until = now.Add(m.Deadline); p.planned {
		p.until = now.Add(wait + plannedWait)
	}
	s.setNamed(m.Targets)
	s.event("migrating", fmt.Sprintf("%s sends this client to %s, in %v", s.edgeName(s.up.cand.Target), s.edgeName(m.Targets[0]), wait.Round(time.Millisecond)))
	s.setState(stateMoving, "")
	s.begin(ctx, p, wait)
}

// forget lets the current edge go and begins again at the entries, as an agent that was told nothing.
func (s *supervisor) forget(ctx context.Context) {
	s.abandon()
	e := *s.enrolled()
	e.Current = nil
	s.keep(&e)
	s.setNamed(nil)
	s.owed = plan{}
	s.letGo() // what runs finishes where it is
	s.dropSecond()
	if u := s.up; u != nil {
		s.up = nil
		u.close()
		s.disconnected()
	}
	s.event("forgotten", "the proxy that this agent was sent to is forgotten; it begins again at the entries")
	s.begin(ctx, plan{cands: s.enrolled().candidates(nil)}, 0)
}

// leave moves to another entry than the current edge, which will stop. A move that was told already goes on.
func (s *supervisor) leave(ctx context.Context) {
	if s.attempt != nil && s.attempt.moves {
		return
	}
	here := s.up.cand.Node
	others := slices.DeleteFunc(s.enrolled().candidates(s.namedNow()), func(c candidate) bool { return c.Node == here || s.isAttacked(c.Node) })
	if len(others) > 0 {
		s.begin(ctx, plan{cands: others, moves: true, from: here, planned: true, until: s.sys.Now().Add(plannedWait)}, 0)
	}
}
