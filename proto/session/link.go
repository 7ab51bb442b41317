package session

import (
	"errors"
	"fmt"
	"math"
	"time"

	"migrationsensor/proto"
)

// parkedFor is how long an anchor keeps a link open that a RESUME on another one has replaced: the agent may need it.
const parkedFor = 5 * time.Second

// resumeAhead is how much of each stream goes in the flight of RESUME, before the anchor has said how much of it is
// known already. Ours: it covers what people type, and repeats little of a bulk transfer.
const resumeAhead = 64 << 10

// Errors that end a link but not its session.
var (
	ErrParked   = errors.New("replaced by a newer link")
	errNoID     = errors.New("the session has no name yet: its anchor has not answered")
	errReplaced = fmt.Errorf("%w before it was taken in", ErrParked)
)

// linkState is where a link stands in its session.
//
//	agent:   asking (SESSION) ─┐
//	         attaching ────────┼─► live ─► old (RESUME was sent on another one) ─► resuming, live …
//	         resuming ─────────┘
//	anchor:  live ─► old (a RESUME came on another one) ─► live (a RESUME came here again)
type linkState int

const (
	asking    linkState = iota // SESSION is not answered; streams are written all the same
	attaching                  // ATTACH is not answered; nothing is written yet
	resuming                   // RESUME is not answered; streams are written, but not far ahead
	live
	old     // written on no more. At an agent it still delivers; at an anchor it is parked: only a RESUME counts
	refused // anchor: a RESUME_FAIL is on its way, and nothing else counts
)

// Link is one link's share of a session: what is written on it and what it has heard. Package link's Pump drives it. One
// direction of a stream is written on one link at a time; frames are taken from all.
type Link struct {
	s         *Session
	ready     chan struct{} // 1-buffered: something may be to send
	done      chan struct{} // closed at the end
	confirmed chan struct{} // closed when the other end has taken it in

	// guarded by s.mu
	state   linkState
	epoch   uint32 // of the set it belongs to
	last    error  // it ends with this when what is to be written is written
	err     error  // why it ended; nil while it lives
	refused *proto.ResumeFail
	parked  time.Time // anchor: since when it is old
	control []byte    // whole frames that need no credit
	queue   fifo      // streams with something to send, each once, in turn
	acks    []*Stream // with an ACK to send at ackAt, each once
	streams int       // written on it
	table   []byte    // of a RESUME or RESUME_OK that has not come whole

	heard     time.Time // last frame from the peer
	quiet     time.Time // the same, but that time in which we stood still does not count
	due       time.Time // when Advance asked to be called
	reprieve  time.Time // not given up before: time to read after we stood still
	unread    func() bool
	active    time.Time // since when something is outstanding
	pinged    time.Time // PING under way since; zero: none
	pingToken uint64
	wantPing  bool
	pongs     bool // a PONG is pending: one at a time
	pongToken uint64
	srtt      time.Duration
	warming   warming
}

func (s *Session) newLinkLocked(state linkState) *Link {
	l := &Link{
		s: s, state: state, epoch: s.epoch,
		ready: make(chan struct{}, 1), done: make(chan struct{}), confirmed: make(chan struct{}),
	}
	if s.err != nil {
		l.endLocked(s.err)
		return l
	}
	s.links = append(s.links, l)
	return l
}

// Ask makes the first link of an agent's session; it begins with SESSION. Nobody waits for the answer: OPENs may follow
// in the same flight, since each says its own first credit.
func (s *Session) Ask() *Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.newLinkLocked(asking)
	l.control = proto.AppendMessage(l.control, &proto.Session{Credit: DefaultWindow}, 0)
	s.adoptLocked(l)
	l.signal()
	return l
}

// Attach makes one more link for the current set (agent); it begins with ATTACH, and takes streams once Confirmed is
// closed.
func (s *Session) Attach() *Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.newLinkLocked(attaching)
	if s.id == (proto.SessionID{}) {
		l.endLocked(errNoID)
		return l
	}
	l.control = proto.AppendMessage(l.control, &proto.Attach{Session: s.id, Epoch: s.epoch}, 0)
	l.signal()
	return l
}

// Serve takes a link into an anchor's session; first is its SESSION, ATTACH or RESUME. The link begins with the answer.
// Not nil: it is refused, and why; the session does not change then.
func (s *Session) Serve(first proto.Message, now time.Time) (*Link, *proto.ResumeFail) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
	if s.err != nil {
		return nil, &proto.ResumeFail{Code: proto.ResumeUnknown}
	}
	switch m := first.(type) {
	case *proto.Session:
		if s.begun {
			return nil, &proto.ResumeFail{Code: proto.ResumeUnknown}
		}
		s.begun = true
		l := s.newLinkLocked(live)
		ok := proto.SessionOK{ID: s.id, Credit: DefaultWindow, MaxStreams: uint32(s.cfg.MaxStreams), Grace: s.cfg.Grace}
		l.control = proto.AppendMessage(l.control, &ok, 0)
		l.confirmLocked()
		return l, nil
	case *proto.Attach:
		if m.Epoch != s.epoch {
			return nil, &proto.ResumeFail{Code: proto.ResumeStale}
		}
		l := s.newLinkLocked(live)
		l.control = proto.AppendMessage(l.control, &proto.AttachOK{Epoch: s.epoch}, 0)
		l.confirmLocked()
		return l, nil
	case *proto.Resume:
		if m.Epoch <= s.epoch {
			return nil, &proto.ResumeFail{Code: proto.ResumeStale}
		}
		l := s.newLinkLocked(live)
		s.resumedLocked(l, m)
		return l, nil
	}
	return nil, &proto.ResumeFail{Code: proto.ResumeUnknown}
}

