package session

import "time"

// outstandingLocked reports whether the peer owes us something on this link: an answer, or an ACK.
func (l *Link) outstandingLocked() bool {
	if l.state != live {
		return true
	}
	if l.warming.waits > 0 { // for PADs
		return true
	}
	if l.streams == 0 {
		return false
	}
	for _, st := range l.s.streams {
		if st.link == l && (st.state == opening && !l.s.cfg.Server || st.sendNext > st.sendAcked || st.finSent && !st.finAcked) {
			return true
		}
	}
	return false
}

// Advance is called when time passes, and after Ready; it reports when it wants to be called next. A
// link that is silent although it was asked ends with ErrSilent, a parked one with ErrParked.
func (l *Link) Advance(now time.Time) (next time.Time) {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
	if l.heard.IsZero() {
		l.heard, l.quiet = now, now
	}
	l.lateLocked(now)
	defer func() { l.due = next }()
	switch {
	case l.err != nil:
		return now.Add(idlePing)
	case l.state != old:
	case !s.cfg.Server:
		return now.Add(idlePing) // its owner waits for the newer one
	case now.Sub(l.parked) >= parkedFor:
		l.endLocked(ErrParked)
		return now.Add(idlePing)
	default:
		return l.parked.Add(parkedFor)
	}
	next = l.livenessLocked()
	for _, st := range l.acks {
		if st.link != l || st.ackAt.IsZero() {
			continue // went with other frames, or on another link
		} else if !st.ackAt.After(now) {
			l.signal()
		} else if st.ackAt.Before(next) {
			next = st.ackAt
		}
	}
	if at := s.resetsLocked(); !at.IsZero() && at.Before(next) {
		next = at
	}
	return next
}

// lateLocked does not take our own starvation for the peer's silence: who is called much later than he asked for had no
// time to read either.
func (l *Link) lateLocked(now time.Time) {
	lost := now.Sub(l.due)
	if l.due.IsZero() || lost <= maxLate {
		return
	}
	for _, t := range []*time.Time{&l.quiet, &l.active, &l.pinged} {
		if !t.IsZero() && !t.After(l.due) {
			*t = t.Add(lost)
		}
	}
	l.reprieve = now.Add(maxLate)
}

// resetsLocked lets go of the bytes before resets that have waited long enough; it returns when the next one has, zero:
// there is none. A stream without a link waits for one first.
func (s *Session) resetsLocked() (next time.Time) {
	waiting := s.resets[:0]
	for _, st := range s.resets {
		switch {
		case st.state == over || st.state == resetting || st.state == failed:
			continue
		case st.link == nil:
		case st.rstUntil.IsZero():
			st.rstUntil = s.now.Add(rstDelay)
			if next.IsZero() || st.rstUntil.Before(next) {
				next = st.rstUntil
			}
		case !s.now.Before(st.rstUntil):
			st.queueLocked()
		case next.IsZero() || st.rstUntil.Before(next):
			next = st.rstUntil
		}
		waiting = append(waiting, st)
	}
	clear(s.resets[len(waiting):])
	s.resets = waiting
	return next
}

// livenessLocked asks a silent link for a sign of life and gives up one that does not answer.
func (l *Link) livenessLocked() (next time.Time) {
	now := l.s.now
	silent, dead := idlePing, idleDead
	if l.pinged.IsZero() && now.Sub(l.quiet) < minSilent {
		return l.quiet.Add(minSilent) // too early to matter: spare the look at every stream
	}
	if l.outstandingLocked() {
		silent, dead = max(3*l.srtt, minSilent), max(4*l.srtt, minDead)
	} else {
		l.active = time.Time{}
	}
	dead *= time.Duration(l.s.patience())
	last := l.quiet
	if l.active.After(last) {
		last = l.active // silence counts from when there was something to answer
	}
	if l.pinged.IsZero() || l.quiet.After(l.pinged) {
		if now.Sub(last) < silent {
			return last.Add(silent)
		}
		l.pinged = time.Time{}
		l.wantPing = true
		l.signal()
		return now.Add(dead)
	}
	end := l.pinged.Add(dead)
	if end.Before(l.reprieve) {
		end = l.reprieve
	}
	if now.Before(end) {
		return end
	}
	if l.unread != nil && l.unread() { // it has spoken, and we had no time to listen
		l.quiet, l.pinged = now, time.Time{}
		return now.Add(silent)
	}
	l.s.silentLocked()
	l.endLocked(ErrSilent)
	return now.Add(idlePing)
}

// patience is by how much longer than usual a silent link is waited for: where one link after another is silent it is
// the load of a machine rather than a dead path, and each new link adds to that. Two in a row may well be two dead paths.
func (s *Session) patience() int { return 1 << max(0, s.silences-1) }

func (s *Session) silentLocked() {
	s.silences = min(s.silences+1, maxSilences)
	s.silentAt = s.now
}

// calmLocked is called with each frame: a link that works long after the last silence has proved its path.
func (s *Session) calmLocked() {
	if s.silences > 0 && s.now.Sub(s.silentAt) >= calmAfter {
		s.silences = 0
	}
}

// Unread has f asked before the link is given up for silence: whether bytes of the peer lie unread in the socket. It is
// called before the link is pumped; f must not wait, nor call the session.
func (l *Link) Unread(f func() bool) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.unread = f
}
