package edge

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/figures/page"
)

// Why something has no figure.
const (
	incomplete = "the run ended before"
	quickWhy   = "a quick run leaves it out"
)

// ofTime are the units whose goals depend on the machine.
var ofTime = []string{"ms", "ns", "SYN/s", "Mbit/s"}

// limits are how good a data path must be: up to so many SYN/s every newcomer gets in, within these milliseconds; a SYN costs so many
// nanoseconds.
var limits = map[string]struct {
	rate, p95, ns float64
}{native: {4e6, 75, 250}, generic: {0.9e6, 50, 700}, afPacket: {0.8e6, 50, 0}}

// The goals that all paths share.
const (
	typical   = 5      // ms, the median connect
	slow      = 50     // ms, the 95th percentile where the ring is not full
	second    = 0.98   // share that is in within a second when the ring is full
	kept      = 0.95   // goodput of agents that were sent on, of that in peace
	survived  = 4e6    // SYN/s offered
	cheaper   = 0.1    // of what a SYN costs with the kernel's cookies, by XDP native
	timesFull = 0.0005 // of what was sent: a ring that loses more is full
)

// report turns it into figures.
func (r *found) report(o Options, s sizes) (file *figures.File, complete bool) {
	file = figures.New(o.Command, "kernel")
	complete = true
	for _, system := range baselines {
		for _, c := range baselineCells(system) {
			fs, whole := r.cellFigures(c, s)
			file.Add(fs...)
			complete = complete && whole
		}
	}
	for _, x := range settings() {
		for _, c := range x.cells() {
			fs, whole := r.cellFigures(c, s)
			file.Add(fs...)
			complete = complete && whole
		}
	}
	fs, whole := r.priceFigures(s)
	file.Add(fs...)
	complete = complete && whole
	fs, whole = r.movedFigures(s)
	file.Add(fs...)
	return file, complete && whole
}

// named gives a figure the labels of its cell.
func (c cell) named(f figures.Figure) figures.Figure {
	f.System, f.When = c.system, "flood"
	f = f.Label("rate", c.rateText()).Label("kind", c.kind)
	if c.system == ms {
		f = f.Label("path", c.path).Label("p", c.p).Label("syn", c.syn())
	}
	return f
}

// ids are the figures of a cell. Downloads through an attacked edge are measured where there is nowhere else to go.
func (c cell) ids() []string {
	ids := []string{"success.connect", "success.second", "connect", "connect.through", "offered", "answered", "ring.lost"}
	if c.system != ms {
		ids[3] = "goodput"
		ids = append(ids, "offered.goodput")
	}
	return ids
}

func (r *found) cellFigures(c cell, s sizes) (fs []figures.Figure, complete bool) {
	x, ok := r.cells[c]
	if !ok {
		why, skipped := r.skipped[c], true
		if why == "" && !s.has(c) {
			why = quickWhy
		}
		if why == "" {
			why, skipped = incomplete, false
		}
		for _, id := range c.ids() {
			fs = append(fs, c.named(figures.Skip(id, "", "", why)))
		}
		return fs, skipped
	}
	return c.judge(c.plain(x), x), true
}

// plain are a cell's figures without goals, in the order of ids.
func (c cell) plain(x seen) []figures.Figure {
	var took, all []time.Duration
	in := 0
	for _, v := range x.visits {
		if v.Error != "" {
			continue
		}
		took, all = append(took, v.Took), append(all, v.All)
		if v.Took <= time.Second {
			in++
		}
	}
	n := len(x.visits)
	value := func(id, unit string, v float64) figures.Figure {
		return figures.Figure{ID: id, Unit: unit, N: 1, Value: &v}
	}
	fs := []figures.Figure{
		figures.Share("success.connect", "", "", len(took), n),
		figures.Share("success.second", "", "", in, n),
		figures.Times("connect", "", "", took),
		figures.Times("connect.through", "", "", all),
		value("offered", "SYN/s", math.Round(x.offered)), value("answered", "SYN/s", math.Round(x.answered)), value("ring.lost", "share", x.lost),
	}
	if x.got != nil {
		fs[3] = value("goodput", "Mbit/s", mbits(*x.got))
		fs[3].N = x.got.Whole + x.got.Broken
		fs = append(fs, value("offered.goodput", "SYN/s", math.Round(x.later)))
	}
	for i := range fs {
		fs[i] = c.named(fs[i])
	}
	return fs
}

