package page

import (
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab/figures"
)

func TestMigratePage(t *testing.T) {
	f := figures.New("make bench-migrate", "kernel")
	for _, rtt := range []string{"15", "80"} {
		for i, kind := range []string{"none", "planned", "reset", "silent"} {
			d := []time.Duration{time.Duration(i+1) * time.Millisecond, time.Duration(i+3) * time.Millisecond}
			f.Add(figures.Times("stall", "ms", "", d).Label("kind", kind).Label("agents", "10").Label("rtt_ms", rtt).AtMost(100))
		}
	}
	f.Add(
		figures.Times("many.last", "ms", "", []time.Duration{time.Second}).Label("sessions", "2000").Label("world", "kernel"),
		figures.Skip("many.last", "ms", "", "a quick run leaves it out").Label("sessions", "10000").Label("world", "memory"),
		figures.Count("bytes.lost", "ms", "", 0, 1000).AtMost(0),
	)
	p := Migrate(f, Fact{"Dwell", "0"})
	if len(p.Sections[0].Charts) != 2 || len(p.Sections[0].Charts[0].Groups) != 2 || len(p.Sections[0].Charts[0].Groups[0].Bars) != 3 {
		t.Errorf("the stalls: %+v", p.Sections[0].Charts)
	}
	var out strings.Builder
	if err := p.Render(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"10 agents at once, 80 ms round trip", "not run: a quick run leaves it out", "bytes.lost", "2000 sessions", "Dwell", "not run: no such figure"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}
