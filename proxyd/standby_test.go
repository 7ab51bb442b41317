package proxyd

import (
	"testing"

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
