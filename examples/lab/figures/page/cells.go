package page

import (
	"slices"
	"strings"

	"migrationsensor/examples/lab/figures"
)

// cell is one row of a table: a figure and the one it is compared with.
type cell struct {
	label, system string
	base          bool // it is what others are compared with
	figure        *figures.Figure
	against       *figures.Figure // nil for a base
}

// row is a group of cells.
type row struct {
	name  string
	cells []cell
}

// published are the paper's two cells, if the file has them.
func (d *deck) published(k key) []cell {
	k = k.of("published")
	if !d.has(k) {
		return nil
	}
	without, with := d.take(k.with("client", "without")), d.take(k.with("client", "with"))
	return []cell{
		{"published, without", "published", true, without, nil},
		{"published, with", "published", false, with, without},
	}
}

// measured are the cells of this run: the base, then the systems, each with its kinds of memory.
func (d *deck) measured(k key, base string, systems ...string) []cell {
	b := d.take(k.of(base))
	list := []cell{{base, base, true, b, nil}}
	for _, s := range systems {
		for _, m := range d.memories(k.of(s)) {
			list = append(list, cell{m.label, s, false, d.take(m.key), b})
		}
	}
	return list
}

type memory struct {
	label string
	key   key
}

// memories are the rows of a system: the one without that label, and "fresh" and "remembers" where
// it was measured so. There is at least one, and if it has no figure that is what it says.
func (d *deck) memories(k key) []memory {
	var list []memory
	values := d.values(k, "memory")
	if none := k.with("memory", ""); len(values) == 0 || d.has(none) {
		list = append(list, memory{k.system, none})
	}
	for _, v := range values {
		list = append(list, memory{k.system + ", " + v, k.with("memory", v)})
	}
	return list
}

// times is the chart of the milliseconds as the paper gives them: mean, standard deviation, median.
func times(title string, rows []row) Chart {
	c := Chart{Title: title, Unit: "ms", Bar: "mean", Whisker: "mean ± SD", Mark: "median"}
	for _, r := range rows {
		g := Group{Name: r.name}
		for _, x := range r.cells {
			g.Bars = append(g.Bars, timeBar(x))
		}
		c.Groups = append(c.Groups, g)
	}
	return c
}

func timeBar(x cell) Bar {
	b := Bar{Label: x.label, System: x.system, Faint: x.base, Missing: missing(x.figure)}
	if b.Missing != "" {
		return b
	}
	f := x.figure
	b.Value, b.N = new(mean(f)), f.N
	if s := f.Spread; s != nil {
		b.Whisker, b.Mark = &Range{s.Mean - s.SD, s.Mean + s.SD}, f.Value
		b.Detail = "SD " + decimals(s.SD, 1)
		if s.P95 > 0 { // a published figure has none
			b.Detail += ", p95 " + decimals(s.P95, 1) + ", p99 " + decimals(s.P99, 1) + ", max " + decimals(s.Max, 1)
		}
	} else {
		b.Detail = "median only"
	}
	if x.against != nil && missing(x.against) == "" && mean(x.against) > 0 {
		b.Ratio = new(mean(f) / mean(x.against))
	}
	return b
}

// overheads is the chart of the percentages, each over its own base.
func overheads(title string, rows []row) Chart {
	c := Chart{Title: title, Unit: "percent", Bar: "by means", Whisker: "95 % interval", Mark: "by medians"}
	for _, r := range rows {
		g := Group{Name: r.name}
		for _, x := range r.cells {
			if !x.base {
				g.Bars = append(g.Bars, overheadBar(x))
			}
		}
		if len(g.Bars) > 0 {
			c.Groups = append(c.Groups, g)
		}
	}
	return c
}

func overheadBar(x cell) Bar {
	b := Bar{Label: strings.TrimSuffix(x.label, ", with"), System: x.system, Missing: missing(x.figure)}
	switch m := missing(x.against); {
	case b.Missing != "":
		return b
	case m != "":
		b.Missing = "no base to compare with; base " + m
		return b
	case mean(x.against) <= 0:
		b.Missing = "no base to compare with: it is zero"
		return b
	}
	b.Value, b.N = new(change(mean(x.figure), mean(x.against))), x.figure.N
	b.Whisker = interval(x.figure, x.against)
	if x.figure.Spread != nil && x.against.Spread != nil && *x.against.Value > 0 {
		b.Mark = new(change(*x.figure.Value, *x.against.Value))
	}
	return b
}

// shares is the chart of Table 5: how many of the attempts succeed, without and with retries.
func (d *deck) shares(title string, k key, ps []string, systems []string, published bool) Chart {
	c := Chart{Title: title, Unit: "share", Bar: "one try", Whisker: "95 % interval", Mark: "2 retries"}
	for _, p := range ps {
		k := k.with("p", p)
		g := Group{Name: "p = " + p}
		if x := (key{id: k.id, system: "published", when: k.when, labels: labels{"p": p}}); published && d.has(x) {
			g.Bars = append(g.Bars, d.shareBar("published", x))
		}
		for _, s := range systems {
			for _, m := range d.memories(k.of(s)) {
				g.Bars = append(g.Bars, d.shareBar(m.label, m.key))
			}
		}
		c.Groups = append(c.Groups, g)
	}
	return c
}

func (d *deck) shareBar(label string, k key) Bar {
	if k.system == "published" { // the paper does not say how often its user retried
		return shareOf(label, k.system, d.take(k))
	}
	b := shareOf(label, k.system, d.take(k.with("retries", "0")))
	if f := d.take(k.with("retries", "2")); f != nil {
		if m := missing(f); m != "" {
			b.Detail = join(b.Detail, "2 retries "+m)
		} else {
			b.Mark = f.Value
			b.Detail = join(b.Detail, "2 retries: n "+count(f.N))
		}
	}
	return b
}

func shareOf(label, system string, f *figures.Figure) Bar {
	b := Bar{Label: label, System: system, Missing: missing(f)}
	if b.Missing == "" {
		b.Value, b.N = f.Value, f.N
		if system != "published" { // the paper does not give its number of trials
			b.Whisker = wilson(*f.Value, f.N)
		}
	}
	return b
}

// countOf is a bar of a number of things.
func countOf(label, system string, f *figures.Figure) Bar {
	b := shareOf(label, system, f)
	b.Whisker = nil
	return b
}

func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}
