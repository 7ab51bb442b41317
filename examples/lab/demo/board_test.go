package demo

import (
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab/fleet"
)

func TestBoardTellsChangesOnce(t *testing.T) {
	b := newBoard()
	b.proxies = []*proxyView{{Name: "p1", Kind: "entry"}}
	now := time.Now()
	for range 3 {
		b.saw("p1", fleet.ProxyStatus{State: "active", Since: now})
	}
	b.saw("p1", fleet.ProxyStatus{State: "defending", Since: now.Add(time.Second), Why: "syn 5000/s > 1250/s"})
	s := b.snapshot()
	if len(s.Events) != 2 || s.Events[1].Text != "p1 is defending: syn 5000/s > 1250/s" {
		t.Errorf("events %+v, want one for each change of state", s.Events)
	}
	if _, ok := b.reached("p1", now.Add(time.Millisecond), "active"); ok {
		t.Error("an earlier stay in a state counts as a later one")
	}
	if at, ok := b.reached("p1", now, "defending", "suspended"); !ok || !at.Equal(now.Add(time.Second)) {
		t.Errorf("defending since %v %v, want the proxy's own time", at, ok)
	}
}

func TestScreenShowsWhoServesAndWhoFails(t *testing.T) {
	b := newBoard()
	b.proxies = []*proxyView{{Name: "p1", Kind: "entry"}, {Name: "p2", Kind: "hidden"}}
	c := &clientView{Name: "agent", System: "ms"}
	plain := &clientView{Name: "plain", System: "plain", ServedBy: "p1"}
	b.clients = []*clientView{c, plain}
	b.enter(phaseFlood, "flood: 5000 syn packets/s on P1")
	b.saw("p1", fleet.ProxyStatus{State: "defending", Rates: map[string]float64{"all": 5123}})
	st := fleet.AgentStatus{State: "connected"}
	st.Edge = &struct {
		Node, Addr string
		Since      time.Time
	}{Addr: "198.18.72.93:7443"}
	b.sawAgent(c, st, fleet.NameOf)
	b.add(c, fleet.Sample{When: phaseFlood, Connected: true, Whole: true, Connect: 15500 * time.Microsecond, Total: 90 * time.Millisecond})
	b.add(plain, fleet.Sample{When: phaseFlood, Err: "timed out"})
	text := draw(b.snapshot())
	for _, want := range []string{"flood: 5000 syn", "defending", "5123", "does not answer", "15.5 ms", "90 ms", "agent is served by p2"} {
		if !strings.Contains(text, want) {
			t.Errorf("the screen lacks %q:\n%s", want, text)
		}
	}
	line := figuresLine(b.snapshot())
	for _, want := range []string{"p1 defending 5123/s", "agent 1/1 15.5 ms via p2", "plain 0/1"} {
		if !strings.Contains(line, want) {
			t.Errorf("the line lacks %q: %s", want, line)
		}
	}
}
