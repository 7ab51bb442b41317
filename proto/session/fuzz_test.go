package session

import (
	"testing"
	"time"

	"migrationsensor/proto"
)

// consistent fails if a session's sums are not those of its streams.
func consistent(t testing.TB, s *Session) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	dead, orphans, held, granted := 0, 0, 0, 0
	on := map[*Link]int{}
	for id, st := range s.streams {
		if st.id != id || st.state == over {
			t.Errorf("stream %d listed as %d in state %d", st.id, id, st.state)
		}
		if st.state == resetting || st.state == failed {
			dead++
		} else {
			granted += st.first
		}
		if st.link == nil {
			orphans++
		}
		on[st.link]++
		held += st.send.n
		if st.sendAcked > st.sendNext || st.sendNext > st.sentMax || st.state == open && st.sentMax > st.sendEnd() || st.recvRead > st.recvNext || st.recvNext > st.recvLimit {
			t.Errorf("stream %d: acked %d, next %d, max %d, end %d; read %d, received %d, limit %d", id,
				st.sendAcked, st.sendNext, st.sentMax, st.sendEnd(), st.recvRead, st.recvNext, st.recvLimit)
		}
	}
	if dead != s.dead || orphans != s.orphans || held != s.held || granted != s.granted {
		t.Errorf("counted %d dead, %d without a link, %d held, %d granted; it says %d, %d, %d, %d", dead, orphans, held, granted, s.dead, s.orphans, s.held, s.granted)
	}
	for _, l := range s.links {
		if l.streams != on[l] || l.err != nil {
			t.Errorf("%d streams on a link that says %d (%v)", on[l], l.streams, l.err)
		}
	}
}

func frames(ms ...[]byte) (out []byte) {
	for _, m := range ms {
		out = append(out, m...)
	}
	return out
}

// FuzzHandle gives a session whatever a peer may send; the first byte says which end it is.
func FuzzHandle(f *testing.F) {
	id := proto.SessionID{1}
	ask := proto.AppendMessage(nil, &proto.Open{Credit: 1000, Service: "web1"}, 1)
	seed := func(b ...[]byte) { f.Add(frames(b...)) }
	resume := func(epoch uint32, streams ...proto.ResumeStream) []byte {
		return proto.AppendMessage(nil, &proto.Resume{Session: id, Epoch: epoch, Streams: streams}, 0)
	}
	seed([]byte{0}, ask)
	seed([]byte{0}, ask, data(1, 0, []byte("x")), header(nil, proto.TypeFin, 0, 1, 1), appendAck(nil, 1, flagFin, 4, 100))
	seed([]byte{0}, ask, resume(1, proto.ResumeStream{ID: 1, State: proto.StreamOpen, Credit: 1000}, proto.ResumeStream{ID: 2, State: proto.StreamOpening}), ask)
	seed([]byte{0}, ask, header(nil, proto.TypeRst, 0, 1, 0), resume(2), resume(1))
	seed([]byte{0}, pad(3, 20_000), ask, resume(1), pad(0, 1))
	seed([]byte{2}, pad(5, 0), pad(0, 1))
	seed([]byte{1}, proto.AppendMessage(nil, &proto.SessionOK{ID: id, Credit: 1000}, 0), proto.AppendMessage(nil, &proto.OpenOK{Credit: 10}, 1),
		data(1, 0, []byte("x")), appendAck(nil, 1, 0, 3, 100))
	seed([]byte{2}, proto.AppendMessage(nil, &proto.ResumeOK{Epoch: 1, Streams: []proto.ResumeStream{{ID: 1, State: proto.StreamOpen, Received: 1, Credit: 9}}}, 0))
	seed([]byte{2}, proto.AppendMessage(nil, &proto.ResumeFail{Code: proto.ResumeExpired}, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		now := time.Unix(1_800_000_000, 0)
		var s *Session
		var l *Link
		if b[0] == 0 {
			s = New(Config{Server: true, ID: id, Accept: func(st *Stream, name string) {
				if len(name)%2 == 0 {
					st.AcceptOK()
					st.Write([]byte("hello"))
				} else {
					st.Fail(proto.OpenRefused, "")
				}
			}})
			l = liveLink(s)
		} else {
			s = New(Config{})
			l = s.Ask()
			st, _ := s.Begin("web")
			if b[0] == 2 {
				s.mu.Lock()
				s.id, st.state, st.sendLimit = id, open, 1000
				s.mu.Unlock()
				st.Write([]byte("hello"))
				l.Next(make([]byte, 0, 64<<10))
				l = s.Resume()
			}
		}
		out := make([]byte, 0, 64<<10)
		for b = b[1:]; len(b) >= proto.HeaderLen; {
			h, err := proto.ParseHeader(b)
			if err != nil {
				return
			}
			b = b[proto.HeaderLen:]
			n := min(int(h.Length), len(b))
			err = l.Handle(h, b[:n], now)
			consistent(t, s)
			if err != nil {
				return
			}
			b = b[n:]
			l.Next(out)
			now = now.Add(time.Millisecond)
			l.Advance(now)
			consistent(t, s)
		}
	})
}
