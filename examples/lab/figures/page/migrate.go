package page

import (
	"fmt"

	"migrationsensor/examples/lab/figures"
)

// Migrate is the page of what connections feel of a move. Figures that no chart has a place for stand in a table at the end.
func Migrate(f *figures.File, about ...Fact) Page {
	d := newDeck(f)
	p := Page{
		Title:   "What a connection feels of a move",
		Lead:    "Connections that run while their proxy is left: by a planned move, because all its links were reset, because it fell silent. Every byte of each is compared.",
		Systems: []System{{"ms", "ours; none is the same measurement without an event: what the machine does by itself"}},
		Sections: []Section{
			d.stalls(), d.throughput(), d.many(), d.weights(),
		},
	}
	goals, met := d.goals()
	p.Facts = append(facts(f, len(goals.Rows), met, nil), about...)
	if len(goals.Rows) > 0 {
		p.Sections = append(p.Sections, Section{Title: "Goals of the run", Table: goals})
	}
	if rest := d.rest(); rest != nil {
		p.Sections = append(p.Sections, Section{Title: "The other figures of the run", Table: rest})
	}
	return p
}

// stalls has a chart of short stalls and one of those after silence: on one scale the short ones would not be seen.
func (d *deck) stalls() Section {
	s := Section{Title: "The stall", Note: []string{
		"The longest wait between two echoes of a connection that sends 32 bytes each 10 ms, less those 10 ms. The bar is the median of all connections, which are moved at once, some agents or many; the line reaches from the least to the 99th percentile.",
	}}
	k := key{id: "stall", system: "ms"}
	for _, c := range []struct {
		title string
		kinds []string
	}{
		{"Planned and reset, milliseconds", []string{"none", "planned", "reset"}},
		{"Silent, milliseconds", []string{"silent"}},
	} {
		chart := Chart{Title: c.title, Unit: "ms", Bar: "median", Whisker: "least to p99", Mark: "p99"}
		for _, agents := range d.values(k, "agents") {
			for _, rtt := range d.values(k.with("agents", agents), "rtt_ms") {
				g := Group{Name: agents + " agents at once, " + rtt + " ms round trip"}
				for _, kind := range c.kinds {
					if x := k.with("agents", agents).with("rtt_ms", rtt).with("kind", kind); d.has(x) {
						g.Bars = append(g.Bars, stallBar(kind, d.take(x)))
					}
				}
				if len(g.Bars) > 0 {
					chart.Groups = append(chart.Groups, g)
				}
			}
		}
		if len(chart.Groups) > 0 {
			s.Charts = append(s.Charts, chart)
		}
	}
	return s
}

func stallBar(label string, f *figures.Figure) Bar {
	b := Bar{Label: label, System: "ms", Faint: label == "none", N: f.N, Missing: missing(f)}
	if b.Missing != "" {
		return b
	}
	b.Value = f.Value
	if f.Spread != nil {
		b.Whisker, b.Mark = &Range{f.Min, f.P99}, &f.P99
		b.Detail = fmt.Sprintf("p95 %s, most %s", number(f.Unit, f.P95), number(f.Unit, f.Max))
	}
	return b
}

func valueBar(label string, f *figures.Figure) Bar {
	b := Bar{Label: label, System: "ms", Missing: missing(f)}
	if f != nil {
		b.N = f.N
	}
	if b.Missing == "" {
		b.Value = f.Value
	}
	return b
}

func (d *deck) throughput() Section {
	s := Section{Title: "Throughput through moves", Note: []string{
		"One connection sends and receives at once and compares digests of both directions, while its session is led from proxy to proxy; the same without moves, before and after, is its base.",
	}}
	k := key{id: "throughput", system: "ms"}
	c := Chart{Title: "Both directions together", Unit: "MB/s", Bar: "MB/s"}
	g := Group{Name: "moves during the transfer"}
	for _, moves := range d.values(k, "moves") {
		g.Bars = append(g.Bars, valueBar(moves, d.take(k.with("moves", moves))))
	}
	if len(g.Bars) == 0 {
		g.Bars = []Bar{valueBar("transfer", d.take(key{id: "throughput.ratio", system: "ms"}))}
	}
	c.Groups = []Group{g}
	s.Charts = []Chart{c}
	return s
}

func (d *deck) many() Section {
	s := Section{Title: "Many sessions at once", Note: []string{
		"All sessions of a proxy are told to move at the same moment. Last is when the last of them had its data link at the next proxy; the stall is that of the connections that were watched.",
	}}
	for _, x := range []struct{ id, title string }{
		{"many.last", "Until the last session has moved, milliseconds"}, {"many.stall", "The stall, milliseconds"},
	} {
		k := key{id: x.id, system: "ms"}
		c := Chart{Title: x.title, Unit: "ms", Bar: "median"}
		if x.id == "many.stall" {
			c.Whisker, c.Mark = "least to p99", "p99"
		}
		for _, world := range d.values(k, "world") {
			g := Group{Name: "the lab, world: " + world}
			for _, n := range d.values(k.with("world", world), "sessions") {
				f := d.take(k.with("world", world).with("sessions", n))
				if x.id == "many.stall" {
					g.Bars = append(g.Bars, stallBar(n+" sessions", f))
				} else {
					g.Bars = append(g.Bars, valueBar(n+" sessions", f))
				}
			}
			c.Groups = append(c.Groups, g)
		}
		if len(c.Groups) > 0 {
			s.Charts = append(s.Charts, c)
		}
	}
	return s
}

func (d *deck) weights() Section {
	s := Section{Title: "Memory of what is idle", Note: []string{
		"What a process has more with idle sessions than without, and with idle streams of them than without, divided by their number. Agents: heap and stacks after a collection. Proxy and anchor: the resident process, garbage included.",
	}}
	c := Chart{Title: "One of them", Unit: "KiB", Bar: "KiB"}
	for _, what := range []string{"session", "stream"} {
		g := Group{Name: "an idle " + what}
		for _, at := range []string{"agent", "edge", "anchor"} {
			g.Bars = append(g.Bars, valueBar(at, d.take(key{id: "memory." + what, system: "ms"}.with("at", at))))
		}
		c.Groups = append(c.Groups, g)
	}
	s.Charts = []Chart{c}
	return s
}
