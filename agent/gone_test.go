package agent

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

var (
	anchorAway = &proto.Reply{Kind: proto.ReplyRetry, After: 100 * time.Millisecond}
	anchorDead = &proto.Reply{Kind: proto.ReplyReject, Code: proto.RejectAnchor}
)

// TestAnchorIsGivenUp when all that answer have said for long that it is gone, or two have.
func TestAnchorIsGivenUp(t *testing.T) {
	dead, away := &link.SealedError{Reply: *anchorDead}, &link.SealedError{Reply: *anchorAway}
	p1, p2 := proto.NodeID{1}, proto.NodeID{2}
	type said struct {
		edge proto.NodeID
		err  error
		at   time.Duration
	}
	for _, tt := range []struct {
		rule string
		said []said
		want bool
	}{
		{"nothing was heard", nil, false},
		{"one edge, once", []said{{p1, dead, 0}}, false},
		{"one edge, almost long enough", []said{{p1, dead, 0}, {p1, dead, goneFor - 1}}, false},
		{"one edge, long enough", []said{{p1, dead, 0}, {p1, dead, goneFor}}, true},
		{"two edges", []said{{p1, dead, 0}, {p2, dead, 0}}, true},
		{"a flap at the other edge", []said{{p1, dead, 0}, {p2, away, time.Second}, {p1, dead, goneFor}}, false},
		{"it answered in between", []said{{p1, dead, 0}, {p1, nil, time.Second}, {p1, dead, goneFor}}, false},
		{"a silent edge says nothing about it", []said{{p1, dead, 0}, {p2, link.ErrSilent, time.Second}, {p1, dead, goneFor}}, true},
		{"told as one of several", []said{{p1, errors.Join(link.ErrSilent, dead), 0}, {p2, dead, 0}}, true},
	} {
		start, now := time.Now(), time.Duration(0)
		var g gone
		for _, s := range tt.said {
			g.hear(s.edge, s.err, start.Add(s.at))
			now = s.at
		}
		if got := g.over(start.Add(now)); got != tt.want {
			t.Errorf("%s: given up %v, want %v", tt.rule, got, tt.want)
		}
	}
}

// TestF33DeadAnchor: its streams are reset as soon as two edges say that it is gone, and new ones go to the next anchor.
func TestF33DeadAnchor(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(false)
	a1, a2 := f.anchor(), f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	c := r.mustDial()
	echo(t, c, "before")
	if a1.opened() != 1 {
		t.Fatalf("%d OPENs at the first anchor", a1.opened())
	}
	allLose(a1, anchorAway, p1, p2)
	r.eventually("it waits", func() bool { return len(r.Status().Sessions) > 0 && r.Status().Sessions[0].State == "waiting" })
	p1.loses(a1, nil)
	p2.loses(a1, nil)
	echo(t, c, "it was a flap")
	allLose(a1, anchorDead, p1, p2)
	c.SetDeadline(time.Now().Add(testWait))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset and never a clean end", err)
	}
	r.eventually("said so", r.event("streams ended", "is gone, as 2 proxies say"))
	c = r.mustDial()
	echo(t, c, "after")
	c.Close()
	if a1.opened() != 1 || a2.opened() != 1 {
		t.Errorf("%d OPENs at the first anchor, %d at the next; want one each", a1.opened(), a2.opened())
	}
}

// TestF33OneEdgeSaysSo: what only one edge says is not believed at once for streams that there are; new ones take the
// next anchor without waiting.
func TestF33OneEdgeSaysSo(t *testing.T) {
	f := newFleet(t, "fleet")
	p1 := f.edge(false)
	a1, a2 := f.anchor(), f.anchor()
	r := f.on(newWires(), func(*Agent) {})
	old := r.mustDial()
	echo(t, old, "before")
	p1.loses(a1, anchorDead)
	r.eventually("the link is lost", r.event("link lost", ""))
	began := time.Now()
	c := r.mustDial()
	echo(t, c, "a new stream")
	c.Close()
	if took := time.Since(began); took > goneFor/2 || a2.opened() != 1 {
		t.Errorf("%d OPENs at the next anchor, after %v; want one at once", a2.opened(), took)
	}
	p1.loses(a1, nil)
	echo(t, old, "the edge was wrong")
	old.Close()
	if a1.opened() != 1 {
		t.Errorf("%d OPENs at the first anchor", a1.opened())
	}
}
