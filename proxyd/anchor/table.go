package anchor

import (
	"container/list"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/session"
)

// attached is a session and who it belongs to.
type attached struct {
	// set once
	id    proto.SessionID
	agent proto.Identity
	since time.Time
	sess  *session.Session
	share *share

	// guarded by Anchor.mu
	links   int
	ended   bool
	until   time.Time     // the end of its grace, once it had no link
	expiry  *time.Timer   // ends it then
	waits   uint64        // how often it has been without a link: an old timer knows by it that it is late
	waiting *list.Element // in Anchor.detached

	mu    sync.Mutex     // guards what follows
	addr  netip.AddrPort // the agent's, as its newest link shows it
	inUse map[string]int // streams by service
}

// agentSessions are one agent's.
type agentSessions struct {
	all      []*attached
	detached []*attached // of these, the oldest first
}

// Errors of sessions.
var (
	// ErrFull is that the anchor, or this agent's share of it, has no room for another session.
	ErrFull = errors.New("too many sessions")
	// ErrExpired is why a session ends whose agent does not come back in time, or that makes room for a newer one.
	ErrExpired = errors.New("the session has expired")
)

// enter takes a link into Run's care.
func (a *Anchor) enter(l *dataLink) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return false
	}
	a.wg.Add(1)
	a.links[l] = struct{}{}
	return true
}

func (a *Anchor) exit(l *dataLink) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.links, l)
}

// find finds or makes the session that a link's first message asks for, and counts the link as one of its. Only its
// owner learns anything of a session: the order of the checks is that of what an answer gives away.
func (a *Anchor) find(l *dataLink, first proto.Message, id proto.Identity, addr netip.AddrPort) (*attached, *proto.ResumeFail, error) {
	var want proto.SessionID
	switch m := first.(type) {
	case *proto.Session:
		at, err := a.attach(l, a.newSession(m, id, addr))
		return at, nil, err
	case *proto.Attach:
		want = m.Session
	case *proto.Resume:
		want = m.Session
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	at := a.sessions[want]
	if at == nil {
		return nil, &proto.ResumeFail{Code: a.gone.why(want, id.Agent)}, nil
	}
	if at.agent.Agent != id.Agent {
		return nil, &proto.ResumeFail{Code: proto.ResumeNotOwner}, nil
	}
	if _, ok := first.(*proto.Resume); ok {
		if after, ok := a.resumes.take(time.Now()); !ok {
			return nil, &proto.ResumeFail{Code: proto.ResumeRetry, After: after}, nil
		}
	}
	a.joinLocked(l, at)
	return at, nil, nil
}

// attach adds a new session. An agent at its cap loses its own detached ones first; nobody else's.
func (a *Anchor) attach(l *dataLink, at *attached) (*attached, error) {
	var old *attached
	a.mu.Lock()
	defer func() {
		a.mu.Unlock()
		a.close(ErrExpired, old)
	}()
	if a.stopped {
		return nil, net.ErrClosed
	}
	of := a.agents[at.agent.Agent]
	if of == nil {
		of = &agentSessions{}
	}
	if len(a.sessions) >= a.cfg.MaxSessions || len(of.all) >= a.cfg.MaxSessionsOfOne {
		if len(of.detached) == 0 {
			return nil, fmt.Errorf("session of agent %s: %w", at.agent.Agent, ErrFull)
		}
		old = dispensable(of.detached)
		a.expireLocked(old)
	}
	a.sessions[at.id] = at
	of.all = append(of.all, at)
	a.agents[at.agent.Agent] = of
	a.joinLocked(l, at)
	return at, nil
}

// dispensable is the one of the detached sessions that is missed least: the oldest without a stream, else the oldest.
func dispensable(detached []*attached) *attached {
	if i := slices.IndexFunc(detached, func(at *attached) bool { return at.info().Streams == 0 }); i >= 0 {
		return detached[i]
	}
	return detached[0]
}

func (a *Anchor) joinLocked(l *dataLink, at *attached) {
	l.at = at
	at.links++
	a.waitsNoMoreLocked(at)
}

func (a *Anchor) waitsNoMoreLocked(at *attached) {
	if at.waiting == nil {
		return
	}
	at.expiry.Stop()
	a.detached.Remove(at.waiting)
	at.waiting = nil
	at.share.setDetached(false)
	of := a.agents[at.agent.Agent]
	of.detached = slices.DeleteFunc(of.detached, func(o *attached) bool { return o == at })
}

// leave takes a link out of its session, whose grace begins if it was the last. A link that was refused prolongs nothing.
func (a *Anchor) leave(l *dataLink, carried bool) {
	at := l.at
	over := at.sess.Err() != nil
	a.mu.Lock()
	at.links--
	var gone []*attached
	switch {
	case at.ended:
	case over:
		a.removeLocked(at)
	case at.links == 0:
		gone = a.detachLocked(at, carried)
	}
	a.mu.Unlock()
	a.close(ErrExpired, gone...)
}

// detachLocked has a session wait for its agent. It returns those that make room for it.
func (a *Anchor) detachLocked(at *attached, carried bool) (gone []*attached) {
	if carried || at.until.IsZero() {
		at.until = time.Now().Add(a.cfg.Grace)
	}
	at.waits++
	waits := at.waits
	at.expiry = time.AfterFunc(time.Until(at.until), func() { a.expire(at, waits) })
	at.waiting = a.detached.PushBack(at)
	at.share.setDetached(true)
	of := a.agents[at.agent.Agent]
	of.detached = append(of.detached, at)
	if len(of.detached) > a.cfg.MaxDetachedOfOne {
		gone = append(gone, dispensable(of.detached))
		a.expireLocked(gone[0])
	}
	for a.budget.detached.Load() > a.budget.total/2 && a.detached.Len() > 0 {
		oldest := a.detached.Front().Value.(*attached)
		a.expireLocked(oldest)
		gone = append(gone, oldest)
	}
	return gone
}

// expire ends a session whose agent did not come back.
func (a *Anchor) expire(at *attached, waits uint64) {
	a.mu.Lock()
	if at.ended || at.waiting == nil || at.waits != waits {
		a.mu.Unlock()
		return
	}
	a.expireLocked(at)
	a.mu.Unlock()
	a.close(ErrExpired, at)
}

func (a *Anchor) expireLocked(at *attached) {
	a.expired.Add(1)
	a.removeLocked(at)
	a.gone.add(at.id, at.agent.Agent)
}

// removeLocked forgets a session; close ends it.
func (a *Anchor) removeLocked(at *attached) {
	a.waitsNoMoreLocked(at)
	at.ended = true
	delete(a.sessions, at.id)
	of := a.agents[at.agent.Agent]
	of.all = slices.DeleteFunc(of.all, func(o *attached) bool { return o == at })
	if len(of.all) == 0 {
		delete(a.agents, at.agent.Agent)
	}
}

// close ends sessions that were removed: their streams are reset.
func (a *Anchor) close(err error, removed ...*attached) {
	for _, at := range removed {
		if at != nil {
			a.log.Debug("session ended", "session", at.id, "agent", at.agent.Agent, "streams", at.sess.Streams(), "err", err)
			at.sess.Close(err)
		}
	}
}

// CloseAll ends every session: all their streams are reset.
func (a *Anchor) CloseAll(err error) {
	a.closeIf(func(*attached) bool { return true }, err)
}

// Close ends an agent's sessions, as for its revocation.
func (a *Anchor) Close(agent proto.AgentID, err error) {
	a.closeIf(func(at *attached) bool { return at.agent.Agent == agent }, err)
}

func (a *Anchor) closeIf(match func(*attached) bool, err error) {
	var gone []*attached
	a.mu.Lock()
	for _, at := range a.sessions {
		if match(at) {
			a.removeLocked(at)
			gone = append(gone, at)
		}
	}
	a.mu.Unlock()
	a.close(err, gone...)
}

// Describe tells where each session stands, for a report of a connection that stands still.
func (a *Anchor) Describe() string {
	a.mu.Lock()
	all := slices.Collect(maps.Values(a.sessions))
	a.mu.Unlock()
	var w strings.Builder
	for _, at := range all {
		w.WriteString(at.sess.Describe())
	}
	return w.String()
}

// Sessions lists the live sessions.
func (a *Anchor) Sessions() []Session {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]Session, 0, len(a.sessions))
	for _, at := range a.sessions {
		out = append(out, at.info())
	}
	return out
}

