package page

import (
	"cmp"
	"slices"
	"strconv"

	"migrationsensor/examples/lab/figures"
)

// Edge is the page of an edge under a flood of SYNs. Figures that no chart has a place for stand in a table at the end.
func Edge(f *figures.File, about ...Fact) Page {
	d := newDeck(f)
	p := Page{
		Title: "An edge under a flood of SYNs",
		Lead:  "One processor, one link that clients and flood share: who still gets in, how fast, and what a SYN costs, by what Linux has today and by Migration Sensor.",
		Systems: []System{
			{"backlog", "the kernel without SYN cookies, 128 half-open connections"}, {"syncookies", "the kernel's SYN cookies before a plain proxy"},
			{"synproxy", "nftables' synproxy before a plain proxy"}, {"haproxy", "haproxy on the kernel's SYN cookies"},
			{"ms", "ours, by data path and share of SYNs that is answered"},
		},
	}
	for _, x := range []struct {
		id    string
		chart Chart
		note  string
	}{
		{"success.connect", Chart{Title: "Who gets in", Unit: "share", Bar: "share", Whisker: "95 % interval"}, "An ordinary client has its answer within three seconds; an agent that never saw this edge has its link to the next one."},
		{"success.second", Chart{Title: "Who is connected within one second", Unit: "share", Bar: "share", Whisker: "95 % interval"}, ""},
		{"connect", Chart{Title: "Until connected, milliseconds", Unit: "ms", Bar: "median", Whisker: "least to p95", Mark: "p95"}, "An agent counts as connected when the sealed TRANSFER is verified."},
		{"goodput", Chart{Title: "Downloads through the attacked edge", Unit: "Mbit/s", Bar: "Mbit/s"}, "The 760 KB file, one after the other. Agents do not download through an attacked edge: see below."},
		{"ring.lost", Chart{Title: "What the edge's ring had no room for", Unit: "share", Bar: "share"}, "Of all that was sent, packets of clients too."},
	} {
		s := Section{Title: x.chart.Title, Note: keep(x.note)}
		c := x.chart
		c.Title = "By the flood's rate"
		c.Groups = d.byRate(x.id)
		if len(c.Groups) > 0 {
			s.Charts = []Chart{c}
			p.Sections = append(p.Sections, s)
		}
	}
	p.Sections = append(p.Sections, d.sentOn(), d.prices())
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

// byRate are the figures of one id under floods: a group for each rate and kind, a bar for each system.
func (d *deck) byRate(id string) (groups []Group) {
	all := key{id: id, when: "flood"}
	rates := d.values(all, "rate")
	slices.SortFunc(rates, func(a, b string) int { return cmp.Compare(rateOf(a), rateOf(b)) })
	for _, rate := range rates {
		for _, kind := range d.values(all.with("rate", rate), "kind") {
			g := Group{Name: rate + " SYN/s, " + kind}
			if rate == "max" {
				g.Name = "the most this machine makes, " + kind
			}
			for i, f := range d.all {
				if f.ID != id || f.When != "flood" || f.Labels["rate"] != rate || f.Labels["kind"] != kind {
					continue
				}
				d.used[i] = true
				g.Bars = append(g.Bars, floodBar(&d.all[i]))
			}
			groups = append(groups, g)
		}
	}
	return groups
}

func rateOf(s string) int {
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	return 1 << 30 // the most
}

func floodBar(f *figures.Figure) Bar {
	b := Bar{Label: f.System, System: f.System, N: f.N, Missing: missing(f)}
	if path := f.Labels["path"]; path != "" {
		b.Label = path + " " + f.Labels["p"] + " " + f.Labels["syn"]
	}
	if b.Missing != "" {
		return b
	}
	b.Value = f.Value
	switch {
	case f.Unit == "share" && f.N > 1:
		b.Whisker = wilson(*f.Value, f.N)
	case f.Spread != nil:
		b.Whisker, b.Mark = &Range{f.Min, f.P95}, &f.P95
		b.Detail = "p99 " + number(f.Unit, f.P99) + ", most " + number(f.Unit, f.Max)
	}
	return b
}

// sentOn are the downloads of agents that are not at the attacked edge any more.
func (d *deck) sentOn() Section {
	s := Section{Title: "Agents that were sent on", Note: []string{
		"A real agent downloads the file again and again: in peace, and once the edge that it was at is flooded as hard as this machine can and it has been sent to the next one.",
	}}
	c := Chart{Title: "Goodput", Unit: "Mbit/s", Bar: "Mbit/s"}
	for _, path := range d.values(key{id: "goodput", when: "moved"}, "path") {
		g := Group{Name: path}
		for _, when := range []string{"peace", "moved"} {
			b := valueBar(when, d.take(key{id: "goodput", when: when}.with("path", path)))
			b.Faint = when == "peace"
			g.Bars = append(g.Bars, b)
		}
		c.Groups = append(c.Groups, g)
	}
	if len(c.Groups) > 0 {
		s.Charts = []Chart{c}
	}
	return s
}

// prices are what a SYN costs.
func (d *deck) prices() Section {
	c := Chart{Title: "Nanoseconds of one processor", Unit: "ns", Bar: "median"}
	for _, kind := range d.values(key{id: "cpu.syn"}, "kind") {
		g := Group{Name: kind}
		for i, f := range d.all {
			if f.ID != "cpu.syn" || f.Labels["kind"] != kind {
				continue
			}
			d.used[i] = true
			b := floodBar(&d.all[i])
			if path := f.Labels["path"]; path != "" {
				b.Label = path
			}
			g.Bars = append(g.Bars, b)
		}
		c.Groups = append(c.Groups, g)
	}
	s := Section{Title: "What a SYN costs", Note: []string{
		"Processor time for each SYN that arrives, the answer included, by kind of flood: fresh random sources; with 76 random bytes; with a valid proof that was replayed.",
	}}
	if len(c.Groups) > 0 {
		s.Charts = []Chart{c}
	}
	return s
}
