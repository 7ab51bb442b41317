package session

import (
	"time"

	"migrationsensor/proto"
)

// moveLocked has our direction of the stream written on l from now on, from the last byte that was acknowledged; nil: it
// waits for a link.
func (st *Stream) moveLocked(l *Link) {
	s := st.s
	if st.link != nil {
		st.link.streams--
		s.orphans++
	}
	st.link = l
	st.queued, st.inAcks, st.ackAt = false, false, time.Time{}
	st.sendNext, st.finSent, st.rstSent = st.sendAcked, st.finAcked, false
	if l == nil {
		return
	}
	l.streams++
	s.orphans--
	if st.rstQueued && st.state != resetting { // it had no time to send what came before
		st.rstUntil = time.Time{}
	}
	switch {
	case st.state == opening && !s.cfg.Server && !st.rstQueued:
		l.control = proto.AppendMessage(l.control, &proto.Open{Credit: uint32(st.first), Service: st.service}, st.id)
		l.signal()
	case st.state == open:
		if s.cfg.Server && !st.known { // the answer may have been lost with the link before, and DATA must not come first
			st.answerLocked(&proto.OpenOK{Credit: uint32(st.first)})
		}
		st.here = true
		st.wantAckLocked(true)
	case st.state == failed:
		st.answerLocked(st.openErr.message())
	}
	st.queueLocked()
}

// queueLocked puts the stream into the queue of those with something to send.
func (st *Stream) queueLocked() {
	if st.queued || st.link == nil || !st.sendableLocked() {
		return
	}
	st.queued = true
	st.link.queue.push(st)
	st.link.signal()
}

// limitLocked is the offset up to which may be sent: the peer's credit, and not far ahead of what is known to have come
// while a RESUME is not answered.
func (st *Stream) limitLocked() uint64 {
	if st.link != nil && st.link.state == resuming {
		return min(st.sendLimit, st.sendAcked+resumeAhead)
	}
	return st.sendLimit
}

func (st *Stream) sendableLocked() bool {
	switch st.state {
	case opening:
		return st.rstQueued
	case over, failed:
		return false
	}
	left := st.sendEnd() - st.sendNext
	switch {
	case st.rstSent:
		return false
	case left > 0 && st.sendNext < st.limitLocked():
		return true
	case st.rstQueued:
		return left == 0 || st.lateLocked()
	}
	return left == 0 && st.finQueued && !st.finSent
}

// wantAckLocked decides when what was received is acknowledged: at once if it is much, or the window
// nearly closed, or the stream's end; else after 25 ms, so that one ACK serves many frames.
func (st *Stream) wantAckLocked(now bool) {
	l := st.link
	if st.state != open || l == nil {
		return
	}
	if !st.inAcks {
		st.inAcks = true
		l.acks = append(l.acks, st)
	}
	step := min(ackBytes, st.window/4)
	if now || st.recvNext-st.ackedNext >= step || st.recvLimit-st.ackedLimit >= step {
		st.ackAt = st.s.now
		l.signal()
		return
	}
	if st.ackAt.IsZero() {
		st.ackAt = st.s.now.Add(ackDelay)
		l.signal() // the pump learns of the new time to wake
	}
}