func mbits(g Got) float64 { return float64(g.Bytes) * 8 / 1e6 / max(g.Took.Seconds(), 1e-9) }

// judge sets the goals: for newcomers with keyed SYNs at an edge with the budget.
func (c cell) judge(fs []figures.Figure, x seen) []figures.Figure {
	if c.system != ms || c.p != budget || !c.keyed {
		return fs
	}
	l := limits[c.path]
	if x.offered <= l.rate && x.lost <= timesFull {
		late := float64(slow)
		if c.rate == top {
			late = l.p95
		}
		p95 := math.Inf(1)
		if fs[2].Spread != nil && fs[2].N > 0 {
			p95 = fs[2].P95
		}
		fs[0] = fs[0].AtLeast(1)
		fs[2] = fs[2].Want(fmt.Sprintf("value <= %d, p95 <= %g", typical, late), fs[2].Value != nil && *fs[2].Value <= typical && p95 <= late)
	} else {
		fs[1] = fs[1].AtLeast(second)
	}
	if c.path == native && c.rate == top && c.kind == fresh {
		fs[4] = fs[4].AtLeast(survived)
	}
	return fs
}

func (r *found) priceFigures(s sizes) (fs []figures.Figure, complete bool) {
	complete = true
	var cookies figures.Figure
	add := func(system, path, kind, no string) {
		i := slices.IndexFunc(r.prices, func(p priced) bool { return p.system == system && p.path == path && p.kind == kind })
		var these []figures.Figure
		switch {
		case i >= 0:
			these = r.prices[i].figures()
		case no == "":
			no, complete = incomplete, false
			fallthrough
		default:
			for _, id := range []string{"cpu.syn", "cpu.syn.program", "cpu.syn.answered"} {
				these = append(these, figures.Skip(id, system, "", no))
			}
		}
		for j, f := range these {
			f = f.Label("kind", kind)
			if path != "" {
				f = f.Label("path", path).Label("p", all)
			}
			these[j] = f
		}
		if system == syncookies {
			cookies = these[0]
		}
		if i >= 0 && path != "" {
			these[0] = judgePrice(these[0].Against(cookies), path)
		}
		fs = append(fs, these...)
	}
	for _, system := range baselines {
		add(system, "", fresh, r.priceNo[system])
	}
	for _, path := range paths {
		for _, kind := range []string{fresh, random, replay} {
			no := r.priceNo[path]
			if no == "" && !slices.Contains(s.kinds(), kind) {
				no = quickWhy
			}
			add(ms, path, kind, no)
		}
	}
	return fs, complete
}

func judgePrice(f figures.Figure, path string) figures.Figure {
	l := limits[path].ns
	switch {
	case l == 0:
		return f
	case path != native:
		return f.AtMost(l)
	}
	return f.Want(fmt.Sprintf("value <= %g, ratio <= %g", l, cheaper), *f.Value <= l && (f.Baseline == nil || f.Baseline.Ratio <= cheaper))
}

// figures are the medians of the measurements: all, what the program has of it, and the share of SYNs that got an answer.
func (p priced) figures() []figures.Figure {
	median := func(id string, ns []float64) figures.Figure {
		v := slices.Sorted(slices.Values(ns))
		m := math.Round(v[len(v)/2])
		return figures.Figure{ID: id, System: p.system, Unit: "ns", N: len(v), Value: &m}
	}
	return []figures.Figure{
		median("cpu.syn", p.ns), median("cpu.syn.program", p.program),
		{ID: "cpu.syn.answered", System: p.system, Unit: "share", N: len(p.ns), Value: new(math.Round(p.answered*1000) / 1000)},
	}
}

