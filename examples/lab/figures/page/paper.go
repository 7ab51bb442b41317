package page

import (
	"fmt"
	"strings"

	"migrationsensor/examples/lab/figures"
)

// Paper is the page of the paper's Tables 2 to 5 and of its detection: what it published, its
// handshake re-created here, and ours. assumed are the values that the paper does not give and that
// the run had to choose; they stand among the facts.
//
// Times are compared by the mean, as the paper does. Figures that no chart has a place for stand in
// a table at the end, so that the page holds the whole file.
func Paper(f *figures.File, assumed ...Fact) Page {
	d := newDeck(f)
	p := Page{
		Title: "The paper's tables, side by side",
		Lead:  "Hsu et al., DDoS Flood and Destination Service Changing Sensor (Sensors 2021, 21, 1980): each of its figures beside its own handshake re-created on this machine, and beside ours. All that is not published was measured in one run.",
		Systems: []System{
			{"published", "the paper's own figures, on its machines"},
			{"direct", "no proxy and no agent"},
			{"plain", "no agent, through a forwarder that protects nothing; its P1 has no SYN cookies and room for 128 half-open connections (Linux has cookies on by default)"},
			{"paper", "the paper's handshake, re-created: connect, wait for a notification, connect again"},
			{"ms-each", "ours, asking the proxy for every connection, beside an OPEN on a link that is already open: two round trips; without such a link it is three, near “ms, fresh”"},
			{"ms", "ours, with links that are already open"},
		},
	}
	p.Sections = []Section{
		d.unprotected(),
		d.peace("Table 3 · §6.3", "New connections in peace", "connect", "http", "A new connection"),
		d.peace("Table 4 · §6.3", "760 KB in peace", "download_760k", "ssh", "The download"),
		d.table5(),
	}
	if s := d.flood(); len(s.Charts) > 0 {
		p.Sections = append(p.Sections, s)
	}
	p.Sections = append(p.Sections, d.detection())
	goals, met := d.goals()
	p.Facts = facts(f, len(goals.Rows), met, assumed)
	if len(goals.Rows) > 0 {
		p.Sections = append(p.Sections, Section{Title: "Goals of the run", Table: goals})
	}
	if rest := d.rest(); rest != nil {
		p.Sections = append(p.Sections, Section{Title: "The other figures of the run", Table: rest})
	}
	return p
}

func facts(f *figures.File, goals, met int, assumed []Fact) []Fact {
	verdict := f.Verdict
	if goals > 0 {
		verdict += fmt.Sprintf(", %d of %d goals met", met, goals)
	}
	list := []Fact{
		{"Command", f.Command},
		{"Version", f.Version},
		{"Time", f.Time.UTC().Format("2 January 2006, 15:04 UTC")},
		{"Machine", fmt.Sprintf("kernel %s, %d CPUs, world: %s", f.Host.Kernel, f.Host.CPUs, f.Host.World)},
		{"Verdict", verdict},
	}
	if c := f.Host.Congestion; c != "" {
		list = append(list, Fact{"TCP congestion control", c + ", on all machines of the lab"})
	}
	for _, a := range assumed {
		list = append(list, Fact{a.Name + " (assumed)", a.Text})
	}
	return list
}

// unprotected is Table 2: a destination that no proxy protects.
func (d *deck) unprotected() Section {
	s := Section{Number: "Table 2 · §6.2", Title: "A destination without protection", Note: []string{
		"What the client's part costs a connection that has nothing to do with it. The overheads of published cells are computed from the paper's rounded means and may differ from its own in the last digit. The paper's destination was a public web site over the internet; ours is a server in the lab.",
	}}
	for _, t := range []struct{ id, title, what string }{
		{"connect", "New connection", "A new connection"},
		{"download_760k", "760 KB", "The download"},
	} {
		k := key{id: t.id, when: "unprotected"}
		var rows []row
		if there := d.published(k); there != nil {
			rows = append(rows, row{"the paper's web site", there})
		}
		rows = append(rows, row{"the lab's server", d.measured(k, "direct", "ms")})
		ms, over := times(t.title+", milliseconds", rows), overheads(t.title+", overhead", rows)
		ms.Note = keep("The paper's round trips are the internet's and ours the lab's: neither milliseconds nor spreads compare, only what each adds to its own base.", d.succeeded(key{id: success(t.id), when: "unprotected"}))
		over.Note = keep(takes(t.what, over.Groups...), noise(over), d.noise(t.id, rows[len(rows)-1]))
		s.Charts = append(s.Charts, ms, over)
	}
	return s
}

