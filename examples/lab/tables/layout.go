package tables

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"migrationsensor/examples/lab/figures"
)

// names are the systems as the tables call them.
var names = map[string]string{
	"direct": "direct, no proxy", "plain": "plain proxy", "paper": "the paper's, re-created", "ms-each": "ours, probe = each", "ms": "ours",
}

// Print prints the paper's tables in its own layout, each cell beside the paper's number, then the
// goals. assumed are the values of the re-creation that the paper does not give.
func Print(w io.Writer, file *figures.File, assumed []string) error {
	t := &text{file: file}
	t.table2()
	t.peaceTable("Table 3 (§6.3)  a new connection, in peace; ms", "connect", "http")
	t.peaceTable("Table 4 (§6.3)  760 KB over ssh, in peace; ms", "download_760k", "ssh")
	t.peaceTable("               760 KB over HTTP, in peace; ms (not in the paper)", "download_760k", "http")
	t.table5()
	t.trips()
	t.detection()
	t.line("Assumed where the paper says nothing:")
	for _, a := range assumptions(assumed) {
		t.line("  %s", a)
	}
	if c := file.Host.Congestion; c != "" {
		t.line("TCP congestion control of all machines in the lab: %s", c)
	}
	t.goals()
	_, err := io.WriteString(w, t.b.String())
	return err
}

// assumptions are those of the re-creation and of the detection.
func assumptions(paper []string) []string {
	return append(slices.Clone(paper), fmt.Sprintf(
		"detector's threshold: %d packets/s of one kind, a quarter of the flood; set by hand in the paper and not given", threshold))
}

// text is the printed tables as they grow.
type text struct {
	b    strings.Builder
	file *figures.File
}

func (t *text) line(format string, args ...any) {
	t.b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
}

// timesHead heads a table of times.
func (t *text) timesHead(title string) {
	t.line("")
	t.line("%s", title)
	t.line("  %-4s %-26s %6s %9s %9s %8s %9s  %-10s %s", "", "", "n", "mean", "median", "SD", "success", "overhead", "of medians")
}

// row prints one cell of a table of times; base is what its overhead is over, or has no value.
func (t *text) row(dest, name string, f, base, success figures.Figure) {
	if f.Skipped != "" {
		t.line("  %-4s %-26s not run: %s", dest, name, f.Skipped)
		return
	}
	if f.Spread == nil || f.Value == nil {
		t.line("  %-4s %-26s %6d %9s %9s %8s %9s", dest, name, f.N, "none", "", "", success.Text())
		return
	}
	overhead, medians := "", ""
	if base.Spread != nil && base.Value != nil && base.ID != "" {
		overhead, medians = percent(f.Mean, base.Mean), percent(*f.Value, *base.Value)
	}
	if given := f.Labels["overhead"]; given != "" {
		overhead = "+" + given
	}
	t.line("  %-4s %-26s %6d %9.2f %9.2f %8.2f %9s  %-10s %s", dest, name, f.N, f.Mean, *f.Value, f.SD, success.Text(), overhead, medians)
}

// percent is how much more x is than base.
func percent(x, base float64) string {
	if base == 0 {
		return ""
	}
	return fmt.Sprintf("%+.1f %%", 100*(x/base-1))
}

// success is the id of a time's share.
func success(id string) string {
	if id == "connect" {
		return "success.connect"
	}
	return "success.download"
}

// published prints the paper's two rows of a cell.
func (t *text) published(dest, id, when string, labels map[string]string) {
	get := func(id, client string) figures.Figure {
		want := maps.Clone(labels)
		want["client"] = client
		return find(t.file, id, "published", when, want)
	}
	base := get(id, "without")
	if base.Value == nil {
		return
	}
	t.row(dest, "published, without", base, figures.Figure{}, get(success(id), "without"))
	t.row("", "published, with", get(id, "with"), base, get(success(id), "with"))
}

func (t *text) table2() {
	t.timesHead("Table 2 (§6.2)  a destination that nobody protects, over HTTP; ms")
	for _, x := range []struct{ id, name string }{{"connect", "conn"}, {"download_760k", "file"}} {
		app := map[string]string{"app": "http"}
		t.published(x.name, x.id, unprotected, app)
		base := find(t.file, x.id, "direct", unprotected, app)
		t.row(x.name, "direct, without agent", base, figures.Figure{}, find(t.file, success(x.id), "direct", unprotected, app))
		t.row("", "direct, with ours running", find(t.file, x.id, "ms", unprotected, app), base, find(t.file, success(x.id), "ms", unprotected, app))
		if n := find(t.file, x.id+".noise", "direct", unprotected, app); n.Value != nil {
			t.line("       direct against direct in this run: medians differ by up to %.3f ms (99 of 100 random halves)", *n.Value)
		}
	}
	if n := find(t.file, "tun.unprotected", "ms", unprotected, nil); n.Value != nil {
		t.line("       packets in the TUN meanwhile: %s, in %d fetches", n.Text(), n.N)
	}
}