// grantLocked gives new credit for what was read, and a larger window to a reader that keeps up.
func (st *Stream) grantLocked() {
	if st.finAt >= 0 || st.state != open {
		return // nothing more will come
	}
	s := st.s
	if grow := min(st.window, uint64(s.cfg.MaxWindow)-min(st.window, uint64(s.cfg.MaxWindow))); grow > 0 &&
		st.recvRead-st.grownAt >= st.window/2 && st.recv.n <= int(st.window/8) && s.grown+int(grow) <= s.cfg.MaxSession/2 &&
		s.cfg.Budget.Take(int(grow)) {
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
func (l *Link) Next(dst []byte) []byte {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.err != nil || l.state == old && s.cfg.Server {
		return dst
	}
	if l.last != nil && len(l.control) == 0 {
		l.endLocked(l.last)
		return dst
	}
	if s.ending == l && len(l.control) == 0 { // asked for more, so what was before is written
		s.closeLocked(nil)
		return dst
	}
	start := len(dst)
	dst = l.nextControlLocked(dst)
	if s.ending == l {
		l.signal()
		return dst
	}
	for len(l.control) == 0 && l.queue.len() > 0 && cap(dst)-len(dst) >= proto.HeaderLen+minData {
		st := l.queue.pop()
		if st.link != l {
			continue // moved
		}
		st.queued = false
		if !st.ackAt.IsZero() { // the record goes anyway: one less later
			dst = st.ackLocked(dst)
		}
		dst = st.nextLocked(dst)
		st.queueLocked()
	}
	if len(l.control) == 0 && l.queue.len() == 0 && l.paddingLocked() && cap(dst)-len(dst) >= proto.HeaderLen+minData {
		dst = l.padLocked(dst)
	}
	if l.pongs || l.wantPing || l.last != nil || l.paddingLocked() {
		l.signal() // there was no room
	}
	if len(dst) > start && l.active.IsZero() {
		l.active = s.now
	}
	if l.queue.len() > 0 || len(l.control) > 0 {
		l.signal()
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

// pingLen is the size of a PING or PONG.
const pingLen = proto.HeaderLen + 8

// minData is the least room for which a DATA frame is begun.
const minData = 1024

func (l *Link) nextControlLocked(dst []byte) []byte {
	n := wholeFrames(l.control, cap(dst)-len(dst))
	dst = append(dst, l.control[:n]...)
	if l.control = l.control[n:]; len(l.control) > 0 {
		return dst // nothing overtakes them: a table comes whole, and an answer before what follows it
	}
	l.control = nil
	if room := cap(dst) - len(dst); room < 2*pingLen {
		return dst
	}
	if l.pongs {
		l.pongs = false
		dst = proto.AppendMessage(dst, &proto.Pong{Token: l.pongToken}, 0)
	}
	if l.wantPing {
		l.wantPing = false
		if l.pinged.IsZero() {
			l.pinged = l.s.now
			l.pingToken++
			dst = proto.AppendMessage(dst, &proto.Ping{Token: l.pingToken}, 0)
		}
	}
	return l.nextAcksLocked(dst)
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

func (l *Link) nextAcksLocked(dst []byte) []byte {
	rest := l.acks[:0]
	for _, st := range l.acks {
		switch {
		case st.link != l: // moved
		case st.state != open, st.ackAt.IsZero():
			st.inAcks = false
		case st.ackAt.After(l.s.now) || cap(dst)-len(dst) < proto.HeaderLen+8:
			rest = append(rest, st)
		default:
			st.inAcks = false
			dst = st.ackLocked(dst)
		}
	}
	clear(l.acks[len(rest):])
	l.acks = rest
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
	if st.here {
		flags |= flagHere
		st.here = false
	}
	dst = appendAck(dst, st.id, flags, st.recvNext, st.recvLimit)
	st.maybeRemoveLocked()
	return dst
}

// lateLocked reports whether a reset has waited long enough for the bytes before it. The time counts from the first look at
// it with a link.
func (st *Stream) lateLocked() bool { return !st.rstUntil.IsZero() && !st.s.now.Before(st.rstUntil) }

// nextLocked appends one frame of the stream, or its last bytes and its end.
func (st *Stream) nextLocked(dst []byte) []byte {
	if !st.sendableLocked() {
		return dst
	}
	left := st.sendEnd() - st.sendNext
	late := st.rstQueued && st.lateLocked() && st.state != resetting
	if n := min(left, st.limitLocked()-min(st.sendNext, st.limitLocked())); n > 0 && st.state != opening && !late {
		n = min(n, proto.MaxPayload, uint64(cap(dst)-len(dst)-proto.HeaderLen))
		h := proto.Header{Type: proto.TypeData, Length: uint16(n), Stream: st.id, Offset: st.sendNext}
		dst = st.send.peek(h.Append(dst), int(st.sendNext-st.sendAcked), int(n))
		st.sendNext += n
		st.sentMax = max(st.sentMax, st.sendNext)
		if n < left || !st.rstQueued && !st.finQueued {
			return dst
		}
		if cap(dst)-len(dst) < proto.HeaderLen {
			return dst
		}
	}
	if st.rstQueued {
		st.rstSent = true
		dst = header(dst, proto.TypeRst, 0, st.id, st.sendNext)
		st.buryLocked(resetting)
		return dst
	}
	if st.finQueued && !st.finSent && st.sendEnd() == st.sendNext {
		st.finSent, st.finEver = true, true
		dst = header(dst, proto.TypeFin, 0, st.id, st.sendNext)
	}
	return dst
}
