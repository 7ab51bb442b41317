package session

import (
	"testing"
	"time"

	"migrationsensor/proto"
)

func FuzzHandle(f *testing.F) {
	f.Add(proto.AppendMessage(nil, &proto.Open{Service: "web"}, 1))
	f.Add(append(proto.AppendMessage(nil, &proto.Open{Service: "web"}, 1), 0x13, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 'x'))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := New(Config{Server: true, Accept: func(st *Stream, name string) {
			if len(name)%2 == 0 {
				st.AcceptOK()
			} else {
				st.Fail(proto.OpenRefused, "")
			}
		}})
		l := liveLink(s)
		now := time.Unix(1_800_000_000, 0)
		out := make([]byte, 0, 64<<10)
		for len(b) >= proto.HeaderLen {
			h, err := proto.ParseHeader(b)
			if err != nil {
				return
			}
			b = b[proto.HeaderLen:]
			n := min(int(h.Length), len(b))
			if l.Handle(h, b[:n], now) != nil {
				return
			}
			b = b[n:]
			l.Next(out)
			now = now.Add(time.Millisecond)
			l.Advance(now)
		}
	})
}