// confirmLocked is that both ends know the link as one of the current set.
func (l *Link) confirmLocked() {
	l.state = live
	select {
	case <-l.confirmed:
	default:
		close(l.confirmed)
	}
	l.s.adoptLocked(l)
	for _, st := range l.s.streams { // those that waited for the answer to go further ahead
		if st.link == l {
			st.queueLocked()
		}
	}
	l.signal()
}

// adoptLocked gives streams that have no link to l.
func (s *Session) adoptLocked(l *Link) {
	if s.orphans == 0 {
		return
	}
	for _, st := range s.sortedLocked() {
		if st.link == nil {
			st.moveLocked(l)
		}
	}
}

// pickLocked is the link of the current set with the fewest streams; nil: there is none.
func (s *Session) pickLocked() (best *Link) {
	for _, l := range s.links {
		if l.writableLocked() && (best == nil || l.streams < best.streams) {
			best = l
		}
	}
	return best
}

// writableLocked reports whether streams may be written on l.
func (l *Link) writableLocked() bool {
	return l.err == nil && l.epoch == l.s.epoch && l.state != attaching && l.state != old && l.state != refused
}

// endLocked ends the link. Its streams go on over another one, or wait.
func (l *Link) endLocked(err error) {
	if l.err != nil {
		return
	}
	if err == nil {
		err = ErrClosed
	}
	s := l.s
	l.err = err
	l.clearLocked()
	for i, o := range s.links {
		if o == l {
			s.links = append(s.links[:i:i], s.links[i+1:]...)
			break
		}
	}
	close(l.done)
	l.signal()
	if s.ending == l && !s.endOnLocked(s.pickLocked()) {
		s.closeLocked(nil)
		return
	}
	if l.streams > 0 && s.err == nil {
		next := s.pickLocked()
		for _, st := range s.sortedLocked() {
			if st.link == l {
				st.moveLocked(next)
			}
		}
	}
	if !s.cfg.Server && s.id == (proto.SessionID{}) && len(s.links) == 0 {
		s.closeLocked(err) // nobody could resume it
	}
}

// clearLocked forgets what was to be written: it is made anew for another link.
func (l *Link) clearLocked() {
	l.control, l.queue, l.acks, l.table = nil, fifo{}, nil, nil
	l.wantPing, l.pongs, l.warming = false, false, warming{}
}

// Close says that the link carries nothing any more. Its streams go on over another link of the set, or wait for one. An
// agent's session that its anchor has not answered ends with its last link.
func (l *Link) Close(err error) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.endLocked(err)
}

// Confirmed is closed when the other end has taken the link in: at an agent the answer has come, and the links that a
// RESUME replaced may be closed.
func (l *Link) Confirmed() <-chan struct{} { return l.confirmed }

// Refused is why the anchor did not take the link in; nil while it has not said so.
func (l *Link) Refused() *proto.ResumeFail {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.refused
}

// Ready is signalled when Next may have something, and when the link has ended.
func (l *Link) Ready() <-chan struct{} { return l.ready }

// Done is closed when the link is to be closed; Err says why.
func (l *Link) Done() <-chan struct{} { return l.done }

// Err is nil while the link lives.
func (l *Link) Err() error {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.err
}

// Streams is how many streams are written on the link.
func (l *Link) Streams() int {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.streams
}

// Heard is when the peer last said anything on the link.
func (l *Link) Heard() time.Time {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.heard
}

// SRTT is the smoothed round trip of the link's PINGs; zero before the first.
func (l *Link) SRTT() time.Duration {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.srtt
}

// Ping asks for a sign of life.
func (l *Link) Ping() {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.wantPing = true
	l.signal()
}

func (l *Link) signal() {
	select {
	case l.ready <- struct{}{}:
	default:
	}
}

// RefusedError is the anchor's RESUME_FAIL.
type RefusedError struct{ proto.ResumeFail }

func (e *RefusedError) Error() string { return "session not resumed: " + e.Code.String() }

// maxTable bounds the bytes of a resume table that comes in parts.
func (s *Session) maxTable() int {
	n := s.cfg.MaxStreams + 1
	if !s.cfg.Server {
		n = math.MaxUint16
	}
	return 64 + n*proto.ResumeStreamLen
}
