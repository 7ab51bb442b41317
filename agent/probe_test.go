package agent

import (
	"testing"
)

func TestProbeEachRewritesTheDestination(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(true)
	r := joined2(t, f, ProbeEach)
	r.eventually("at P1", r.at(p1))
	for i, step := range []struct {
		to   *testEdge
		want [2]int
	}{{nil, [2]int{1, 0}}, {p2, [2]int{2, 1}}, {nil, [2]int{3, 1}}} { // the second OPEN at P1 is given up when the probe sends on
		p1.transferTo(step.to, r.enrolled().id.Agent)
		c := r.mustDial()
		echo(t, c, "x")
		c.Close()
		if got := [2]int{p1.opened(), p2.opened()}; got != step.want {
			t.Errorf("step %d: OPENs at P1 and P2 %v, want %v: every connection asks P1 and goes where it says", i, got, step.want)
		}
	}
	r.eventually("links of ended connections are closed", func() bool { return len(r.Status().Links) == 2 })
	if got := r.Status().Counts.Transfers; got != 1 {
		t.Errorf("%d transfers, want 1", got)
	}
}

func TestForgetBeginsAtTheEntries(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(true)
	r := joined2(t, f, ProbeWarm)
	r.eventually("at P1", r.at(p1))
	p1.transferTo(p2, r.enrolled().id.Agent)
	if err := r.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := r.mustDial() // waits for the new session, which P1 sends on to P2
	echo(t, old, "x")
	if got := [2]int{p1.opened(), p2.opened()}; got != [2]int{0, 1} {
		t.Errorf("OPENs at P1 and P2 %v: a connection right after must not use what was forgotten", got)
	}
	r.eventually("at P2, remembered", func() bool { return r.at(p2)() && r.enrolled().Current != nil })
	p1.transferTo(nil, r.enrolled().id.Agent)
	if err := r.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := r.enrolled(); e.Current != nil && e.Current.Node == p2.id {
		t.Error("P2 is still remembered")
	}
	fresh := r.mustDial()
	echo(t, fresh, "y")
	echo(t, old, "still") // what runs finishes where it is
	if p1.opened() != 1 {
		t.Errorf("%d OPENs at P1, want the fresh connection's", p1.opened())
	}
	old.Close()
	fresh.Close()
	r.eventually("the forgotten proxy's links end with their streams", func() bool { return len(p2.acc.Links()) == 0 })
}
