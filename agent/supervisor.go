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

// supervisor is the one goroutine that decides where the agent is connected to. It owns the uplink, the moves and the
// backoff; links are made by a goroutine at a time, which reports to it.
//
//	connecting → connected ⇄ moving (MIGRATE)
//	    ↖___________| the edge is lost
type supervisor struct {
	*Agent
	up      *uplink // nil while there is none
	attempt *attempt
	results chan joined
	moves   moves
	backoff backoff
	named   []proto.Target // of a migration that has not succeeded yet
	until   time.Time      // its deadline; zero: none
}

// attempt is a goroutine that makes an uplink.
type attempt struct {
	cancel  context.CancelFunc
	now     chan struct{} // closed: wait no longer
	waiting bool          // as far as the supervisor told it
	moving  bool          // asked by MIGRATE
}

// joined is what became of an attempt.
type joined struct {
	attempt *attempt
	up      *uplink
	err     error
}

// supervise keeps the agent connected until ctx is done.
func (a *Agent) supervise(ctx context.Context) {
	s := &supervisor{Agent: a, results: make(chan joined), moves: moves{dwell: a.cfg.Dwell, max: a.cfg.MaxMoves}}
	defer s.stop()
	s.begin(ctx, s.enrolled().candidates(nil), 0, false)
	for {
		var msgs chan proto.Message
		var dataDone chan struct{}
		if s.up != nil {
			msgs, dataDone = s.up.msgs, s.up.data.done
		}
		select {
		case <-ctx.Done():
			return
		case r := <-s.results:
			s.joined(ctx, r)
		case m, ok := <-msgs:
			if !ok {
				s.lost(ctx, "control link ended")
				continue
			}
			s.message(ctx, m)
		case <-dataDone:
			s.lost(ctx, "data link ended")
		case was := <-s.kick:
			s.kicked(ctx, was)
		case done := <-s.forgets:
			s.forget(ctx)
			close(done)
		}
	}
}

// stop waits for the attempt and closes what there is.
func (s *supervisor) stop() {
	if s.attempt != nil {
		s.attempt.cancel()
		if r := <-s.results; r.up != nil {
			r.up.close()
		}
	}
	if s.up != nil {
		s.up.close()
	}
}

// begin starts an attempt after wait. One that runs already is given up first.
func (s *supervisor) begin(ctx context.Context, cands []candidate, wait time.Duration, moving bool) {
	s.abandon()
	actx, cancel := context.WithCancel(ctx)
	t := &attempt{cancel: cancel, now: make(chan struct{}), waiting: wait > 0, moving: moving}
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
			up, err = s.join(actx, cands)
		}
		s.results <- joined{t, up, err}
	}()
}

func (s *supervisor) abandon() {
	if s.attempt == nil {
		return
	}
	s.attempt.cancel()
	if r := <-s.results; r.up != nil {
		r.up.close()
	}
	s.attempt = nil
}

// joined takes the result of an attempt: the new uplink replaces the old one, which has carried everything until now.
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
	if old != nil {
		old.close()
		s.release(old.data)
		s.endAt(old.data, s.until)
	}
	switch {
	case r.attempt.moving:
		s.moves.done(s.sys.Now())
		s.moved.Add(1)
		s.event("moved", fmt.Sprintf("now at %s (%s)", s.edgeName(r.up.cand.Target), r.up.control.Remote()))
	case old == nil || old.cand.Node != r.up.cand.Node:
		s.event("connected", fmt.Sprintf("to %s (%s)", s.edgeName(r.up.cand.Target), r.up.control.Remote()))
	default:
		s.event("reconnected", fmt.Sprintf("to %s (%s)", s.edgeName(r.up.cand.Target), r.up.control.Remote()))
	}
	s.named, s.until = nil, time.Time{}
	s.connected(r.up)
	s.renew()
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
	if r.attempt.moving && s.up != nil && (s.until.IsZero() || s.sys.Now().Before(s.until)) {
		s.endRound(r.err)
		s.begin(ctx, told(s.named), wait, true)
		return
	}
	s.unreachable(why, r.err)
	s.begin(ctx, s.enrolled().candidates(s.named), wait, r.attempt.moving)
}

// told makes candidates of a migration's targets.
func told(ts []proto.Target) (out []candidate) {
	for _, t := range ts {
		out = append(out, candidate{Target: t, told: true})
	}
	return out
}

// lost goes on without the uplink, or without the one of its links that is left: a new pair is made at once.
func (s *supervisor) lost(ctx context.Context, what string) {
	u := s.up
	s.up = nil
	u.close()
	s.event("lost", fmt.Sprintf("%s: %s", s.edgeName(u.cand.Target), what))
	s.disconnected()
	s.release(u.data)
	if s.attempt != nil {
		s.hurry()
		return
	}
	s.begin(ctx, s.enrolled().candidates(s.named), s.backoff.next(), false)
}

// hurry ends the wait of an attempt that has not begun to dial.
func (s *supervisor) hurry() {
	if s.attempt.waiting && !s.attempt.moving {
		s.attempt.waiting = false
		close(s.attempt.now)
	}
}

// kicked answers a connection that found the session was silent or missing.
func (s *supervisor) kicked(ctx context.Context, was *dataLink) {
	if d, _ := s.warmNow(); d != was { // replaced in the meantime
		return
	}
	if s.attempt != nil {
		s.hurry()
		return
	}
	s.begin(ctx, s.enrolled().candidates(s.named), 0, false)
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
	moving := s.attempt != nil && s.attempt.moving
	obey, why := s.moves.judge(m, s.up.cand.Node, moving, now)
	if err := s.up.send(&proto.MigrateOK{ID: m.ID}); err != nil {
		s.log.Debug("migration not acknowledged", "err", err)
	}
	if !obey {
		s.event("migration ignored", why)
		return
	}
	wait := s.moves.wait(m, now)
	s.named, s.until = m.Targets, time.Time{}
	if m.Deadline > 0 {
		s.until = now.Add(m.Deadline)
	}
	s.event("migrating", fmt.Sprintf("%s sends this client to %s, in %v", s.edgeName(s.up.cand.Target), s.edgeName(m.Targets[0]), wait.Round(time.Millisecond)))
	s.setState(stateMoving, "")
	s.begin(ctx, told(m.Targets), wait, true)
}

// forget lets the current edge go and begins again at the entries, as an agent that was told nothing.
func (s *supervisor) forget(ctx context.Context) {
	s.abandon()
	e := *s.enrolled()
	e.Current = nil
	s.keep(&e)
	s.named, s.until = nil, time.Time{}
	s.useData(nil) // an attempt that was given up may have left one
	if u := s.up; u != nil {
		s.up = nil
		u.close()
		s.disconnected()
		s.release(u.data)
	}
	s.event("forgotten", "the proxy that this agent was sent to is forgotten; it begins again at the entries")
	s.begin(ctx, s.enrolled().candidates(nil), 0, false)
}

// leave looks for another edge than the current one, which stays in use until there is one.
func (s *supervisor) leave(ctx context.Context) {
	if s.attempt != nil {
		return
	}
	others := slices.DeleteFunc(s.enrolled().candidates(nil), func(c candidate) bool { return c.Node == s.up.cand.Node })
	if len(others) > 0 {
		s.begin(ctx, others, s.backoff.next(), false)
	}
}
