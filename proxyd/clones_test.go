package proxyd

import (
	"testing"
	"time"

	"migrationsensor/proto"
)

// TestClonesAreNoticed by boot ids that come back, and said once (F18).
func TestClonesAreNoticed(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	agent, other := proto.AgentID{1}, proto.AgentID{2}
	var c clones
	for _, tc := range []struct {
		why   string
		agent proto.AgentID
		boot  uint64
		after time.Duration
		want  bool
	}{
		{"first", agent, 1, 0, false},
		{"a second link of the same start", agent, 1, time.Second, false},
		{"started again", agent, 2, time.Second, false},
		{"another agent's id is no matter", other, 1, time.Second, false},
		{"the first one again: two machines", agent, 1, time.Second, true},
		{"and again: said already", agent, 2, time.Second, false},
		{"after the window it is said again", agent, 1, 9 * time.Minute, false},
		{"as they still take turns", agent, 2, 9 * time.Minute, true},
	} {
		at = at.Add(tc.after)
		if got := c.seen(tc.agent, tc.boot, at); got != tc.want {
			t.Errorf("%s: alarm %v, want %v", tc.why, got, tc.want)
		}
	}
}

func TestClonesAreBounded(t *testing.T) {
	var c clones
	for i := range maxBoots + 1000 {
		c.seen(proto.AgentID{byte(i), byte(i >> 8), byte(i >> 16)}, 1, time.Unix(0, 0))
	}
	if n := len(c.boots); n > maxBoots {
		t.Errorf("%d agents remembered, at most %d", n, maxBoots)
	}
}

// TestCloneAlarm: two machines with one identity show in the status of the edge they come to (F18).
func TestCloneAlarm(t *testing.T) {
	w := newWorld(t)
	c := w.enrol()
	for _, boot := range []uint64{1, 2, 1} {
		c.boot = boot
		l, said := c.control(c.entry, false)
		if err := proto.WriteMessage(l, &proto.Ping{Token: boot}); err != nil {
			t.Fatal(err)
		}
		c.next(said) // PONG: the one before has been taken
	}
	w.eventually("the alarm is counted", func() bool { return w.nodes["p1"].Status().Counts["clones"] == 1 })
}
