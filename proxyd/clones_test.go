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