func success(id string) string {
	if id == "connect" {
		return "success.connect"
	}
	return "success.download"
}

// peace is Table 3 or 4: through P1 and P2, over the paper's application and others that were run.
func (d *deck) peace(number, title, id, app, what string) Section {
	s := Section{Number: number, Title: title, Note: []string{secondNote}}
	k := key{id: id, when: "peace"}
	for _, a := range d.values(k, "app", app) {
		k := k.with("app", a)
		var rows []row
		for _, dest := range []string{"p1", "p2"} {
			k := k.with("dest", dest)
			cells := append(d.published(k), d.measured(k, "plain", "paper", "ms-each", "ms")...)
			rows = append(rows, row{strings.ToUpper(dest), cells})
		}
		over, direct := overheads("Overhead over "+strings.ToUpper(a), rows), ""
		if site := k.with("dest", "site").of("direct"); d.has(site) {
			x := cell{"direct", "direct", true, d.take(site), nil}
			direct = reference(x, baseOf(rows[0]))
			rows = append(rows, row{"the site itself", []cell{x}})
		}
		ms := times("Milliseconds over "+strings.ToUpper(a), rows)
		compare := addition(rows[0])
		if id == "connect" {
			compare = machines("P1 without agent or module", rows)
		}
		ms.Note = keep(compare, direct, d.succeeded(key{id: success(id), when: "peace", labels: labels{"app": a}}))
		over.Note = keep(takes(what, over.Groups[0]), noise(over))
		switch {
		case id != "connect":
			over.Note = append(over.Note, keep(warm(over), d.digests())...)
		case a == app:
			over.Note = append(over.Note, timeout(rows[0])+" Nor does it name the application of its connects.")
		}
		s.Charts = append(s.Charts, ms, over)
	}
	if d.has(key{id: id, when: "peace", labels: labels{"memory": "fresh"}}) {
		s.Note = append(s.Note, "“fresh” is an agent that knows no proxy but its entries.")
	}
	return s
}

// floodSystems are the rows of the flood; only P1 is published.
var floodSystems = []string{"plain", "paper", "ms-each", "ms"}

// table5 is who still gets through while P1 is flooded.
func (d *deck) table5() Section {
	s := Section{Number: "Table 5 · §6.4", Title: "During the flood: who gets through", Note: floodNotes}
	var others []Chart // P2 after P1
	for _, t := range []struct{ id, title, what string }{
		{"success.connect", "Connects", "connects"},
		{"success.download", "760 KB downloads", "downloads"},
	} {
		d.eachFlood(t.id, true, func(k key, where string, ps []string) {
			p1 := k.labels["dest"] == "p1"
			c := d.shares(t.title+" "+where, k, ps, floodSystems, p1)
			c.Note = keep(succeeds(t.what, c.Groups[len(c.Groups)-1], t.id == "success.download"))
			if !p1 {
				c.Note = append(c.Note, "P2 is dialled by its own address and is not flooded; the paper has no such chart.")
				others = append(others, c)
				return
			}
			c.Note = append(c.Note, unfair(t.id, c, ps))
			s.Charts = append(s.Charts, c)
		})
	}
	s.Charts = append(s.Charts, others...)
	return s
}

// unfair says what of Table 5 cannot be compared.
func unfair(id string, c Chart, ps []string) string {
	if id == "success.connect" {
		return prefilter(c, ps)
	}
	return "The paper lets its user retry a download and does not say how often, so its bar compares exactly with neither our bar nor our triangle; nor does it give its number of trials."
}

