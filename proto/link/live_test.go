package link

import (
	"io"
	"testing"
	"time"

	"migrationsensor/proto"
)

func TestCloseDataLeavesControlLinks(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	n := f.node(nil)
	d := &Dialer{Creds: creds}
	var links [2]*Link
	for i, kind := range []proto.Kind{proto.KindControl, proto.KindData} {
		l, err := d.Dial(t.Context(), n.target(id), kind, n.id)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ping(t, l)
		links[i] = l
	}
	if got := n.DataLinks(); got != 1 || len(n.Links()) != 2 {
		t.Errorf("%d data links of %d, want 1 of 2", got, len(n.Links()))
	}
	if got := n.LinksOf(id); got != 2 {
		t.Errorf("%d links of the agent, want 2", got)
	}
	if got := n.CloseData(); got != 1 {
		t.Errorf("closed %d, want the data link", got)
	}
	links[1].SetDeadline(time.Now().Add(patience))
	if _, err := links[1].Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the data link ends with %v, want a reset", err)
	}
	ping(t, links[0])
	until(t, "the data link is forgotten", func() bool { return n.DataLinks() == 0 && len(n.Links()) == 1 && n.LinksOf(id) == 1 })
}
