package session

import (
	"fmt"
	"time"

	"migrationsensor/proto"
)

// Link is one link's share of a session: what is written on it and what it has heard. Package link's Pump drives it.
type Link struct {
	s         *Session
	confirmed chan struct{}
}

// Ask makes the first link of an agent's session; it begins with SESSION. Streams may be begun at once.
func (s *Session) Ask() *Link {
	l := &Link{s: s, confirmed: make(chan struct{})}
	s.ask()
	return l
}

// Attach makes one more link for the current set (agent); it begins with ATTACH, and takes streams once Confirmed is closed.
func (s *Session) Attach() *Link { panic("BUG: not yet") }

// Resume makes the first link of a new set (agent); it begins with RESUME. All streams are written on it from now on; the
// older links still deliver what they carry, and their owner closes them when Confirmed is closed.
func (s *Session) Resume() *Link { panic("BUG: not yet") }

// Resume makes a link that was given up for a newer one the first of a new set again.
func (l *Link) Resume() { panic("BUG: not yet") }

// Serve takes a link into an anchor's session; first is its SESSION, ATTACH or RESUME. The link begins with the answer. Not
// nil: it is refused, and why.
func (s *Session) Serve(first proto.Message, now time.Time) (*Link, *proto.ResumeFail) {
	l := &Link{s: s, confirmed: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := first.(*proto.Session); !ok {
		return nil, &proto.ResumeFail{Code: proto.ResumeUnknown}
	}
	s.control = s.message(s.control, 0, &proto.SessionOK{ID: s.cfg.ID, Credit: DefaultWindow, MaxStreams: uint32(s.cfg.MaxStreams), Grace: s.cfg.Grace})
	s.signal()
	return l, nil
}

// Confirmed is closed when the other end has taken the link in.
func (l *Link) Confirmed() <-chan struct{} { return l.confirmed }

// Refused is why the other end did not take the link in; nil while it has not said so.
func (l *Link) Refused() *proto.ResumeFail { return nil }

// Handle takes one frame from the link. An error is the peer's violation of the protocol, or what ended the link: the
// caller closes it. It never blocks and keeps no reference to payload.
func (l *Link) Handle(h proto.Header, payload []byte, now time.Time) error {
	return l.s.Handle(h, payload, now)
}

// Next appends the next frames to dst; see Session.
func (l *Link) Next(dst []byte) []byte { return l.s.Next(dst) }

// Advance is called when time passes, and after Ready; it reports when it wants to be called next.
func (l *Link) Advance(now time.Time) time.Time { return l.s.Advance(now) }

// Ready is signalled when Next may have something, and when the link has ended.
func (l *Link) Ready() <-chan struct{} { return l.s.ready }

// Done is closed when the link is to be closed; Err says why.
func (l *Link) Done() <-chan struct{} { return l.s.done }

// Err is nil while the link lives.
func (l *Link) Err() error { return l.s.Err() }

// Close says that the link carries nothing any more. Its streams go on over another link of the set, or wait for one.
func (l *Link) Close(err error) { l.s.Close(err) }

// Streams is how many streams are written on the link.
func (l *Link) Streams() int { return l.s.Streams() }

// Heard is when the peer last said anything on the link.
func (l *Link) Heard() time.Time { return l.s.Heard() }

// SRTT is the smoothed round trip of the link's PINGs; zero before the first.
func (l *Link) SRTT() time.Duration { return l.s.SRTT() }

// Ping asks for a sign of life.
func (l *Link) Ping() { l.s.Ping() }

// ID is the session's name at its anchor; zero at an agent before SESSION_OK.
func (s *Session) ID() proto.SessionID { return s.cfg.ID }

// Links is how many links the session is written on now; 0: it waits for a RESUME.
func (s *Session) Links() int {
	if s.Err() != nil {
		return 0
	}
	return 1
}

// RefusedError is the other end's RESUME_FAIL.
type RefusedError struct{ proto.ResumeFail }

func (e *RefusedError) Error() string { return fmt.Sprintf("session not resumed: %s", e.Code) }
