package agent

import (
	"slices"
	"strings"
	"testing"

	"migrationsensor/proto"
)

func TestNoticesOfTheProxyBecomeEvents(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(false)
	r := joined2(t, f, ProbeWarm)
	r.eventually("control link", func() bool { return p1.links() == 1 })
	seen := func(what, detail string) func() bool {
		return func() bool {
			return slices.ContainsFunc(r.Status().Events, func(e Event) bool {
				return e.What == what && strings.Contains(e.Detail, detail)
			})
		}
	}
	p1.say(&proto.EnrolFail{Reason: "the signing node does not know this agent"}, false)
	r.eventually("the refused renewal is an event", seen("certificate not renewed", "does not know this agent"))
	p1.say(&proto.GoAway{Reason: "maintenance"}, false)
	r.eventually("that P1 will stop is an event", seen("goaway", "maintenance"))
	r.eventually("the agent goes to the other entry", r.at(p2))
}
