package session

import (
	"encoding/binary"
	"fmt"
	"time"

	"migrationsensor/proto"
)

// flagFin in an ACK says that the FIN was received; in an RST, that it answers one, or an OPEN_FAIL.
const flagFin = 2

// flagHere in an ACK asks the other end to write its direction of the stream on this link too: ours has moved to it, because
// the one before has ended or is silent.
const flagHere = 4

// maxMissing bounds how far OPENs on several links may overtake each other. Ours.
const maxMissing = 4096

// Handle takes one frame from the link. An error is the peer's violation of the protocol, or what ended
// the link: the caller closes it. It never blocks and keeps no reference to payload.
func (l *Link) Handle(h proto.Header, payload []byte, now time.Time) error {
	accept, err := l.handle(h, payload, now)
	if err != nil {
		return err
	}
	if accept != nil {
		l.s.cfg.Accept(accept, accept.service)
	}
	return nil
}

func (l *Link) handle(h proto.Header, payload []byte, now time.Time) (accept *Stream, err error) {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	s.now, l.heard, l.quiet = now, now, now
	s.calmLocked()
	if l.last != nil {
		return nil, nil // refused: what follows is discarded
	}
	if l.state == old && s.cfg.Server && h.Type != proto.TypeResume {
		return nil, nil // parked: what it carries comes again on a newer one
	}
	switch h.Type {
	case proto.TypePing, proto.TypePong:
		return nil, l.handlePingLocked(h, payload)
	case proto.TypePad:
		return nil, l.handlePadLocked(h, payload)
	case proto.TypeOpen:
		return l.handleOpenLocked(h, payload)
	case proto.TypeEnd:
		if !s.cfg.Server || len(payload) > 0 || h.Flags != 0 || h.Stream != 0 {
			return nil, fmt.Errorf("END that is none: %w", ErrProtocol)
		}
		s.closeLocked(ErrEnded)
		return nil, ErrEnded
	case proto.TypeSessionOK, proto.TypeAttachOK, proto.TypeResumeOK, proto.TypeResumeFail, proto.TypeResume:
		return nil, l.handleSetLocked(h, payload)
	case proto.TypeOpenOK, proto.TypeOpenFail, proto.TypeData, proto.TypeAck, proto.TypeFin, proto.TypeRst:
	default:
		return nil, fmt.Errorf("frame type %#x in a session: %w", uint8(h.Type), ErrProtocol)
	}
	if h.Flags&^flagsOf(h.Type) != 0 {
		return nil, fmt.Errorf("frame type %#x with flags %#x: %w", uint8(h.Type), h.Flags, ErrProtocol)
	}
	st := s.streams[h.Stream]
	if st == nil {
		return nil, l.handleUnknownLocked(h, payload)
	}
	if err := st.handleLocked(l, h, payload); err != nil {
		return nil, fmt.Errorf("stream %d: %w", h.Stream, err)
	}
	return nil, nil
}

// flagsOf are the flags that a frame of a stream may have.
func flagsOf(t proto.FrameType) uint8 {
	switch t {
	case proto.TypeAck:
		return flagFin | flagHere
	case proto.TypeRst:
		return flagFin
	}
	return 0
}

// knownLocked reports whether a stream with the id was opened at some time.
func (s *Session) knownLocked(id uint32) bool {
	_, missing := s.missing[id]
	return id > 0 && id <= s.lastID && !missing
}

// handleUnknownLocked takes a frame of a stream that is not there. One that is over is answered where the peer may still
// wait for a word that was lost with a link.
func (l *Link) handleUnknownLocked(h proto.Header, payload []byte) error {
	s := l.s
	if !s.knownLocked(h.Stream) {
		if !s.cfg.Server || h.Type != proto.TypeRst || h.Stream == 0 {
			return fmt.Errorf("frame type %#x for stream %d, never opened: %w", uint8(h.Type), h.Stream, ErrProtocol)
		}
		if err := s.openedIDLocked(h.Stream); err != nil { // given up before its OPEN came; that is to open nothing any more
			return err
		}
	}
	switch {
	case len(payload) > 0 && h.Type != proto.TypeData && h.Type != proto.TypeAck && h.Type != proto.TypeOpenOK && h.Type != proto.TypeOpenFail:
		return fmt.Errorf("frame type %#x with %d bytes: %w", uint8(h.Type), len(payload), ErrProtocol)
	case h.Type == proto.TypeFin:
		l.replyLocked(appendAck(nil, h.Stream, flagFin, h.Offset, h.Offset))
	case h.Type == proto.TypeRst && h.Flags == 0, h.Type == proto.TypeOpenFail && !s.cfg.Server:
		l.replyLocked(header(nil, proto.TypeRst, flagFin, h.Stream, 0))
	}
	return l.unreadLocked()
}

