package session

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"migrationsensor/proto"
)

// Resume makes the first link of a new set (agent); it begins with RESUME. All streams are written on it from now on, in
// the same flight; the older links still deliver what they carry, and their owner closes them when Confirmed is closed.
func (s *Session) Resume() *Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.newLinkLocked(resuming)
	if s.id == (proto.SessionID{}) {
		l.endLocked(errNoID)
	}
	l.resumeLocked()
	return l
}

// Resume makes an older link that still lives the first of a new set: the newer one has failed before it was confirmed.
func (l *Link) Resume() {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.confirmed = make(chan struct{})
	l.resumeLocked()
}

func (l *Link) resumeLocked() {
	s := l.s
	if l.err != nil {
		return
	}
	s.epoch++
	l.state, l.epoch = resuming, s.epoch
	l.pinged, l.active, l.quiet = time.Time{}, time.Time{}, s.now // a parked link answers no PING
	l.clearLocked()
	m := &proto.Resume{Session: s.id, Epoch: s.epoch}
	streams := s.sortedLocked()
	for _, st := range streams {
		m.Streams = append(m.Streams, st.tableLocked())
	}
	l.control = proto.AppendMessage(l.control, m, 0)
	for _, st := range streams {
		st.moveLocked(l)
		st.toldLocked()
	}
	if s.ending != nil {
		s.endOnLocked(l)
	}
	for _, o := range slices.Clone(s.links) {
		switch {
		case o == l:
		case o.state == attaching, o.state == asking:
			o.endLocked(errReplaced)
		default:
			o.state = old
			pongs, token := o.pongs, o.pongToken
			o.clearLocked()
			o.pongs, o.pongToken = pongs, token
		}
	}
	l.signal()
}

// sortedLocked lists the streams by id.
func (s *Session) sortedLocked() []*Stream {
	out := slices.Collect(maps.Values(s.streams))
	slices.SortFunc(out, func(a, b *Stream) int { return int(int64(a.id) - int64(b.id)) })
	return out
}

// tableLocked is the stream's place in a resume table.
func (st *Stream) tableLocked() proto.ResumeStream {
	r := proto.ResumeStream{ID: st.id}
	switch st.state {
	case opening:
		r.State = proto.StreamOpening
	case open:
		r.State = proto.StreamOpen
		if st.finAt >= 0 {
			r.State = proto.StreamEnded
		}
		st.recvLimit = max(st.recvLimit, st.recvRead+st.window)
		r.Received, r.Credit = st.recvNext, st.recvLimit
	default:
		r.State = proto.StreamReset
	}
	return r
}

// toldLocked notes that a table has said what an ACK would.
func (st *Stream) toldLocked() {
	st.ackAt, st.here = time.Time{}, false
	st.ackedNext, st.ackedLimit = st.recvNext, st.recvLimit
	if st.state == open && st.finAt >= 0 {
		st.ackFin = true
	}
}

// resumedLocked makes l the first of a new set (anchor). It parks all other links before it quotes an offset: what still
// comes on them changes nothing.
func (s *Session) resumedLocked(l *Link, m *proto.Resume) {
	s.epoch = m.Epoch
	for _, o := range s.links {
		if o != l && o.state != old {
			o.state, o.parked = old, s.now
			o.clearLocked()
			o.signal() // its pump learns when to end it
		}
	}
	l.epoch = s.epoch
	l.clearLocked()
	answer := &proto.ResumeOK{Epoch: s.epoch}
	told := make(map[uint32]proto.StreamState, len(m.Streams))
	for _, r := range m.Streams {
		told[r.ID] = r.State
		if a, ok := s.resumeStreamLocked(l, r); ok {
			answer.Streams = append(answer.Streams, a)
		}
	}
	l.control = proto.AppendMessage(nil, answer, 0)
	for _, st := range s.sortedLocked() {
		state, named := told[st.id]
		if !named { // the agent has finished with it, so there is nothing that it lacks
			st.finishedLocked()
			continue
		}
		if st.state == open && state != proto.StreamOpening { // moved with its table, which is as good as an ACK
			st.toldLocked()
			continue
		}
		st.moveLocked(l)
	}
	l.confirmLocked()
}