// flood is how long those took that got through; the paper gives no times of the flood.
func (d *deck) flood() Section {
	s := Section{Title: "During the flood: how long it took", Note: []string{
		"Only attempts that succeeded have a time, so read these with the shares above and with n. One try each; the paper gives no times of the flood.",
	}}
	for _, t := range []struct{ id, title string }{{"connect", "Connects"}, {"download_760k", "760 KB downloads"}} {
		d.eachFlood(t.id, false, func(k key, where string, ps []string) {
			var rows []row
			for _, p := range ps {
				k := k.with("p", p)
				r := row{name: "p = " + p}
				for _, system := range floodSystems {
					for _, m := range d.memories(k.of(system)) {
						r.cells = append(r.cells, cell{label: m.label, system: system, figure: d.take(d.oneTry(m.key))})
					}
				}
				rows = append(rows, r)
			}
			c := times(t.title+" "+where, rows)
			c.Note = keep(thinnest(c))
			s.Charts = append(s.Charts, c)
		})
	}
	return s
}

// oneTry asks for the figure without retries where figures say so.
func (d *deck) oneTry(k key) key {
	if zero := k.with("retries", "0"); d.has(zero) {
		return zero
	}
	return k
}

// eachFlood calls draw for each attacker and destination that has figures; with always, for the
// paper's set-up even if it has none.
func (d *deck) eachFlood(id string, always bool, draw func(k key, where string, ps []string)) {
	k := key{id: id, when: "flood"}
	for _, dest := range d.values(k, "dest", "p1") {
		ps := []string{"1", "0.75", "0.5", "0.25"}
		if dest != "p1" {
			ps = nil // only P1 is flooded: p need not be varied for the others
		}
		ps = d.values(k.with("dest", dest), "p", ps...)
		for _, attacker := range d.values(k.with("dest", dest), "attacker", "own") {
			k := k.with("dest", dest).with("attacker", attacker)
			if d.measuredHere(k) || always && dest == "p1" && attacker == "own" {
				draw(k, fmt.Sprintf("to %s, flood by %s", strings.ToUpper(dest), attackerName(attacker)), ps)
			}
		}
	}
}

// measuredHere reports whether the run has a figure, not only the paper.
func (d *deck) measuredHere(k key) bool {
	for _, s := range d.systems(k) {
		if s != "published" {
			return true
		}
	}
	return false
}

func attackerName(label string) string {
	if label == "own" {
		return "our tool"
	}
	return label
}

// detection is §6.2: which floods the detector finds, how soon, and its false alarms.
func (d *deck) detection() Section {
	s := Section{Number: "§6.2", Title: "Detection", Note: []string{
		"The paper reports 100 % of SYN and ICMP floods “with an appropriate threshold”, which it sets by hand for each condition and does not give. It counts packets each second, so one second is the soonest bound it can promise.",
	}}
	found := d.kinds("detect.found", "Floods found", "share", "found")
	found.Whisker = "95 % interval"
	delay := d.kinds("detect.delay", "From the first packet to the alarm", "ms", "mean")
	delay.Whisker, delay.Mark = "mean ± SD", "median"
	alarms := d.kinds("detect.false", "False alarms in peace", "count", "alarms")
	delay.Note = keep(second(delay))
	found.Note = keep("n is the number of floods. They differ from the paper's in rate and length where it does not give them.")
	alarms.Note = keep("n is the number of spells of peace, as long as the floods.")
	s.Charts = []Chart{found, delay, alarms}
	return s
}

// kinds is a chart with a group for each kind of flood.
func (d *deck) kinds(id, title, unit, bar string) Chart {
	c := Chart{Title: title, Unit: unit, Bar: bar}
	for _, kind := range d.values(key{id: id}, "kind", "syn", "icmp") {
		k := key{id: id, labels: labels{"kind": kind}}
		g := Group{Name: strings.ToUpper(kind)}
		systems := d.systems(k)
		if !d.measuredHere(k) {
			systems = append(systems, "ms")
		}
		for _, system := range systems {
			g.Bars = append(g.Bars, kindBar(unit, system, d.take(k.of(system))))
		}
		c.Groups = append(c.Groups, g)
	}
	return c
}

func kindBar(unit, system string, f *figures.Figure) Bar {
	switch unit {
	case "ms":
		return timeBar(cell{label: system, system: system, figure: f})
	case "share":
		return shareOf(system, system, f)
	}
	return countOf(system, system, f)
}