// replyLocked sends a frame of no stream that is there: on l, or where streams are written now. Where that is nowhere, the
// peer asks again after a RESUME.
func (l *Link) replyLocked(frame []byte) {
	if !l.writableLocked() {
		if l = l.s.pickLocked(); l == nil {
			return
		}
	}
	l.control = append(l.control, frame...)
	l.signal()
}

// handleSetLocked takes what concerns the set of links.
func (l *Link) handleSetLocked(h proto.Header, payload []byte) error {
	if l.s.cfg.Server != (h.Type == proto.TypeResume) {
		return fmt.Errorf("frame type %#x from the wrong end: %w", uint8(h.Type), ErrProtocol)
	}
	if h.Flags&^proto.FlagMore != 0 {
		return fmt.Errorf("frame type %#x with flags %#x: %w", uint8(h.Type), h.Flags, ErrProtocol)
	}
	m, err := l.partLocked(h, payload)
	if m == nil || err != nil {
		return err
	}
	switch m := m.(type) {
	case *proto.SessionOK:
		return l.handleSessionLocked(m)
	case *proto.AttachOK:
		if l.state == old || m.Epoch < l.s.epoch {
			return nil
		}
		if l.state != attaching || m.Epoch != l.epoch {
			return fmt.Errorf("ATTACH_OK without ATTACH: %w", ErrProtocol)
		}
		l.confirmLocked()
	case *proto.ResumeOK:
		return l.handleResumeOKLocked(m)
	case *proto.ResumeFail:
		l.refused = m
		err := &RefusedError{*m}
		if m.Code.Final() {
			l.s.closeLocked(err)
		}
		l.endLocked(err)
		return err
	case *proto.Resume: // on a link that was parked, or on the only one
		if m.Session != l.s.id {
			return fmt.Errorf("RESUME of another session: %w", ErrProtocol)
		}
		if m.Epoch <= l.s.epoch {
			l.refuseLocked(proto.ResumeStale, fmt.Errorf("RESUME with epoch %d after %d: %w", m.Epoch, l.s.epoch, ErrProtocol))
			return nil
		}
		l.s.resumedLocked(l, m)
	}
	return nil
}

// refuseLocked ends the link when the reason is written. It carries nothing else from here.
func (l *Link) refuseLocked(code proto.ResumeCode, why error) {
	s := l.s
	l.state = refused
	l.clearLocked()
	next := s.pickLocked()
	for _, st := range s.sortedLocked() {
		if st.link == l {
			st.moveLocked(next)
		}
	}
	l.last = why
	l.control = proto.AppendMessage(nil, &proto.ResumeFail{Code: code}, 0)
	l.signal()
}

// handleSessionLocked takes the answer to SESSION. Streams that were opened before it keep what they have: OPEN_OK says
// each one's own credit.
func (l *Link) handleSessionLocked(ok *proto.SessionOK) error {
	s := l.s
	if l.state != asking || ok.ID == (proto.SessionID{}) {
		return fmt.Errorf("SESSION_OK without SESSION, or without a name: %w", ErrProtocol)
	}
	s.id, s.grace, l.active = ok.ID, ok.Grace, time.Time{}
	s.cfg.PeerWindow = int(ok.Credit)
	if ok.MaxStreams > 0 {
		s.cfg.MaxStreams = int(ok.MaxStreams)
	}
	l.confirmLocked()
	return nil
}

func (l *Link) handlePingLocked(h proto.Header, payload []byte) error {
	m, err := proto.ParseMessage(h.Type, payload)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	switch m := m.(type) {
	case *proto.Ping:
		l.pongs, l.pongToken = true, m.Token
		l.signal()
	case *proto.Pong:
		if !l.pinged.IsZero() && m.Token == l.pingToken {
			l.sampleLocked(l.s.now.Sub(l.pinged))
			l.pinged = time.Time{}
		}
	}
	return nil
}

// sampleLocked smooths the round trip as RFC 6298 does.
func (l *Link) sampleLocked(rtt time.Duration) {
	if l.srtt == 0 {
		l.srtt = rtt
		return
	}
	l.srtt += (rtt - l.srtt) / 8
}

