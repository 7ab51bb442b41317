package proxyd

import (
	"strings"
	"testing"
	"time"

	"migrationsensor/proto"
)

// TestStandbyIsToldAhead where the fleet wants it, counted as disclosed; by default nothing is told ahead.
func TestStandbyIsToldAhead(t *testing.T) {
	for _, rescue := range []string{"", RescueStandby} {
		t.Run("rescue="+rescue, func(t *testing.T) {
			w := newWorld(t, func(c *Config) {
				if c.Fleet != "" {
					c.Rescue = rescue
				}
			})
			c := w.enrol()
			w.eventually("p2 gave its key", func() bool { return w.nodes["p1"].edge.informer.Replacement() })
			l, said := c.control(c.entry, false)
			if err := proto.WriteMessage(l, &proto.Ping{Token: 1}); err != nil {
				t.Fatal(err)
			}
			m := c.next(said)
			ahead, told := m.(*proto.Standby)
			if told != (rescue == RescueStandby) {
				t.Fatalf("got %T", m)
			}
			if told && (len(ahead.Targets) != 1 || ahead.Targets[0].Node != w.node("p2").ID) {
				t.Errorf("told %+v, want p2", ahead.Targets)
			}
			if n := w.nodes["p1"].Status().Disclosed["p2"]; (n == 1) != told {
				t.Errorf("%d agents counted as told", n)
			}
		})
	}
}

// TestWhoStandsByLearnsNothing: an agent that only keeps a warm control link to an attacked edge is told no hidden
// address, and the edge waits for nobody; once it is the current one the agent is told at once.
func TestWhoStandsByLearnsNothing(t *testing.T) {
	w := newWorld(t)
	c := w.enrol()
	p1 := w.nodes["p1"]
	w.eventually("p2 gave its key", func() bool { return p1.edge.informer.Replacement() })
	l, said := c.controlLink(c.entry, false, false)
	w.eventually("it is listed as standing by", func() bool {
		a := p1.Agents()
		return len(a) == 1 && a[0].StandsBy
	})
	w.hosts["p1"].attack(true)
	w.becomes("p1", Suspended) // nobody is here that would have to move
	if err := proto.WriteMessage(l, &proto.Ping{Token: 1}); err != nil {
		t.Fatal(err)
	}
	if m := c.next(said); m.Type() != proto.TypePong {
		t.Fatalf("got %T, want the answer to PING and nothing before it", m)
	}
	if st := p1.Status(); st.Disclosed["p2"] != 0 || st.Agents != 0 || st.Counts["migrate"] != 0 {
		t.Errorf("%d agents were told P2, %d connected, %d migrated; want none", st.Disclosed["p2"], st.Agents, st.Counts["migrate"])
	}
	if err := p1.Move(t.Context(), MoveRequest{Agents: []string{c.id.String()}}, func(MoveProgress) {}); err == nil || !strings.Contains(err.Error(), "stands by") {
		t.Errorf("asked to move it: %v", err)
	}
	c.boots(l, true)
	if m, ok := c.next(said).(*proto.Migrate); !ok || m.Targets[0].Node != w.node("p2").ID {
		t.Errorf("got %+v, want a MIGRATE to P2", m)
	}
}

// TestDeadControlLinkIsNotWaitedFor: an agent that came back on a new control link, its path having changed, has left the
// old one, though nothing was ever heard of that.
func TestDeadControlLinkIsNotWaitedFor(t *testing.T) {
	w := newWorld(t)
	c := w.enrol()
	w.eventually("p2 gave its key", func() bool { return w.nodes["p1"].edge.informer.Replacement() })
	_, dead := c.control(c.entry, false) // the agent has given it up, and the edge can't know
	control, said := c.control(c.entry, false)
	for range dead { // it is ended
	}
	moved, done := w.ask("p1", MoveRequest{All: true, Wait: Duration{time.Minute}})
	m, ok := c.next(said).(*proto.Migrate)
	if !ok {
		t.Fatalf("got %+v, want a MIGRATE", m)
	}
	control.Close()
	if last := w.over(moved, done); last.Agents != 1 || last.Gone != 1 {
		t.Errorf("%+v, want one agent, gone", last)
	}
}
