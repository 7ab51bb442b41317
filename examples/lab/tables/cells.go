package tables

import (
	"maps"
	"slices"
	"strconv"

	"migrationsensor/examples/lab/figures"
)

// floodRate is the paper's flood (section 6.4).
const floodRate = 1000

// threshold is where P1 takes packets of one kind for a flood: a quarter of the flood, far above
// peace. The paper sets its own by hand and does not give it.
const threshold = floodRate / 4

// shares are the paper's p, the share of SYNs that are answered.
var shares = []string{"1", "0.75", "0.5", "0.25"}

// Values of When.
const (
	unprotected = "unprotected"
	peace       = "peace"
	flooded     = "flood"
)

// cell names what is measured by trials of one kind: one line of a table.
type cell struct {
	When, System, Dest, App string
	P, Attacker             string // under the flood
	Memory                  string // fresh or remembers, where it matters
}

// labels are the figures' of the cell.
func (c cell) labels() map[string]string {
	all := map[string]string{"dest": c.Dest, "app": c.App, "p": c.P, "attacker": c.Attacker, "memory": c.Memory}
	if c.When == flooded {
		all["rate"] = strconv.Itoa(floodRate)
	}
	maps.DeleteFunc(all, func(_, v string) bool { return v == "" })
	return all
}

// ours reports whether the cell must succeed always.
func (c cell) ours() bool { return c.System == "ms" || c.System == "ms-each" }

// planned is a cell, how many trials it gets and which figures come out of it.
type planned struct {
	cell
	n   int
	ids []string
}

var (
	both         = []string{"connect", "download_760k", "success.connect", "success.download"}
	onlyConnect  = []string{"connect", "success.connect"}
	onlyDownload = []string{"download_760k", "success.download"}
)

// plan lists every cell of a run, in the order of the tables.
func (s sizes) plan() (all []planned) {
	add := func(n int, ids []string, cells ...cell) {
		for _, c := range cells {
			all = append(all, planned{c, n, ids})
		}
	}
	add(2*s.unprotected, both, cell{When: unprotected, System: "direct", App: "http"}) // by two clients
	add(s.unprotected, both, cell{When: unprotected, System: "ms", App: "http"})
	for _, app := range []struct {
		name string
		n    int
		ids  []string
	}{{"http", s.http, both}, {"ssh", s.ssh, onlyDownload}} {
		add(app.n, app.ids, cell{When: peace, System: "direct", Dest: "site", App: app.name})
		for _, dest := range []string{"p1", "p2"} {
			for _, system := range []string{"plain", "paper", "ms-each", "ms"} {
				add(app.n, app.ids, cell{When: peace, System: system, Dest: dest, App: app.name})
			}
		}
	}
	add(s.http, onlyConnect, cell{When: peace, System: "ms", Dest: "p1", App: "http", Memory: "fresh"})
	for _, g := range s.groups {
		for _, c := range g.cells() {
			n, ids := s.trials, both
			switch {
			case c.App == "ssh":
				n, ids = s.sshTrials(), onlyDownload
			case !c.ours():
				n *= s.waiting
			}
			add(n, ids, c)
		}
	}
	return all
}

// group is what is measured while one flood goes on.
type group struct {
	attacker, p string
	dests       []string
	ssh         bool // ours over ssh too: P1 is attacked at its web port, and moves its clients whatever they do
}

// groups are the floods of Table 5. P2 is not attacked, so p does not matter to it: it is measured once, as ssh is.
func groups() (all []group) {
	for _, attacker := range []string{"own", "hping3"} {
		for _, p := range shares {
			g := group{attacker: attacker, p: p, dests: []string{"p1"}}
			if attacker == "own" && p == "1" {
				g.dests, g.ssh = append(g.dests, "p2"), true
			}
			all = append(all, g)
		}
	}
	return all
}

func (g group) cells() (all []cell) {
	for _, dest := range g.dests {
		c := cell{When: flooded, Dest: dest, App: "http", P: g.p, Attacker: g.attacker}
		for _, x := range []struct{ system, memory string }{{"plain", ""}, {"paper", ""}, {"ms-each", ""}, {"ms", "fresh"}, {"ms", "remembers"}} {
			c.System, c.Memory = x.system, x.memory
			all = append(all, c)
		}
	}
	if !g.ssh {
		return all
	}
	for _, c := range (group{attacker: g.attacker, p: g.p, dests: []string{"p1"}}).cells() {
		if c.ours() {
			c.App = "ssh"
			all = append(all, c)
		}
	}
	return all
}

// sshTrials are those of a cell over ssh under the flood.
func (s sizes) sshTrials() int { return max(1, s.trials/4) }

// retries are those a user may make, as labels say them. A cell outside the flood has none.
func (c cell) retries() []string {
	if c.When == flooded {
		return []string{"0", "2"}
	}
	return []string{""}
}

// maxRetries is how often the user of a trial under the flood tries again.
const maxRetries = 2

// label gives a figure the cell's labels.
func (c cell) label(f figures.Figure, retries string) figures.Figure {
	f.Labels = c.labels()
	if retries != "" {
		f.Labels["retries"] = retries
	}
	return f
}

// kinds are the floods that the detector is shown.
var kinds = []string{"syn", "icmp"}

// find returns the figure with these names, or one without a value. Labels that a figure has beyond
// want do not matter, but memory must be as wanted.
func find(f *figures.File, id, system, when string, want map[string]string) figures.Figure {
	i := slices.IndexFunc(f.Figures, func(x figures.Figure) bool {
		if x.ID != id || x.System != system || x.When != when || x.Labels["memory"] != want["memory"] {
			return false
		}
		for k, v := range want {
			if x.Labels[k] != v {
				return false
			}
		}
		return true
	})
	if i < 0 {
		return figures.Figure{ID: id, System: system, When: when, Labels: want}
	}
	return f.Figures[i]
}