func (l *Link) handleOpenLocked(h proto.Header, payload []byte) (*Stream, error) {
	s := l.s
	if !s.cfg.Server {
		return nil, fmt.Errorf("OPEN from an anchor: %w", ErrProtocol)
	}
	if h.Stream == 0 || h.Flags != 0 {
		return nil, fmt.Errorf("OPEN of stream %d with flags %#x: %w", h.Stream, h.Flags, ErrProtocol)
	}
	m, err := proto.ParseMessage(h.Type, payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	busy := &OpenError{proto.OpenBusy, "too many connections"}
	if s.knownLocked(h.Stream) {
		l.openAgainLocked(h.Stream, busy)
		return nil, l.unreadLocked()
	}
	if err := s.openedIDLocked(h.Stream); err != nil {
		return nil, err
	}
	if len(s.streams) >= s.cfg.MaxStreams || !s.mayOpenLocked() {
		l.replyLocked(proto.AppendMessage(nil, busy.message(), h.Stream))
		return nil, l.unreadLocked()
	}
	open := m.(*proto.Open)
	st := s.addLocked(h.Stream, open.Service)
	st.creditLocked(open.Credit)
	st.moveLocked(l)
	return st, l.unreadLocked()
}

// openedIDLocked notes that a stream's OPEN has come. Ids rise, but one that was sent on another link may be late.
func (s *Session) openedIDLocked(id uint32) error {
	if id <= s.lastID {
		delete(s.missing, id)
		return nil
	}
	if int(id-s.lastID-1)+len(s.missing) > maxMissing {
		return fmt.Errorf("OPEN of stream %d after %d: %w", id, s.lastID, ErrProtocol)
	}
	for gap := s.lastID + 1; gap < id; gap++ {
		if s.missing == nil {
			s.missing = make(map[uint32]struct{})
		}
		s.missing[gap] = struct{}{}
	}
	s.lastID = id
	return nil
}

// openAgainLocked answers an OPEN that was sent again with its known result: it never makes a second connection. A stream
// of which nothing is known any more was refused, or is over; then the agent does not ask.
func (l *Link) openAgainLocked(id uint32, busy *OpenError) {
	st := l.s.streams[id]
	if st != nil {
		st.followLocked(l)
	}
	switch {
	case st == nil:
		l.replyLocked(proto.AppendMessage(nil, busy.message(), id))
	case st.state == open:
		l.replyLocked(proto.AppendMessage(nil, &proto.OpenOK{Credit: uint32(st.first)}, id))
	case st.state == failed && st.openErr != nil:
		l.replyLocked(proto.AppendMessage(nil, st.openErr.message(), id))
	}
}

// unreadLocked refuses a peer that goes on asking and reads no answers: they take memory.
func (l *Link) unreadLocked() error {
	if len(l.control) > maxControl {
		return fmt.Errorf("%d bytes of answers unread: %w", len(l.control), ErrProtocol)
	}
	return nil
}

// creditLocked takes the first credit that the peer gives the stream; 0 leaves the session's.
func (st *Stream) creditLocked(credit uint32) {
	if credit > 0 {
		st.sendLimit = uint64(credit)
	}
}

// mayOpenLocked is a token bucket over OPENs.
func (s *Session) mayOpenLocked() bool {
	if !s.tokensAt.IsZero() {
		s.tokens = min(s.tokens+openRate*s.now.Sub(s.tokensAt).Seconds(), openBurst)
	}
	s.tokensAt = s.now
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}

func (st *Stream) handleLocked(l *Link, h proto.Header, payload []byte) error {
	st.known = true
	if len(payload) > 0 && (h.Type == proto.TypeFin || h.Type == proto.TypeRst) {
		return fmt.Errorf("frame type %#x with %d bytes: %w", uint8(h.Type), len(payload), ErrProtocol)
	}
	switch {
	case h.Type == proto.TypeRst:
		return st.handleRstLocked(l, h)
	case h.Type == proto.TypeAck && st.state != failed:
		err := st.handleAckLocked(h, payload)
		if err == nil && h.Flags&flagHere != 0 {
			st.followLocked(l)
		}
		return err
	case st.state == resetting, st.state == failed, st.state == opening && st.rstQueued:
		return nil // given up here while the peer still spoke; it will hear of it
	}
	switch h.Type {
	case proto.TypeOpenOK, proto.TypeOpenFail:
		return st.handleOpenedLocked(l, h, payload)
	case proto.TypeData:
		return st.handleDataLocked(h.Offset, payload)
	case proto.TypeFin:
		return st.handleFinLocked(h.Offset)
	}
	panic(fmt.Sprintf("BUG: unhandled frame type %#x", uint8(h.Type)))
}

// followLocked writes the stream on l, where the other end writes it now.
func (st *Stream) followLocked(l *Link) {
	if st.link != l && st.state != over && l.writableLocked() {
		st.moveLocked(l)
		st.here = false
	}
}

func (st *Stream) handleOpenedLocked(l *Link, h proto.Header, payload []byte) error {
	if st.s.cfg.Server {
		return fmt.Errorf("answer to an OPEN from an agent: %w", ErrProtocol)
	}
	if st.state != opening {
		return nil // the answer to an OPEN that was sent again
	}
	m, err := proto.ParseMessage(h.Type, payload)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if f, failed := m.(*proto.OpenFail); failed {
		st.openErr = &OpenError{f.Code, f.Text}
		l.replyLocked(header(nil, proto.TypeRst, flagFin, st.id, 0))
		st.failLocked(errReset)
		st.removeLocked()
		return nil
	}
	st.creditLocked(m.(*proto.OpenOK).Credit)
	st.state = open
	st.openedLocked()
	st.queueLocked() // what was written before
	return nil
}

func (st *Stream) handleDataLocked(off uint64, b []byte) error {
	end := off + uint64(len(b))
	switch {
	case st.state == opening:
		return fmt.Errorf("DATA before the stream is open: %w", ErrProtocol)
	case end < off || end > st.recvLimit:
		return fmt.Errorf("DATA to %d beyond the credit of %d: %w", end, st.recvLimit, ErrProtocol)
	case off > st.recvNext:
		return fmt.Errorf("DATA at %d leaves a gap after %d: %w", off, st.recvNext, ErrProtocol)
	case st.finAt >= 0 && end > uint64(st.finAt):
		return fmt.Errorf("DATA to %d after the end at %d: %w", end, st.finAt, ErrProtocol)
	case end <= st.recvNext:
		return nil // all of it is known
	}
	b = b[st.recvNext-off:]
	st.recvNext = end
	if st.readClosed { // nobody will read it: as TCP, a reset
		st.recvRead = end
		st.abortLocked()
		return nil
	}
	st.recv.write(b)
	st.cond.Broadcast()
	st.wantAckLocked(false)
	return nil
}

func (st *Stream) handleAckLocked(h proto.Header, payload []byte) error {
	if len(payload) != 8 {
		return fmt.Errorf("ACK of %d bytes: %w", len(payload), ErrProtocol)
	}
	credit := binary.BigEndian.Uint64(payload)
	if h.Offset > st.sentMax || credit < h.Offset {
		return fmt.Errorf("ACK of %d with credit %d, sent %d: %w", h.Offset, credit, st.sentMax, ErrProtocol)
	}
	if h.Flags&flagFin != 0 {
		if !st.finEver || h.Offset != st.sendEnd() {
			return fmt.Errorf("ACK of a FIN that was not sent: %w", ErrProtocol)
		}
		st.finAcked, st.finSent = true, true
	}
	st.ackedLocked(h.Offset)
	st.sendLimit = max(st.sendLimit, credit)
	st.cond.Broadcast()
	st.queueLocked()
	st.maybeRemoveLocked()
	return nil
}

func (st *Stream) handleFinLocked(final uint64) error {
	switch {
	case st.finAt >= 0 && uint64(st.finAt) != final, st.finAt < 0 && final != st.recvNext:
		return fmt.Errorf("FIN at %d after %d bytes: %w", final, st.recvNext, ErrProtocol)
	case st.state == opening:
		return fmt.Errorf("FIN before the stream is open: %w", ErrProtocol)
	}
	st.finAt = int64(final)
	st.cond.Broadcast()
	st.wantAckLocked(true)
	st.maybeRemoveLocked()
	return nil
}

// handleRstLocked takes a reset, and answers it unless it is an answer itself. Where both ends have given the stream up,
// either one's RST tells the other.
func (st *Stream) handleRstLocked(l *Link, h proto.Header) error {
	if h.Offset > st.recvNext && st.state == open {
		return fmt.Errorf("RST at %d after %d bytes: %w", h.Offset, st.recvNext, ErrProtocol)
	}
	if h.Flags == 0 && !st.rstSent {
		l.replyLocked(header(nil, proto.TypeRst, flagFin, st.id, 0))
	}
	st.failLocked(errReset)
	st.removeLocked()
	return nil
}