func (r *found) movedFigures(s sizes) (fs []figures.Figure, complete bool) {
	complete = true
	for _, path := range paths {
		named := func(f figures.Figure) figures.Figure { return f.Label("path", path).Label("p", budget) }
		i := slices.IndexFunc(r.moved, func(m moved) bool { return m.path == path })
		if i < 0 {
			why := r.movedNo[path]
			if why == "" && !s.sendsOn(path) {
				why = quickWhy
			}
			if why == "" {
				why, complete = incomplete, false
			}
			fs = append(fs, named(figures.Skip("goodput", ms, "peace", why)), named(figures.Skip("goodput", ms, "moved", why)), named(figures.Skip("sessions.lost", ms, "moved", why)))
			continue
		}
		m := r.moved[i]
		rate := func(when string, g Got) figures.Figure {
			v := mbits(g)
			return named(figures.Figure{ID: "goodput", System: ms, When: when, Unit: "Mbit/s", N: g.Whole + g.Broken, Value: &v})
		}
		peace := rate("peace", m.peace)
		flood := rate("moved", m.flood).Against(peace)
		fs = append(fs, peace, flood.Want(fmt.Sprintf("ratio >= %g", kept), flood.Baseline != nil && flood.Baseline.Ratio >= kept),
			named(figures.Count("sessions.lost", ms, "moved", m.lost, m.sessions)).AtMost(0))
	}
	return fs, complete
}

// facts are what one must know to read the figures.
func (r *found) facts() []page.Fact {
	ring := "the attacked edge's ring has a thread of the kernel and a processor of its own, which its programs share; everything else runs on the other one"
	if r.unpin != "" {
		ring = "the ring's thread runs where the kernel's scheduler puts it: " + r.unpin
	}
	return []page.Fact{
		{Name: "Link", Text: "flood and clients come through one link, mixed packet by packet; the edge's ring holds 256, and what has no room is lost, a client's too"},
		{Name: "Processors", Text: ring},
		{Name: "Connect", Text: "an ordinary client: until connect() is through; it succeeds if the first byte of an answer comes within 3 s. An agent: until the TRANSFER of an edge that it never saw is verified; it succeeds if its link to the next edge stands within 3 s"},
		{Name: "Goodput", Text: "the 760 KB file again and again: through the attacked edge, where there is nowhere else to go; by a real agent that was sent on to the next edge"},
		{Name: "Cost", Text: "processor time of a SYN: the flood's own thread does the kernel's work for the edge, less what the flood costs alone; with the softirq threads' and the edge's program's"},
	}
}

const notes = `connect: until connected, for agents until the TRANSFER is verified; through: until the link to the next edge stands.
ring.lost: of all that was sent, clients' packets too, what the edge's ring had no room for.`

// printTable prints the figures for people: a line for each cell.
func printTable(w io.Writer, file *figures.File) error {
	var s strings.Builder
	fmt.Fprintf(&s, "\n%-46s %8s %8s %8s %9s %9s %9s %9s %6s %8s\n", "under a flood", "success", "in 1 s", "p50 ms", "p95 ms", "offered", "answered", "ring lost", "n", "Mbit/s")
	for _, row := range rowsOf(file) {
		s.WriteString(row + "\n")
	}
	fmt.Fprintf(&s, "\n%-46s %8s %8s %8s\n", "processor time of a SYN", "ns", "program", "answered")
	for i, f := range file.Figures {
		if f.ID == "cpu.syn" { // the other two follow it
			fmt.Fprintln(&s, strings.TrimRight(fmt.Sprintf("%-46s %8s %8s %8s  %s", title(f), short(f, "%.0f"),
				short(file.Figures[i+1], "%.0f"), percent(file.Figures[i+2]), goal(f)), " "))
		}
	}
	fmt.Fprintf(&s, "\n%-46s %8s\n", "agents that were sent on", "")
	for _, f := range file.Figures {
		if f.When == "peace" || f.When == "moved" {
			fmt.Fprintln(&s, strings.TrimRight(fmt.Sprintf("%-46s %8s  %s", title(f), short(f, "%.0f"), goal(f)), " "))
		}
	}
	_, err := io.WriteString(w, s.String())
	return err
}

