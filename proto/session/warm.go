package session

import (
	"fmt"

	"migrationsensor/proto"
)

// Sizes of warming (ours).
const (
	warmFirst = 10 << 10 // the first round: a little less than what TCP sends at once at first
	warmMost  = 2 << 20  // of a round, and of what an anchor owes an agent
)

// warming is what a link carries before streams do, so that its connection is as fast as the one they leave. TCP doubles
// what it has under way with each round trip, and only where that is used: so there are rounds of PADs, each of twice the
// bytes of the last.
type warming struct {
	pads int // bytes of PADs to write

	// an agent's
	up, down int           // bytes of the last round
	round    int           // of this one, at most
	ask      int           // bytes that the next PAD asks for
	last     bool          // this round's last PAD is not written
	waits    int           // bytes that are to come in this round
	done     chan struct{} // closed after the last round
}

// Warm sends and asks for bytes that nobody needs, until up and down of them have crossed the link in one round trip. It is
// an agent's, for a link that Attach made and that is confirmed. The channel is closed when that is done; a link that ends
// before, or is one of the set no more, leaves it open.
func (l *Link) Warm(up, down int) <-chan struct{} {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.warming = warming{up: min(up, warmMost), down: min(down, warmMost), round: warmFirst, done: make(chan struct{})}
	if l.err == nil && l.state == live {
		l.roundLocked()
	}
	return l.warming.done
}

// roundLocked begins a round. Its last PAD asks for one byte more, so that it ends when all have come.
func (l *Link) roundLocked() {
	w := &l.warming
	w.pads, w.ask, w.last = min(w.up, w.round), min(w.down, w.round), true
	w.waits = w.ask + 1
	l.signal()
}

func (l *Link) paddingLocked() bool { return l.warming.pads > 0 || l.warming.last }

// padLocked appends a PAD, for which there must be room.
func (l *Link) padLocked(dst []byte) []byte {
	w := &l.warming
	n := min(w.pads, proto.MaxPayload, cap(dst)-len(dst)-proto.HeaderLen)
	w.pads -= n
	ask := w.ask
	w.ask = 0
	if w.last && w.pads == 0 {
		w.last = false
		ask++
	}
	dst = proto.Header{Type: proto.TypePad, Length: uint16(n), Offset: uint64(ask)}.Append(dst)
	return append(dst, make([]byte, n)...)
}

// handlePadLocked takes a PAD: an anchor owes what it asks for, an agent counts what has come.
func (l *Link) handlePadLocked(h proto.Header, payload []byte) error {
	w := &l.warming
	switch {
	case h.Stream != 0 || h.Flags != 0 || h.Offset > warmMost+1 || h.Offset > 0 && !l.s.cfg.Server:
		return fmt.Errorf("PAD of stream %d with flags %#x that asks for %d bytes: %w", h.Stream, h.Flags, h.Offset, ErrProtocol)
	case l.s.cfg.Server:
		w.pads = min(w.pads+int(h.Offset), warmMost+1)
		l.signal()
		return nil
	case w.waits == 0:
		return nil
	}
	if w.waits = max(w.waits-len(payload), 0); w.waits > 0 {
		return nil
	}
	if w.round < max(w.up, w.down) {
		w.round *= 2
		l.roundLocked()
		return nil
	}
	close(w.done)
	return nil
}
