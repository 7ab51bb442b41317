package session

import (
	"encoding/binary"
	"fmt"
	"time"

	"migrationsensor/proto"
)

// flagFin in an ACK says that the FIN was received.
const flagFin = 2

// Handle takes one frame from the link. An error is the peer's violation of the protocol, or what ended
// the session: the caller closes the link. It never blocks and keeps no reference to payload.
func (s *Session) Handle(h proto.Header, payload []byte, now time.Time) error {
	accept, err := s.handle(h, payload, now)
	if err != nil {
		return err
	}
	if accept != nil {
		s.cfg.Accept(accept, accept.service)
	}
	return nil
}

func (s *Session) handle(h proto.Header, payload []byte, now time.Time) (accept *Stream, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	s.now, s.heard = now, now
	switch h.Type {
	case proto.TypePing, proto.TypePong:
		return nil, s.handlePingLocked(h, payload)
	case proto.TypeOpen:
		return s.handleOpenLocked(h, payload)
	case proto.TypeSessionOK:
		return nil, s.handleSessionLocked(payload)
	case proto.TypeOpenOK, proto.TypeOpenFail, proto.TypeData, proto.TypeAck, proto.TypeFin, proto.TypeRst:
	default:
		return nil, fmt.Errorf("frame type %#x in a session: %w", uint8(h.Type), ErrProtocol)
	}
	if h.Flags != 0 && (h.Type != proto.TypeAck || h.Flags != flagFin) {
		return nil, fmt.Errorf("frame type %#x with flags %#x: %w", uint8(h.Type), h.Flags, ErrProtocol)
	}
	st := s.streams[h.Stream]
	if st == nil {
		if h.Stream == 0 || h.Stream > s.lastID {
			return nil, fmt.Errorf("frame type %#x for stream %d, never opened: %w", uint8(h.Type), h.Stream, ErrProtocol)
		}
		return nil, nil // it ended here while this was under way
	}
	if err := st.handleLocked(h, payload); err != nil {
		return nil, fmt.Errorf("stream %d: %w", h.Stream, err)
	}
	return nil, nil
}

// handleSessionLocked takes the answer to SESSION. Streams that were opened before it keep what they have: OPEN_OK says
// each one's own credit.
func (s *Session) handleSessionLocked(payload []byte) error {
	m, err := proto.ParseMessage(proto.TypeSessionOK, payload)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if !s.asked {
		return fmt.Errorf("SESSION_OK without SESSION: %w", ErrProtocol)
	}
	ok := m.(*proto.SessionOK)
	s.asked, s.active = false, time.Time{}
	s.cfg.PeerWindow = int(ok.Credit)
	if ok.MaxStreams > 0 {
		s.cfg.MaxStreams = int(ok.MaxStreams)
	}
	return nil
}

func (s *Session) handlePingLocked(h proto.Header, payload []byte) error {
	m, err := proto.ParseMessage(h.Type, payload)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	switch m := m.(type) {
	case *proto.Ping:
		s.pongs, s.pongToken = true, m.Token
		s.signal()
	case *proto.Pong:
		if !s.pinged.IsZero() && m.Token == s.pingToken {
			s.sampleLocked(s.now.Sub(s.pinged))
			s.pinged = time.Time{}
		}
	}
	return nil
}

// sampleLocked smooths the round trip as RFC 6298 does.
func (s *Session) sampleLocked(rtt time.Duration) {
	if s.srtt == 0 {
		s.srtt = rtt
		return
	}
	s.srtt += (rtt - s.srtt) / 8
}

func (s *Session) handleOpenLocked(h proto.Header, payload []byte) (*Stream, error) {
	if !s.cfg.Server {
		return nil, fmt.Errorf("OPEN from an anchor: %w", ErrProtocol)
	}
	if h.Stream == 0 {
		return nil, fmt.Errorf("OPEN of stream 0: %w", ErrProtocol)
	}
	if h.Stream <= s.lastID { // sent again: its known result, never a second connection
		if st := s.streams[h.Stream]; st != nil && st.state == open {
			s.control = s.message(s.control, st.id, &proto.OpenOK{Credit: uint32(st.first)})
			s.signal()
		}
		return nil, s.unreadLocked()
	}
	m, err := proto.ParseMessage(h.Type, payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	s.lastID = h.Stream
	if len(s.streams) >= s.cfg.MaxStreams || !s.mayOpenLocked() {
		s.control = s.message(s.control, h.Stream, &proto.OpenFail{Code: proto.OpenBusy, Text: "too many connections"})
		s.signal()
		return nil, s.unreadLocked()
	}
	open := m.(*proto.Open)
	st := s.addLocked(h.Stream, open.Service)
	st.creditLocked(open.Credit)
	return st, s.unreadLocked()
}

// unreadLocked refuses a peer that goes on asking and reads no answers: they take memory.
func (s *Session) unreadLocked() error {
	if len(s.control) > maxControl {
		return fmt.Errorf("%d bytes of answers to OPEN unread: %w", len(s.control), ErrProtocol)
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

func (st *Stream) handleLocked(h proto.Header, payload []byte) error {
	if st.state == opening && st.rstQueued {
		return nil // given up here while the peer still answered; our reset is on its way
	}
	switch h.Type {
	case proto.TypeOpenOK, proto.TypeOpenFail:
		return st.handleOpenedLocked(h, payload)
	case proto.TypeData:
		return st.handleDataLocked(h.Offset, payload)
	case proto.TypeAck:
		return st.handleAckLocked(h, payload)
	}
	if len(payload) > 0 {
		return fmt.Errorf("frame type %#x with %d bytes: %w", uint8(h.Type), len(payload), ErrProtocol)
	}
	switch h.Type {
	case proto.TypeFin:
		return st.handleFinLocked(h.Offset)
	case proto.TypeRst:
		return st.handleRstLocked(h.Offset)
	}
	panic(fmt.Sprintf("BUG: unhandled frame type %#x", uint8(h.Type)))
}

func (st *Stream) handleOpenedLocked(h proto.Header, payload []byte) error {
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
		st.failLocked(errReset)
		st.removeLocked()
		return nil
	}
	st.creditLocked(m.(*proto.OpenOK).Credit)
	st.state = open
	st.openedLocked()
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
	if h.Offset > st.sendNext || credit < h.Offset {
		return fmt.Errorf("ACK of %d with credit %d, sent %d: %w", h.Offset, credit, st.sendNext, ErrProtocol)
	}
	if h.Flags&flagFin != 0 {
		if !st.finSent || h.Offset != st.sendEnd() {
			return fmt.Errorf("ACK of a FIN that was not sent: %w", ErrProtocol)
		}
		st.finAcked = true
	}
	if h.Offset > st.sendAcked {
		st.dropSentLocked(int(h.Offset - st.sendAcked))
		st.sendAcked = h.Offset
	}
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

func (st *Stream) handleRstLocked(final uint64) error {
	if final > st.recvNext && st.state != opening {
		return fmt.Errorf("RST at %d after %d bytes: %w", final, st.recvNext, ErrProtocol)
	}
	st.failLocked(errReset)
	st.removeLocked()
	return nil
}
