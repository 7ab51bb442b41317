package session

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"migrationsensor/proto"
)

// pad is a PAD of n bytes that asks for others.
func pad(n, asks int) []byte {
	h := proto.Header{Type: proto.TypePad, Length: uint16(n), Offset: uint64(asks)}
	return append(h.Append(nil), make([]byte, n)...)
}

// attached is an agent's session with one more link, taken in, which the test has before it.
func attached(t *testing.T) *wireTest {
	t.Helper()
	w := &wireTest{t: t, s: New(Config{}), now: time.Unix(1_800_000_000, 0)}
	w.l = w.s.Ask()
	w.mustSend(sessionOK())
	w.l = w.s.Attach()
	w.want("it asks", "type 0x3")
	w.mustSend(proto.AppendMessage(nil, &proto.AttachOK{}, 0))
	return w
}

// pads sums up what is sent: bytes of PADs, bytes that they ask for, and what else there is.
func (w *wireTest) pads() (n, asks int, others []string) {
	for _, f := range w.sent() {
		var k, a int
		if _, err := fmt.Sscanf(f, "PAD of %d, asks for %d", &k, &a); err != nil {
			others = append(others, f)
		}
		n, asks = n+k, asks+a
	}
	return n, asks, others
}

// TestWarmingDoubles: each round has twice the bytes of the last, up to what was asked for each way, and begins when all of
// the last have come.
func TestWarmingDoubles(t *testing.T) {
	w := attached(t)
	warm := w.l.Warm(70<<10, 30<<10)
	for i, want := range [][2]int{{10 << 10, 10<<10 + 1}, {20 << 10, 20<<10 + 1}, {40 << 10, 30<<10 + 1}, {70 << 10, 30<<10 + 1}} {
		n, asks, others := w.pads()
		if n != want[0] || asks != want[1] || others != nil {
			t.Fatalf("round %d: %d bytes, asks for %d, and %q; want %d and %d", i, n, asks, others, want[0], want[1])
		}
		for left := asks; left > 0; left -= min(left, proto.MaxPayload) {
			select {
			case <-warm:
				t.Fatalf("round %d: warm with %d bytes to come", i, left)
			default:
			}
			if n, asks, _ := w.pads(); n+asks > 0 {
				t.Fatalf("round %d: the next has begun with %d bytes to come", i, left)
			}
			w.mustSend(pad(min(left, proto.MaxPayload), 0))
		}
	}
	select {
	case <-warm:
	default:
		t.Error("not warm after the last round")
	}
	w.want("and no more")
}

// TestWarmingOneWay asks for one byte only, to know when its own have come.
func TestWarmingOneWay(t *testing.T) {
	w := attached(t)
	w.l.Warm(1000, 0)
	w.want("up only", "PAD of 1000, asks for 1")
}

// TestPadsComeLast, since nobody waits for them.
func TestPadsComeLast(t *testing.T) {
	w, st := serverWith(t, Config{})
	w.mustSend(pad(0, 20_000))
	st.Write([]byte("hello"))
	got := w.sent()
	if n := len(got); n < 3 || got[0] != "DATA 1 at 0, 5" || slices.ContainsFunc(got[1:], func(f string) bool { return !strings.HasPrefix(f, "PAD") }) {
		t.Errorf("sent [%s], want DATA and then PADs", strings.Join(got, "; "))
	}
}

// TestOwesNoMore than one round, however often an agent asks.
func TestOwesNoMore(t *testing.T) {
	w, _ := serverWith(t, Config{})
	for range 10 {
		w.mustSend(pad(0, warmMost+1))
	}
	if n, _, _ := w.pads(); n != warmMost+1 {
		t.Errorf("%d bytes, want %d", n, warmMost+1)
	}
}

// TestAnchorAsksForNothing: PADs are an agent's to ask for.
func TestAnchorAsksForNothing(t *testing.T) {
	w := attached(t)
	if err := w.send(pad(0, 1)); err == nil {
		t.Error("an agent owes nothing")
	}
}

// TestMoveStopsPads at both ends: what was asked for before RESUME is not sent after it.
func TestMoveStopsPads(t *testing.T) {
	w := attached(t)
	w.l.Warm(1<<20, 1<<20)
	w.l.Resume()
	w.want("the agent's", "type 0x5")

	w, _ = serverWith(t, Config{})
	w.mustSend(pad(0, 1<<20))
	w.mustSend(proto.AppendMessage(nil, &proto.Resume{Session: w.s.ID(), Epoch: 1, Streams: []proto.ResumeStream{{ID: 1, State: proto.StreamOpen, Credit: 1}}}, 0))
	w.want("the anchor's", "type 0x6")
}

// TestWarmAfterTheEnd neither sends nor waits for anything.
func TestWarmAfterTheEnd(t *testing.T) {
	w := attached(t)
	old := w.l
	w.l = w.s.Resume()
	w.sent()
	select {
	case <-old.Warm(1000, 1000):
		t.Error("warm without a byte")
	default:
	}
	w.l = old
	w.want("an old link is not written")
}
