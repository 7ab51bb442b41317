package agent

import (
	"strings"
	"testing"
	"time"

	"migrationsensor/proto"
)

func TestMigrationsJudged(t *testing.T) {
	here, there := proto.NodeID{1}, proto.NodeID{2}
	to := []proto.Target{{Node: there}}
	now := time.Now()
	for _, tt := range []struct {
		rule   string
		m      proto.Migrate
		moving bool
		moved  int
		why    string
	}{
		{"a new one is obeyed", proto.Migrate{ID: proto.MigrateID{Edge: here, Counter: 6}, Targets: to}, false, 0, ""},
		{"a newer one counts while moving", proto.Migrate{ID: proto.MigrateID{Edge: here, Counter: 6}, Targets: to}, true, 0, ""},
		{"the same once more, after it failed", proto.Migrate{ID: proto.MigrateID{Edge: here, Counter: 5}, Targets: to}, false, 0, ""},
		{"the same while moving", proto.Migrate{ID: proto.MigrateID{Edge: here, Counter: 5}, Targets: to}, true, 0, "under way"},
		{"older", proto.Migrate{ID: proto.MigrateID{Edge: here, Counter: 4}, Targets: to}, false, 0, "older"},
		{"another edge's", proto.Migrate{ID: proto.MigrateID{Edge: there, Counter: 9}, Targets: to}, false, 0, "current one"},
		{"nowhere to go", proto.Migrate{ID: proto.MigrateID{Edge: here, Counter: 6}}, false, 0, "no target"},
		{"too many moves", proto.Migrate{ID: proto.MigrateID{Edge: here, Counter: 6}, Targets: to}, false, 16, "enough"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			v := moves{max: 16}
			if ok, why := v.judge(&proto.Migrate{ID: proto.MigrateID{Edge: here, Counter: 5}, Targets: to}, here, false, now); !ok {
				t.Fatal(why)
			}
			for range tt.moved {
				v.done(now)
			}
			ok, why := v.judge(&tt.m, here, tt.moving, now)
			if ok != (tt.why == "") || !strings.Contains(why, tt.why) {
				t.Errorf("got %v %q, want %q", ok, why, tt.why)
			}
			if later := now.Add(movesWindow + time.Second); tt.moved > 0 {
				if ok, why := v.judge(&tt.m, here, false, later); !ok {
					t.Errorf("moves that long ago no longer count, got %q", why)
				}
			}
		})
	}
}

// TestF40Loop: P1 → P2 → P1, both attacked. Each move waits for the dwell, their number is bounded, and then the agent
// stays where it is.
func TestF40Loop(t *testing.T) {
	p := [2]proto.NodeID{{1}, {2}}
	v := moves{dwell: 3 * time.Second, max: 16}
	now, at, made := time.Now(), 0, 0
	for n := range 200 { // both name each other, all the time
		m := &proto.Migrate{ID: proto.MigrateID{Edge: p[at], Counter: uint64(n)}, Targets: []proto.Target{{Node: p[1-at]}}}
		ok, why := v.judge(m, p[at], false, now)
		if !ok {
			if !strings.Contains(why, "enough") || made != 16 {
				t.Fatalf("after %d moves: %q", made, why)
			}
			return
		}
		wait := v.wait(m, now)
		if made > 0 && wait != v.dwell {
			t.Fatalf("move %d waits %v, want the dwell", made, wait)
		}
		now = now.Add(wait)
		v.done(now)
		at, made = 1-at, made+1
	}
	t.Errorf("%d moves, and no end", made)
}

// TestF43Flapping: a detector that says attack and no attack every 3 s moves an agent at most 16 times in ten minutes,
// whenever they begin.
func TestF43Flapping(t *testing.T) {
	p := [2]proto.NodeID{{1}, {2}}
	v := moves{dwell: 3 * time.Second, max: 16}
	start, at := time.Now(), 0
	var done []time.Time
	for n := range 600 { // half an hour
		now := start.Add(time.Duration(n) * 3 * time.Second)
		m := &proto.Migrate{ID: proto.MigrateID{Edge: p[at], Counter: uint64(n)}, Targets: []proto.Target{{Node: p[1-at]}}}
		if ok, _ := v.judge(m, p[at], false, now); ok {
			now = now.Add(v.wait(m, now))
			v.done(now)
			done, at = append(done, now), 1-at
		}
	}
	for i := range done {
		if i >= 16 && done[i].Sub(done[i-16]) < movesWindow {
			t.Errorf("moves %d to %d are within %v", i-16, i, done[i].Sub(done[i-16]))
		}
	}
	if len(done) < 32 {
		t.Errorf("%d moves in half an hour: old ones count for ever", len(done))
	}
}

func TestMoveWaits(t *testing.T) {
	now := time.Now()
	v := moves{dwell: 3 * time.Second}
	if d := v.wait(&proto.Migrate{}, now); d != 0 {
		t.Errorf("first move without a spread waits %v", d)
	}
	for range 100 {
		if d := v.wait(&proto.Migrate{StartAfter: time.Second}, now); d < 0 || d >= time.Second {
			t.Fatalf("waits %v, want within the spread of 1 s", d)
		}
	}
	v.done(now)
	if d := v.wait(&proto.Migrate{}, now.Add(time.Second)); d != 2*time.Second {
		t.Errorf("waits %v, want what is left of the dwell, 2 s", d)
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	for i := range 40 {
		if d := b.next(); d < 0 || d >= min(firstBackoff<<min(i, 20), maxBackoff) {
			t.Errorf("wait %d is %v", i, d)
		}
	}
	b.reset()
	if d := b.next(); d >= firstBackoff {
		t.Errorf("after a success: %v", d)
	}
}
