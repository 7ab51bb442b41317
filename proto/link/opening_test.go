package link

import (
	"testing"

	"migrationsensor/proto"
)

func TestOneAgentsOpeningLinksCountLittle(t *testing.T) {
	a := &Acceptor{}
	var ends []func()
	for range 10 {
		ends = append(ends, a.opening.begin(proto.AgentID{1}))
	}
	ends = append(ends, a.opening.begin(proto.AgentID{2}))
	if n := a.Opening(); n != openingEach+1 {
		t.Errorf("%d count as opening, want %d of the first agent and 1 of the second", n, openingEach)
	}
	for _, end := range ends {
		end()
		end() // twice is once
	}
	if n := a.Opening(); n != 0 || len(a.opening.own) != 0 {
		t.Errorf("%d are left of nothing, of %d agents", n, len(a.opening.own))
	}
}
