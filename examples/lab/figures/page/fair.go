package page

import (
	"fmt"
	"slices"
	"strings"
)

// Sentences about what cannot be compared, or not as it seems.

// addition says what a handshake adds to a download in milliseconds: in percent the same cost weighs
// more on the shorter of two downloads.
func addition(r row) string {
	s := "The paper's machines and network are not ours, and a fixed cost weighs more on a shorter download: neither milliseconds nor percentages compare by themselves."
	var list []string
	for _, x := range r.cells {
		if x.system != "published" && x.system != "paper" || x.base || missing(x.figure) != "" || missing(x.against) != "" {
			continue
		}
		base := mean(x.against)
		list = append(list, fmt.Sprintf("%s ms on %s %s", signed(mean(x.figure)-base), number("ms", base), who(x.system)))
	}
	if len(list) > 0 {
		s += " What the handshake adds to a download from " + r.name + ", by the means: " + and(list) + "."
	}
	return s
}

// reference says what the site is, and whether the way with a proxy was the shorter one.
func reference(site cell, base *cell) string {
	s := "The site itself is another machine of the lab with a server of its own: a reference, not a base."
	if base == nil || missing(site.figure) != "" || missing(base.figure) != "" {
		return s
	}
	direct, plain := number("ms", mean(site.figure)), number("ms", mean(base.figure))
	if direct != plain && mean(site.figure) > mean(base.figure) {
		s += fmt.Sprintf(" Here it took longer than %s did (%s and %s by the means).", base.label, direct, plain)
	}
	return s
}

// baseOf is this run's base of a row, or nil.
func baseOf(r row) *cell {
	i := slices.IndexFunc(r.cells, func(x cell) bool { return x.base && x.system != "published" })
	if i < 0 {
		return nil
	}
	return &r.cells[i]
}

// succeeds says the shares of one group at one try. What the paper publishes of downloads is no such
// share: its user may retry.
func succeeds(what string, g Group, mayRetry bool) string {
	one, published := g, Group{Name: g.Name}
	if mayRetry {
		one.Bars = nil
		for _, b := range g.Bars {
			if b.System == "published" {
				published.Bars = append(published.Bars, b)
			} else {
				one.Bars = append(one.Bars, b)
			}
		}
	}
	var s []string
	if list := inWords(one, percentage); list != "" {
		s = append(s, "At "+g.Name+" this share of "+what+" succeeds at one try: "+list+".")
	}
	if list := inWords(published, percentage); list != "" {
		s = append(s, "At "+g.Name+", where the user may retry: "+list+".")
	}
	return strings.Join(s, " ")
}

// floodNotes say under which conditions each of Table 5 is attacked.
var floodNotes = []string{
	"One attacker floods P1 with SYNs from random sources, 1,000 a second; a SYN Checker answers the share p of the SYNs that reach it. The bar is one try, the triangle the same with two retries by the user; the published bar of the downloads is one whose user may retry. “fresh” is an agent that knows no proxy but its entries, “remembers” one that knows more from an earlier trial; ms-each begins fresh here.",
	"Our P1 is flooded at two ports, each with this rate: its web port, as the plain proxy's and the paper's, where its firewall drops what comes, and its link port, which our agents dial and where the SYN Checker stands.",
	"p says little about ours: agents on Linux send keyed SYNs, which our SYN Checker always answers, within a rate for each agent. In this table it thins out the re-created paper only.",
	"The plain forwarder has no SYN Checker, so p means nothing to it, and no row in the paper. It has no SYN cookies and room for 128 half-open connections. Linux has cookies on by default: its rows do not stand for such a server.",
}

// secondNote says what the rows of P2 are in peace.
const secondNote = "P2: the paper's client asks only P1, so the published rows of P2 show what the module itself costs. The re-created client has no module: to P2 it is a plain dial. Ours treats P2 as protected, so its rows show what a second P1 costs."
