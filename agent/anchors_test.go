package agent

import (
	"slices"
	"testing"
	"time"

	"migrationsensor/proto"
)

func TestAnchorIsChosen(t *testing.T) {
	a1, a2, edge, other := proto.NodeID{1}, proto.NodeID{2}, proto.NodeID{3}, proto.NodeID{4}
	now := time.Now()
	for _, tt := range []struct {
		rule     string
		declared []proto.NodeID
		attacked []proto.NodeID
		failed   map[proto.NodeID]int
		want     proto.NodeID
	}{
		{"the first declared", []proto.NodeID{a1, a2}, nil, nil, a1},
		{"none declared: the edge itself", nil, nil, nil, edge},
		{"the edge itself comes last", []proto.NodeID{edge, other}, nil, nil, other},
		{"the edge itself, if there is no other", []proto.NodeID{edge}, nil, nil, edge},
		{"not one under attack", []proto.NodeID{a1, a2}, []proto.NodeID{a1}, nil, a2},
		{"rather the edge itself than one under attack", []proto.NodeID{other, edge}, []proto.NodeID{other}, nil, edge},
		{"all are under attack, and none is the edge: the first", []proto.NodeID{a1, a2}, []proto.NodeID{a1, a2}, nil, a1},
		{"one failure is not enough", []proto.NodeID{a1, a2}, nil, map[proto.NodeID]int{a1: 1}, a1},
		{"one that does not answer is passed over", []proto.NodeID{a1, a2}, nil, map[proto.NodeID]int{a1: anchorTries}, a2},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			var c choice
			c.declare([]proto.CatalogueService{{Name: "web", Anchors: tt.declared}})
			for _, n := range tt.attacked {
				c.attack(n, now)
			}
			for n, times := range tt.failed {
				for range times {
					c.answered(n, false, now)
				}
			}
			if got := c.anchor("web", edge, now.Add(attackedFor-time.Second)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if len(tt.attacked)+len(tt.failed) > 0 {
				first := tt.declared[0]
				if got := c.anchor("web", edge, now.Add(attackedFor)); got != first {
					t.Errorf("a minute later: got %s, want the first again", got)
				}
			}
		})
	}
}

func TestServicesShareAnAnchorsSession(t *testing.T) {
	a1, a2, edge := proto.NodeID{1}, proto.NodeID{2}, proto.NodeID{3}
	var c choice
	c.declare([]proto.CatalogueService{{Name: "a", Anchors: []proto.NodeID{a1}}, {Name: "b", Anchors: []proto.NodeID{a2, a1}}, {Name: "c", Anchors: []proto.NodeID{a1, a2}}})
	c.choose(edge, time.Now())
	if got := c.wanted(); !slices.Equal(got, []proto.NodeID{a1, a2}) {
		t.Errorf("wanted %v, want one session for each anchor, the first service's first", got)
	}
	c.answered(a1, false, time.Now())
	c.answered(a1, true, time.Now())
	c.answered(a1, false, time.Now())
	if c.isFailed(a1, time.Now()) {
		t.Error("failures count in a row only")
	}
}

func TestPoolIsSizedFromUse(t *testing.T) {
	now := time.Now()
	var p pool
	for _, step := range []struct {
		why           string
		have, streams int
		bytes         uint64
		after         time.Duration
		want          int
	}{
		{"at least one", 0, 0, 0, 0, 1},
		{"32 streams are for one link", 1, 32, 0, time.Second, 1},
		{"33 are not", 1, 33, 0, time.Second, 2},
		{"four at most", 2, 1000, 0, time.Second, 4},
		{"what was needed is kept for minutes", 4, 0, 0, time.Second, 4},
		{"and then let go", 4, 0, 0, poolIdle, 3},
		{"one at a time", 3, 0, 0, time.Second, 3},
		{"again", 3, 0, 0, poolIdle, 2},
		{"again", 2, 0, 0, poolIdle, 1},
		{"never less than one", 1, 0, 0, poolIdle, 1},
		{"heavy, but one stream can't use two links", 1, 1, 1 << 30, time.Second, 1},
		{"heavy, and two streams", 1, 2, 2 << 30, time.Second, 2},
		{"no more links than streams", 2, 2, 4 << 30, time.Second, 2},
		{"not heavy", 2, 4, 4<<30 + 1000, time.Second, 2},
	} {
		now = now.Add(step.after)
		if got := p.size(step.have, step.streams, step.bytes, now); got != step.want {
			t.Errorf("%s: %d links, want %d", step.why, got, step.want)
		}
	}
}