// peaceTable is Table 3 or 4.
func (t *text) peaceTable(title, id, app string) {
	t.timesHead(title)
	for _, dest := range []string{"p1", "p2"} {
		want := map[string]string{"dest": dest, "app": app}
		given := map[string]string{"dest": dest}
		if id != "connect" { // the paper does not name the connects' application
			given["app"] = app
		}
		t.published(strings.ToUpper(dest), id, peace, given)
		base := find(t.file, id, "plain", peace, want)
		for i, system := range []string{"plain", "paper", "ms-each", "ms"} {
			over, head := base, ""
			if i == 0 {
				over, head = figures.Figure{}, strings.ToUpper(dest)
			}
			t.row(head, names[system], find(t.file, id, system, peace, want), over, find(t.file, success(id), system, peace, want))
		}
		want["memory"] = "fresh"
		if f := find(t.file, id, "ms", peace, want); f.Value != nil || f.Skipped != "" {
			t.row("", "ours, knows no proxy yet", f, base, find(t.file, success(id), "ms", peace, want))
		}
	}
	want := map[string]string{"dest": "site", "app": app}
	site := find(t.file, id, "direct", peace, want)
	t.row("site", names["direct"], site, figures.Figure{}, find(t.file, success(id), "direct", peace, want))
	if id == "connect" {
		t.tripNotes()
	} else if app == "ssh" {
		t.addition(id, app)
	}
	t.reference(site, find(t.file, id, "plain", peace, map[string]string{"dest": "p1", "app": app}))
}

// table5 has a column for each p.
func (t *text) table5() {
	t.line("")
	t.line("Table 5 (§6.4)  P1 flooded by %d SYN/s with random sources; shares that succeed, and how long those took (medians)", floodRate)
	for _, id := range []string{"success.connect", "success.download"} {
		what := map[string]string{"success.connect": "handshakes", "success.download": "760 KB downloads"}[id]
		t.line("  %-48s %8s %8s %8s %8s   %s", what, "p = 1", "0.75", "0.5", "0.25", "n")
		t.shares("published"+map[string]string{"success.connect": "", "success.download": " (the user may retry)"}[id], id, cell{System: "published", Dest: "p1"}, "", nil)
		for _, attacker := range []string{"own", "hping3"} {
			for _, retries := range []string{"0", "2"} {
				t.line("  by %s, %s", map[string]string{"own": "our tool", "hping3": "hping3"}[attacker], map[string]string{"0": "first attempt", "2": "with 2 retries"}[retries])
				for _, c := range (group{attacker: attacker, dests: []string{"p1"}}).cells() {
					t.shares("  "+named(c), id, c, retries, t.took(id, c, retries))
				}
			}
		}
		t.line("  to P2, which is not flooded (our tool, first attempt, p of P1 = 1)")
		for _, c := range (group{attacker: "own", p: "1", dests: []string{"p2"}}).cells() {
			t.shares("  "+named(c), id, c, "0", t.took(id, c, "0"))
		}
		if id == "success.connect" {
			continue // what ssh waits for is in its whole time
		}
		t.line("  over ssh (our tool, first attempt, p = 1)")
		for _, c := range (group{attacker: "own", p: "1", ssh: true}).cells() {
			t.shares("  "+named(c), id, c, "0", t.took(id, c, "0"))
		}
	}
	t.floodNotes()
}

// named is a cell's system, with what it remembers.
func named(c cell) string {
	return names[c.System] + map[string]string{"fresh": ", knows no proxy yet", "remembers": ", remembers its proxy"}[c.Memory]
}

// flooded5 finds a figure of Table 5.
func (t *text) flooded5(id string, c cell, p, retries string) figures.Figure {
	want := map[string]string{"dest": c.Dest, "p": p}
	if c.System != "published" {
		want["attacker"], want["retries"], want["app"] = c.Attacker, retries, c.App
		if c.Memory != "" {
			want["memory"] = c.Memory
		}
	}
	return find(t.file, id, c.System, flooded, want)
}

