package session

import (
	"time"

	"migrationsensor/proto"
)

// queueLocked puts the stream into the queue of those with something to send.
func (st *Stream) queueLocked() {
	if st.queued || st.state == over || !st.sendableLocked() {
		return
	}
	st.queued = true
	st.s.queue.push(st)
	st.s.signal()
}

func (st *Stream) sendableLocked() bool {
	if st.state == opening {
		return st.rstQueued
	}
	left := st.sendEnd() - st.sendNext
	switch {
	case left > 0 && st.sendNext < st.sendLimit:
		return true
	case st.rstQueued:
		return left == 0 || !st.s.now.Before(st.rstUntil)
	}
	return left == 0 && st.finQueued && !st.finSent
}

// wantAckLocked decides when what was received is acknowledged: at once if it is much, or the window
// nearly closed, or the stream's end; else after 25 ms, so that one ACK serves many frames.
func (st *Stream) wantAckLocked(now bool) {
	if st.state != open {
		return
	}
	if !st.inAcks {
		st.inAcks = true
		st.s.acks = append(st.s.acks, st)
	}
	step := min(ackBytes, st.window/4)
	if now || st.recvNext-st.ackedNext >= step || st.recvLimit-st.ackedLimit >= step {
		st.ackAt = st.s.now
		st.s.signal()
		return
	}
	if st.ackAt.IsZero() {
		st.ackAt = st.s.now.Add(ackDelay)
		st.s.signal() // the pump learns of the new time to wake
	}
}

// grantLocked gives new credit for what was read, and a larger window to a reader that keeps up.
func (st *Stream) grantLocked() {
	if st.finAt >= 0 || st.state != open {
		return // nothing more will come
	}
	s := st.s
	if grow := min(st.window, uint64(s.cfg.MaxWindow)-min(st.window, uint64(s.cfg.MaxWindow))); grow > 0 &&
		st.recvRead-st.grownAt >= st.window/2 && st.recv.n <= int(st.window/8) && s.grown+int(grow) <= s.cfg.MaxSession/2 {
		s.grown += int(grow)
		st.window += grow
		st.grownAt = st.recvRead
	}
	if limit := st.recvRead + st.window; limit > st.recvLimit {
		if limit-st.ackedLimit >= min(ackBytes, st.window/4) {
			st.recvLimit = limit
			st.wantAckLocked(true)
		}
	}
}

// Next appends the next frames to dst, as many as its capacity holds, and returns it: frames without
// credit first, then ACKs, then DATA of each stream in turn. It returns dst unchanged when there is nothing
// to send. cap(dst)−len(dst) must be at least HeaderLen + MaxPayload.
func (s *Session) Next(dst []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return dst
	}
	start := len(dst)
	dst = s.nextControlLocked(dst)
	for s.queue.len() > 0 && cap(dst)-len(dst) >= proto.HeaderLen+minData {
		st := s.queue.pop()
		st.queued = false
		if !st.ackAt.IsZero() { // the record goes anyway: one less later
			dst = st.ackLocked(dst)
		}
		dst = st.nextLocked(dst)
		st.queueLocked()
	}
	if len(dst) > start && s.active.IsZero() {
		s.active = s.now
	}
	if s.queue.len() > 0 || len(s.control) > 0 {
		s.signal()
	}
	return dst
}

// fifo is a queue of streams that keeps its memory.
type fifo struct {
	streams []*Stream
	head    int
}

func (q *fifo) len() int { return len(q.streams) - q.head }

func (q *fifo) push(st *Stream) {
	if len(q.streams) == cap(q.streams) && q.head > len(q.streams)/2 {
		n := copy(q.streams, q.streams[q.head:])
		clear(q.streams[n:])
		q.streams, q.head = q.streams[:n], 0
	}
	q.streams = append(q.streams, st)
}

func (q *fifo) pop() *Stream {
	st := q.streams[q.head]
	q.streams[q.head] = nil
	if q.head++; q.head == len(q.streams) {
		q.streams, q.head = q.streams[:0], 0
	}
	return st
}

// minData is the least room for which a DATA frame is begun.
const minData = 1024

func (s *Session) nextControlLocked(dst []byte) []byte {
	if s.pongs {
		s.pongs = false
		dst = s.message(dst, 0, &proto.Pong{Token: s.pongToken})
	}
	if s.wantPing {
		s.wantPing = false
		if s.pinged.IsZero() {
			s.pinged = s.now
			s.pingToken++
			dst = s.message(dst, 0, &proto.Ping{Token: s.pingToken})
		}
	}
	n := wholeFrames(s.control, cap(dst)-len(dst))
	dst = append(dst, s.control[:n]...)
	if s.control = s.control[n:]; len(s.control) == 0 {
		s.control = nil
	}
	return s.nextAcksLocked(dst)
}

// wholeFrames returns the length of as many frames of b as fit into room.
func wholeFrames(b []byte, room int) (n int) {
	for len(b) > n {
		h, err := proto.ParseHeader(b[n:])
		if err != nil {
			panic("BUG: a frame of our own does not parse: " + err.Error())
		}
		next := n + proto.HeaderLen + int(h.Length)
		if next > room {
			break
		}
		n = next
	}
	return n
}

func (s *Session) nextAcksLocked(dst []byte) []byte {
	rest := s.acks[:0]
	for _, st := range s.acks {
		switch {
		case st.state == over, st.ackAt.IsZero():
			st.inAcks = false
		case st.ackAt.After(s.now) || cap(dst)-len(dst) < proto.HeaderLen+8:
			rest = append(rest, st)
		default:
			st.inAcks = false
			dst = st.ackLocked(dst)
		}
	}
	clear(s.acks[len(rest):])
	s.acks = rest
	return dst
}

func (st *Stream) ackLocked(dst []byte) []byte {
	st.ackAt = time.Time{}
	if limit := st.recvRead + st.window; st.finAt < 0 && limit > st.recvLimit {
		st.recvLimit = limit
	}
	st.ackedNext, st.ackedLimit = st.recvNext, st.recvLimit
	var flags uint8
	if st.finAt >= 0 {
		flags, st.ackFin = flagFin, true
	}
	dst = appendAck(dst, st.id, flags, st.recvNext, st.recvLimit)
	st.maybeRemoveLocked()
	return dst
}

// nextLocked appends one frame of the stream.
func (st *Stream) nextLocked(dst []byte) []byte {
	if st.state == over || !st.sendableLocked() {
		return dst
	}
	left := st.sendEnd() - st.sendNext
	if n := min(left, st.sendLimit-st.sendNext); n > 0 && st.state == open && !(st.rstQueued && !st.s.now.Before(st.rstUntil)) {
		n = min(n, proto.MaxPayload, uint64(cap(dst)-len(dst)-proto.HeaderLen))
		h := proto.Header{Type: proto.TypeData, Length: uint16(n), Stream: st.id, Offset: st.sendNext}
		dst = st.send.peek(h.Append(dst), int(st.sendNext-st.sendAcked), int(n))
		st.sendNext += n
		if n < left || !st.rstQueued && !st.finQueued {
			return dst
		}
		if cap(dst)-len(dst) < proto.HeaderLen {
			return dst
		}
	}
	if st.rstQueued {
		dst = header(dst, proto.TypeRst, 0, st.id, st.sendNext)
		st.failLocked(errReset)
		st.removeLocked()
		return dst
	}
	if st.finQueued && !st.finSent && st.sendEnd() == st.sendNext {
		st.finSent = true
		dst = header(dst, proto.TypeFin, 0, st.id, st.sendNext)
	}
	return dst
}
