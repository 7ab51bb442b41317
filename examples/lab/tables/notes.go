package tables

import (
	"fmt"

	"migrationsensor/examples/lab/figures"
)

// What stands under the tables: what cannot be compared, or not as it seems. The page says it too.

// tripNotes stand under Table 3.
func (t *text) tripNotes() {
	t.line("       probe = each asks for every connection, beside an OPEN on a link that is already open: two round trips;")
	t.line("       without such a link it is three, near \"knows no proxy yet\"")
	t.line("       P2: the paper's module lets it be, its re-creation has no module and dials it plainly, ours protects it as a second P1")
}

// addition says what a handshake adds to a download: in percent it weighs more on the shorter one.
func (t *text) addition(id, app string) {
	p1 := map[string]string{"dest": "p1", "app": app}
	client := func(c string) map[string]string { return map[string]string{"dest": "p1", "app": app, "client": c} }
	for i, x := range []struct {
		who        string
		with, base figures.Figure
	}{
		{"as published", find(t.file, id, "published", peace, client("with")), find(t.file, id, "published", peace, client("without"))},
		{"re-created here", find(t.file, id, "paper", peace, p1), find(t.file, id, "plain", peace, p1)},
	} {
		if x.with.Spread == nil || x.base.Spread == nil {
			continue
		}
		if i == 0 {
			t.line("       a fixed cost weighs more on a shorter download, in percent; in ms, by the means,")
		}
		t.line("       the handshake adds to P1's %.2f ms %+.2f ms %s", x.base.Mean, x.with.Mean-x.base.Mean, x.who)
	}
}

// reference says that the site is no base, where that shows.
func (t *text) reference(site, plain figures.Figure) {
	if site.Spread == nil || plain.Spread == nil || fmt.Sprintf("%.1f", site.Mean) == fmt.Sprintf("%.1f", plain.Mean) || site.Mean < plain.Mean {
		return
	}
	t.line("       the site took longer than the plain proxy to P1 (%.2f and %.2f ms): it is another machine of the lab with a server", site.Mean, plain.Mean)
	t.line("       of its own, a reference and not a base")
}

// floodNotes stand under Table 5.
func (t *text) floodNotes() {
	t.line("  Our P1 is flooded at two ports, each with this rate: the web port, as the others, and the link port, which our agents")
	t.line("  dial and where the SYN Checker stands.")
	t.line("  p says little about ours: agents on Linux send keyed SYNs, which the SYN Checker always answers, within a rate.")
	t.line("  The plain proxy has no SYN cookies and room for 128 half-open connections; Linux has cookies on by default.")
}