// took is the median of those that succeeded, in the order of shares.
func (t *text) took(id string, c cell, retries string) []string {
	time := map[string]string{"success.connect": "connect", "success.download": "download_760k"}[id]
	var all []string
	for _, p := range shares {
		if f := t.flooded5(time, c, p, retries); f.Value != nil {
			all = append(all, fmt.Sprintf("%.0f", *f.Value))
		} else if f.Skipped == "" && c.P == "" {
			all = append(all, "–")
		}
	}
	return all
}

func (t *text) shares(name, id string, c cell, retries string, took []string) {
	var line strings.Builder
	fmt.Fprintf(&line, "  %-48s", name)
	why, n := "", 0
	for _, p := range shares {
		f := t.flooded5(id, c, p, retries)
		switch {
		case f.Skipped != "":
			why = f.Skipped
			line.WriteString("        –")
		case f.Value == nil:
			line.WriteString("         ")
		default:
			fmt.Fprintf(&line, " %8s", f.Text())
			n = f.N
		}
	}
	if n > 0 {
		fmt.Fprintf(&line, "   %d", n)
	}
	if len(took) > 0 {
		fmt.Fprintf(&line, "   %s ms", strings.Join(took, " / "))
	}
	if why != "" {
		line.WriteString("   not run: " + why)
	}
	t.line("%s", line.String())
}

func (t *text) detection() {
	t.line("")
	t.line("Detection (§6.2)  floods of %d packets/s", floodRate)
	t.line("  %-6s %10s %8s %8s %22s %14s", "", "published", "found", "floods", "alarm after (median, max)", "false alarms")
	for _, kind := range kinds {
		want := map[string]string{"kind": kind}
		given, found := find(t.file, "detect.found", "published", flooded, want), find(t.file, "detect.found", "ms", flooded, want)
		delay, alarms := find(t.file, "detect.delay", "ms", flooded, want), find(t.file, "detect.false", "ms", peace, want)
		if found.Skipped != "" {
			t.line("  %-6s %10s not run: %s", kind, given.Text(), found.Skipped)
			continue
		}
		most := ""
		if delay.Spread != nil {
			most = fmt.Sprintf("%s, %.1f ms", delay.Text(), delay.Max)
		}
		t.line("  %-6s %10s %8s %8d %22s %8s in %d spells", kind, given.Text(), found.Text(), found.N, most, alarms.Text(), alarms.N)
	}
	t.line("")
}

// goals lists what had to be reached. Shares of one kind that are all met take one line.
func (t *text) goals() {
	t.line("")
	t.line("Goals")
	met, missing := map[string]int{}, 0
	for _, f := range t.file.Figures {
		if f.Meets == nil {
			continue
		}
		if f.Skipped != "" {
			missing++
			continue
		}
		if *f.Meets && strings.HasPrefix(f.ID, "success.") {
			met[f.ID+" of "+names[f.System]+": "+f.Goal]++
			continue
		}
		ratio := ""
		if f.Baseline != nil {
			ratio = fmt.Sprintf("  %.3f of %s", f.Baseline.Ratio, f.Baseline.System)
		}
		t.line("  %s %s = %s%s  (%s)", map[bool]string{true: "✓", false: "✗"}[*f.Meets], describe(f), f.Text(), ratio, f.Goal)
	}
	for _, k := range slices.Sorted(maps.Keys(met)) {
		t.line("  ✓ %s, in %d cells", k, met[k])
	}
	if missing > 0 {
		t.line("  ✗ %d figures that have a goal were not measured", missing)
	}
}

// describe names a figure in a line.
func describe(f figures.Figure) string {
	parts := []string{f.ID, f.System, f.When}
	for _, k := range []string{"dest", "app", "memory", "attacker", "p", "retries", "kind"} {
		if v := f.Labels[k]; v != "" {
			parts = append(parts, map[string]string{"p": "p = ", "retries": "retries "}[k]+v)
		}
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}

// summary is the last word.
func summary(file *figures.File, verdict, played error) string {
	switch {
	case played != nil:
		return fmt.Sprintf("FAIL: not complete: %v", played)
	case verdict == nil:
		return "PASS"
	}
	var missed []string
	for _, f := range file.Figures {
		if f.Meets != nil && !*f.Meets {
			missed = append(missed, describe(f))
		}
	}
	kind := "FAIL"
	if errors.Is(verdict, figures.ErrSlow) {
		kind = "FAIL (goals of time only)"
	}
	if len(missed) == 0 {
		missed = []string{"not everything was measured"}
	}
	return kind + ": " + strings.Join(missed, "; ")
}