// SessionsOf lists an agent's live sessions, the newest last.
func (a *Anchor) SessionsOf(agent proto.AgentID) (out []Session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if of := a.agents[agent]; of != nil {
		for _, at := range of.all {
			out = append(out, at.info())
		}
	}
	return out
}

// info is called with Anchor.mu held.
func (at *attached) info() Session {
	at.mu.Lock()
	defer at.mu.Unlock()
	s := Session{ID: at.id, Agent: at.agent.Agent, Addr: at.addr, Since: at.since, Links: at.links}
	for name, n := range at.inUse {
		s.Services = append(s.Services, name)
		s.Streams += n
	}
	slices.Sort(s.Services)
	return s
}

func (at *attached) use(name string, n int) {
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.inUse[name] += n; at.inUse[name] == 0 {
		delete(at.inUse, name)
	}
}

// seenAt takes in where the agent is now.
func (at *attached) seenAt(addr netip.AddrPort) {
	at.mu.Lock()
	defer at.mu.Unlock()
	at.addr = addr
}

func (at *attached) addrNow() netip.AddrPort {
	at.mu.Lock()
	defer at.mu.Unlock()
	return at.addr
}

// maxGone is how many ended sessions are remembered, so that their agents hear "expired" and not "unknown".
const maxGone = 4096

// ring remembers the last sessions that expired.
type ring struct {
	owner map[proto.SessionID]proto.AgentID
	ids   []proto.SessionID
	next  int
}

func (r *ring) add(id proto.SessionID, agent proto.AgentID) {
	if r.owner == nil {
		r.owner = map[proto.SessionID]proto.AgentID{}
	}
	if len(r.ids) < maxGone {
		r.ids = append(r.ids, id)
	} else {
		delete(r.owner, r.ids[r.next])
		r.ids[r.next] = id
		r.next = (r.next + 1) % maxGone
	}
	r.owner[id] = agent
}

// why says why there is no such session.
func (r *ring) why(id proto.SessionID, agent proto.AgentID) proto.ResumeCode {
	switch owner, ok := r.owner[id]; {
	case !ok:
		return proto.ResumeUnknown
	case owner != agent:
		return proto.ResumeNotOwner
	}
	return proto.ResumeExpired
}
