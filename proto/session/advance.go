package session

import (
	"time"
)

// outstandingLocked reports whether the peer owes us something: an answer to SESSION or OPEN, or an ACK.
func (s *Session) outstandingLocked() bool {
	if s.asked {
		return true
	}
	for _, st := range s.streams {
		if st.state == opening && !s.cfg.Server || st.sendNext > st.sendAcked || st.finSent && !st.finAcked {
			return true
		}
	}
	return false
}

// Advance is called when time passes, and after Ready; it reports when it wants to be called next. A
// link that is silent although it was asked ends the session with ErrSilent.
func (s *Session) Advance(now time.Time) (next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return now.Add(idlePing)
	}
	if s.heard.IsZero() {
		s.heard = now
	}
	s.now = now
	next = s.livenessLocked()
	for _, st := range s.acks {
		if st.ackAt.IsZero() {
			continue // went with other frames
		} else if !st.ackAt.After(now) {
			s.signal()
		} else if st.ackAt.Before(next) {
			next = st.ackAt
		}
	}
	waiting := s.resetUntil[:0]
	for _, st := range s.resetUntil {
		switch {
		case st.state == over:
			continue
		case !now.Before(st.rstUntil):
			st.queueLocked()
			continue
		case st.rstUntil.Before(next):
			next = st.rstUntil
		}
		waiting = append(waiting, st)
	}
	clear(s.resetUntil[len(waiting):])
	s.resetUntil = waiting
	return next
}

// livenessLocked asks a silent link for a sign of life and gives up one that does not answer.
func (s *Session) livenessLocked() (next time.Time) {
	silent, dead := idlePing, idleDead
	if s.pinged.IsZero() && s.now.Sub(s.heard) < minSilent {
		return s.heard.Add(minSilent) // too early to matter: spare the look at every stream
	}
	if s.outstandingLocked() {
		silent, dead = max(3*s.srtt, minSilent), max(4*s.srtt, minDead)
	} else {
		s.active = time.Time{}
	}
	last := s.heard
	if s.active.After(last) {
		last = s.active // silence counts from when there was something to answer
	}
	if s.pinged.IsZero() || s.heard.After(s.pinged) {
		if s.now.Sub(last) < silent {
			return last.Add(silent)
		}
		s.pinged = time.Time{}
		s.wantPing = true
		s.signal()
		return s.now.Add(dead)
	}
	if end := s.pinged.Add(dead); s.now.Before(end) {
		return end
	}
	s.closeLocked(ErrSilent)
	return s.now.Add(idlePing)
}
