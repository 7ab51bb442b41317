package page

import (
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab/figures"
)

func TestEdgePage(t *testing.T) {
	f := figures.New("make bench-edge", "kernel")
	took := []time.Duration{time.Millisecond, 3 * time.Millisecond}
	for _, rate := range []string{"max", "1000", "100000"} {
		for _, system := range []string{"backlog", "syncookies", "synproxy", "haproxy"} {
			f.Add(figures.Times("connect", system, "flood", took).Label("rate", rate).Label("kind", "fresh"))
		}
		f.Add(figures.Times("connect", "ms", "flood", took).Label("rate", rate).Label("kind", "fresh").Label("path", "xdp-native").Label("p", "budget").Label("syn", "keyed"))
	}
	f.Add(
		figures.Share("success.connect", "ms", "flood", 9, 10).Label("rate", "max").Label("kind", "replay").Label("path", "af_packet").Label("p", "0.25").Label("syn", "plain"),
		figures.Skip("cpu.syn", "haproxy", "", "no haproxy here").Label("kind", "fresh"),
		figures.Skip("goodput", "ms", "peace", "not asked for").Label("path", "xdp-native"),
		figures.Skip("goodput", "ms", "moved", "not asked for").Label("path", "xdp-native"),
		figures.Count("sessions.lost", "ms", "moved", 0, 10).AtMost(0),
	)
	p := Edge(f, Fact{"Link", "one"})
	i := 0
	for p.Sections[i].Title != "Until connected, milliseconds" {
		i++
	}
	groups := p.Sections[i].Charts[0].Groups
	if len(groups) != 3 || groups[0].Name != "1000 SYN/s, fresh" || groups[2].Name != "the most this machine makes, fresh" || len(groups[0].Bars) != 5 {
		t.Errorf("groups %+v, want the slowest flood first, every system in each", groups)
	}
	var out strings.Builder
	if err := p.Render(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"xdp-native budget keyed", "af_packet 0.25 plain", "not run: no haproxy here", "sessions.lost", "Goals of the run"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}