// rowsOf are the lines of the cells, which are told apart by their labels.
func rowsOf(file *figures.File) (rows []string) {
	type row map[string]figures.Figure
	cells := map[string]row{}
	var order []string
	for _, f := range file.Figures {
		if f.When != "flood" {
			continue
		}
		name := cellTitle(f)
		if cells[name] == nil {
			cells[name] = row{}
			order = append(order, name)
		}
		cells[name][f.ID] = f
	}
	for _, name := range order {
		c := cells[name]
		if why := c["connect"].Skipped; why != "" {
			rows = append(rows, fmt.Sprintf("%-46s not run: %s", name, why))
			continue
		}
		p95 := "none"
		if f := c["connect"]; f.Spread != nil {
			p95 = fmt.Sprintf("%.1f", f.P95)
		}
		var line strings.Builder
		line.WriteString(fmt.Sprintf("%-46s %8s %8s %8s %9s %9s %9s %9s %6d %8s", name, percent(c["success.connect"]), percent(c["success.second"]),
			short(c["connect"], "%.1f"), p95, million(c["offered"]), million(c["answered"]), percent(c["ring.lost"]), c["success.connect"].N, short(c["goodput"], "%.0f")))
		for _, id := range []string{"success.connect", "success.second", "connect", "offered"} {
			if f := c[id]; f.Meets != nil && !*f.Meets {
				line.WriteString("  " + id + " " + goal(f))
			}
		}
		rows = append(rows, strings.TrimRight(line.String(), " "))
	}
	return rows
}

// cellTitle names a cell.
func cellTitle(f figures.Figure) string {
	var s strings.Builder
	s.WriteString(f.System)
	for _, k := range []string{"path", "p", "syn"} {
		switch v := f.Labels[k]; {
		case v == "":
		case k == "p":
			s.WriteString(" p=" + v)
		default:
			s.WriteString(" " + v)
		}
	}
	return s.String() + " " + f.Labels["rate"] + "/s " + f.Labels["kind"]
}

// title names any other figure.
func title(f figures.Figure) string {
	var s strings.Builder
	s.WriteString(f.ID + " " + f.System)
	for _, k := range []string{"path", "kind"} {
		if v := f.Labels[k]; v != "" {
			s.WriteString(" " + v)
		}
	}
	if f.When != "" {
		s.WriteString(" " + f.When)
	}
	return s.String()
}

func goal(f figures.Figure) string {
	if f.Skipped != "" {
		return "not run: " + f.Skipped
	}
	s := ""
	if f.Baseline != nil {
		s = fmt.Sprintf("%.3f of %s  ", f.Baseline.Ratio, f.Baseline.System)
	}
	if f.Meets == nil {
		return s
	}
	return s + f.Goal + map[bool]string{true: " ✓", false: " ✗"}[*f.Meets]
}

func short(f figures.Figure, format string) string {
	if f.Value == nil {
		return ""
	}
	return fmt.Sprintf(format, *f.Value)
}

func percent(f figures.Figure) string {
	if f.Value == nil {
		return "none"
	}
	return fmt.Sprintf("%.1f %%", 100**f.Value)
}

// million is a rate in thousands or millions a second.
func million(f figures.Figure) string {
	switch {
	case f.Value == nil:
		return "none"
	case *f.Value >= 1e6:
		return fmt.Sprintf("%.2f M", *f.Value/1e6)
	}
	return fmt.Sprintf("%.1f k", *f.Value/1e3)
}

// summary is the last word.
func summary(file *figures.File, verdict, played error) string {
	if played != nil {
		return fmt.Sprintf("FAIL: %v", played)
	}
	var missed []string
	for _, f := range file.Figures {
		if f.Meets != nil && !*f.Meets {
			name := title(f)
			if f.When == "flood" {
				name = f.ID + " of " + cellTitle(f)
			}
			missed = append(missed, name)
		}
	}
	switch {
	case verdict == nil:
		return "PASS"
	case verdict == figures.ErrSlow:
		return "SLOW, every newcomer got in: " + strings.Join(missed, "; ")
	case len(missed) == 0:
		return "FAIL: incomplete"
	}
	return "FAIL: " + strings.Join(missed, "; ")
}
