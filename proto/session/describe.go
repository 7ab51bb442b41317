package session

import (
	"fmt"
	"strings"
)

// Describe tells where the session, its links and its streams stand, line by line, for a report of a connection that stands
// still. Offsets are of both directions; nothing of what was carried is in it.
func (s *Session) Describe() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var w strings.Builder
	fmt.Fprintf(&w, "session %x: server %v, epoch %d, %d streams, %d without a link, ended: %v\n", s.id, s.cfg.Server, s.epoch, len(s.streams), s.orphans, s.err)
	number := make(map[*Link]int, len(s.links))
	for i, l := range s.links {
		number[l] = i + 1
		fmt.Fprintf(&w, "  link %d: state %d, epoch %d, %d streams, %d with something to send, %d bytes of control, heard %v ago, PING under way %v\n",
			i+1, l.state, l.epoch, l.streams, l.queue.len(), len(l.control), s.now.Sub(l.heard), !l.pinged.IsZero())
	}
	for _, st := range s.sortedLocked() {
		fmt.Fprintf(&w, "  stream %d: state %d, link %d, queued %v; sends: acked %d, next %d, credit to %d, %d held, end %v/%v/%v; receives: next %d, read %d, granted to %d, told %d and %d, end at %d\n",
			st.id, st.state, number[st.link], st.queued, st.sendAcked, st.sendNext, st.sendLimit, st.send.n, st.finQueued, st.finSent, st.finAcked,
			st.recvNext, st.recvRead, st.recvLimit, st.ackedNext, st.ackedLimit, st.finAt)
	}
	return w.String()
}