// resumeStreamLocked compares a stream with what the agent says of it, and says where it stands here.
func (s *Session) resumeStreamLocked(l *Link, r proto.ResumeStream) (proto.ResumeStream, bool) {
	st := s.streams[r.ID]
	bad := proto.ResumeStream{ID: r.ID, State: proto.StreamBadOffset}
	switch r.State {
	case proto.StreamOpening, proto.StreamReset: // its OPEN or RST follows
		return proto.ResumeStream{}, false
	}
	if st == nil {
		if s.knownLocked(r.ID) {
			return proto.ResumeStream{ID: r.ID, State: proto.StreamFinished}, true
		}
		return bad, true
	}
	if st.state == resetting || st.state == failed {
		return proto.ResumeStream{ID: r.ID, State: proto.StreamReset}, true
	}
	if r.State != proto.StreamOpen && r.State != proto.StreamEnded || st.state != open || !st.resumeAtLocked(r) {
		s.cfg.Log.Warn("stream can't be resumed: reset", "stream", r.ID, "service", st.service, "received", r.Received, "sent", st.sentMax, "acked", st.sendAcked)
		st.failLocked(errReset)
		st.removeLocked()
		return bad, true
	}
	st.known = true
	st.moveLocked(l)
	return st.tableLocked(), true
}

// resumeAtLocked takes what the other side says it has received; false: that can't be.
func (st *Stream) resumeAtLocked(r proto.ResumeStream) bool {
	if r.Received < st.sendAcked || r.Received > st.sentMax || r.Credit < r.Received {
		return false
	}
	if r.State == proto.StreamEnded && !(st.finEver && r.Received == st.sendEnd()) {
		return false
	}
	st.ackedLocked(r.Received)
	st.sendLimit = max(st.sendLimit, r.Credit)
	if r.State == proto.StreamEnded {
		st.finAcked, st.finSent = true, true
	}
	st.cond.Broadcast()
	return true
}

// finishedLocked ends a stream of which the other side says that it is over: nothing can be missing there. A stream that
// has not come to its end here is one that the other side has lost: a reset.
func (st *Stream) finishedLocked() {
	if st.state != open || !st.finEver || st.finAt < 0 {
		st.failLocked(errReset)
		st.removeLocked()
		return
	}
	st.ackedLocked(st.sendEnd())
	st.finAcked, st.finSent, st.ackFin = true, true, true
	st.maybeRemoveLocked()
}

// handleResumeOKLocked takes the anchor's answer to RESUME.
func (l *Link) handleResumeOKLocked(m *proto.ResumeOK) error {
	s := l.s
	if m.Epoch != l.epoch || m.Epoch < s.epoch {
		if m.Epoch < s.epoch { // of a set that another RESUME has replaced
			return nil
		}
		return fmt.Errorf("RESUME_OK for epoch %d, this is %d: %w", m.Epoch, l.epoch, ErrProtocol)
	}
	if l.state != resuming {
		return fmt.Errorf("RESUME_OK without RESUME: %w", ErrProtocol)
	}
	for _, r := range m.Streams {
		st := s.streams[r.ID]
		if st == nil || st.state != open {
			continue // over meanwhile, or a reset follows
		}
		switch r.State {
		case proto.StreamOpen, proto.StreamEnded:
			r.Received = max(r.Received, st.sendAcked) // an old link's ACK was quicker; the credit is good all the same
			r.Credit = max(r.Credit, r.Received)
			if !st.resumeAtLocked(r) {
				s.cfg.Log.Warn("anchor resumes where it can't: stream reset", "stream", r.ID, "service", st.service)
				st.abortLocked()
				continue
			}
			st.maybeRemoveLocked()
		case proto.StreamFinished:
			st.finishedLocked()
		case proto.StreamBadOffset:
			st.failLocked(errReset)
			st.removeLocked()
		}
	}
	l.confirmLocked()
	return nil
}

// partLocked collects a resume table that may span frames; nil, nil: more is to come.
func (l *Link) partLocked(h proto.Header, payload []byte) (proto.Message, error) {
	if len(l.table)+len(payload) > l.s.maxTable() {
		return nil, fmt.Errorf("resume table over %d bytes: %w", l.s.maxTable(), ErrProtocol)
	}
	if h.Flags&proto.FlagMore != 0 {
		l.table = append(l.table, payload...)
		return nil, nil
	}
	whole := payload
	if len(l.table) > 0 {
		whole = append(l.table, payload...)
		l.table = nil
	}
	m, err := proto.ParseMessage(h.Type, whole)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return m, nil
}
