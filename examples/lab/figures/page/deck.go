package page

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	"migrationsensor/examples/lab/figures"
)

// labels are those that a figure must have.
type labels map[string]string

// deck hands out the figures of a file and remembers which were drawn, so that the page can list
// the others: no figure is left out of it.
type deck struct {
	all  []figures.Figure
	used []bool
}

func newDeck(f *figures.File) *deck {
	return &deck{f.Figures, make([]bool, len(f.Figures))}
}

// key names figures. An empty system or when is any; a label that must be empty must be absent. A
// published figure need not have every label, because the paper does not say everything.
type key struct {
	id, system, when string
	labels           labels
}

func (k key) matches(f figures.Figure) bool {
	if f.ID != k.id || k.system != "" && f.System != k.system || k.when != "" && f.When != k.when {
		return false
	}
	for name, want := range k.labels {
		got, ok := f.Labels[name]
		if got != want && (ok || f.System != "published") {
			return false
		}
	}
	return true
}

// with is the key with one label more.
func (k key) with(name, value string) key {
	l := labels{name: value}
	maps.Copy(l, k.labels)
	k.labels = l
	return k
}

// of is the key for another system.
func (k key) of(system string) key {
	k.system = system
	return k
}

// take returns the first figure that matches and marks it as drawn, or nil.
func (d *deck) take(k key) *figures.Figure {
	for i, f := range d.all {
		if k.matches(f) {
			d.used[i] = true
			return &d.all[i]
		}
	}
	return nil
}

// has reports whether a figure matches.
func (d *deck) has(k key) bool { return slices.ContainsFunc(d.all, k.matches) }

// values lists what a label is in the figures that match, the given ones first, published ones aside.
func (d *deck) values(k key, label string, first ...string) []string {
	list := slices.Clone(first)
	var more []string
	for _, f := range d.all {
		v, ok := f.Labels[label]
		if ok && f.System != "published" && k.matches(f) && !slices.Contains(list, v) && !slices.Contains(more, v) {
			more = append(more, v)
		}
	}
	slices.Sort(more)
	return append(list, more...)
}

// systems lists who has figures that match: the usual ones in their order, then the others.
func (d *deck) systems(k key) []string {
	var list []string
	for _, f := range d.all {
		if k.matches(f) && !slices.Contains(list, f.System) {
			list = append(list, f.System)
		}
	}
	slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	return list
}

// order is how the rows of a chart follow each other: the paper's, then its handshake here, then ours.
var order = []string{"published", "direct", "plain", "paper", "ms-each", "ms"}

func rank(system string) int {
	if i := slices.Index(order, system); i >= 0 {
		return i
	}
	return len(order)
}

// rest is the table of what no chart has drawn.
func (d *deck) rest() *Table {
	t := &Table{Head: []string{"figure", "system", "when", "labels", "value", "p95", "n"}}
	for i, f := range d.all {
		if !d.used[i] {
			t.Rows = append(t.Rows, append(name(f), valueOf(f), f.P95Text(), count(f.N)))
		}
	}
	if len(t.Rows) == 0 {
		return nil
	}
	return t
}

// goals is the table of what was to be reached, and how many are.
func (d *deck) goals() (t *Table, met int) {
	t = &Table{Head: []string{"figure", "system", "when", "labels", "value", "ratio", "goal", ""}, Open: true}
	for _, f := range d.all {
		if f.Meets == nil {
			continue
		}
		ratio, mark := "", "✗ missed"
		if f.Baseline != nil {
			ratio = decimals(f.Baseline.Ratio, 3) + " of " + f.Baseline.System
		}
		if *f.Meets {
			mark = "✓ met"
			met++
		}
		t.Rows = append(t.Rows, append(name(f), valueOf(f), ratio, f.Goal, mark))
	}
	return t, met
}

func name(f figures.Figure) []string {
	var l []string
	for _, k := range slices.Sorted(maps.Keys(f.Labels)) {
		l = append(l, k+" = "+f.Labels[k])
	}
	return []string{f.ID, f.System, f.When, strings.Join(l, ", ")}
}

func valueOf(f figures.Figure) string {
	if m := missing(&f); m != "" {
		return m
	}
	return number(f.Unit, *f.Value)
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return decimals(float64(n), 0)
}

// missing says why there is no value, or nothing.
func missing(f *figures.Figure) string {
	switch {
	case f == nil:
		return NotRun("no such figure in the file")
	case f.Skipped != "":
		return NotRun(f.Skipped)
	case f.Value == nil:
		return "none: no sample"
	case !isFinite(*f.Value):
		return "none: not a number"
	}
	return ""
}

// mean is the paper's measure of a time; a figure without a spread has only its value.
func mean(f *figures.Figure) float64 {
	if f.Spread == nil {
		return *f.Value
	}
	return f.Mean
}

// change is how much more x is than base, in percent.
func change(x, base float64) float64 { return 100 * (x/base - 1) }

// interval is where the change of the means lies with 95 % confidence, if the samples are independent
// of each other: the ratio's error comes from the standard deviations and the numbers of samples of
// both. Nil if one of them is not known.
func interval(x, base *figures.Figure) *Range {
	if x.Spread == nil || base.Spread == nil || x.N < 2 || base.N < 2 || x.Mean <= 0 || base.Mean <= 0 {
		return nil
	}
	part := func(f *figures.Figure) float64 { return f.SD * f.SD / (f.Mean * f.Mean) / float64(f.N) }
	ratio := x.Mean / base.Mean
	half := 1.96 * ratio * math.Sqrt(part(x)+part(base))
	return &Range{100 * (ratio - half - 1), 100 * (ratio + half - 1)}
}

// wilson is where a share lies with 95 % confidence after n attempts (Wilson's score interval, which
// is right near 0 and 1 too). Nil if n is not known.
func wilson(share float64, n int) *Range {
	if n <= 0 || share < 0 || share > 1 {
		return nil
	}
	const z = 1.96
	size := float64(n)
	middle := (share + z*z/(2*size)) / (1 + z*z/size)
	half := z / (1 + z*z/size) * math.Sqrt(share*(1-share)/size+z*z/(4*size*size))
	return &Range{max(0, middle-half), min(1, middle+half)}
}
