package tables

import (
	"strconv"
	"time"

	"migrationsensor/examples/lab/figures"
)

// measured is all that a run found.
type measured struct {
	results  *results
	detected *detected
	trips    *trips

	congestion          string // TCP's, of the lab's machines
	tun                 bool   // the TUN was counted
	strays, siteFetches int    // packets in it, caused by so many fetches from an unprotected site
}

func newMeasured(s sizes) *measured {
	return &measured{results: newResults(), detected: newDetected(s.spells), trips: newTrips(s.trips)}
}

// report turns it into figures, the paper's own beside them.
func (m *measured) report(o Options, s sizes) (file *figures.File, complete bool) {
	file = figures.New(o.Command, "kernel")
	file.Host.Congestion = m.congestion
	all, complete := m.results.figures(s.plan())
	all = append(all, m.results.judgeUnprotected(all, o.Seed)...)
	stray := figures.Count("tun.unprotected", "ms", unprotected, m.strays, m.siteFetches).AtMost(0)
	if !m.tun {
		stray, complete = figures.Skip("tun.unprotected", "ms", unprotected, incomplete), false
	}
	found, whole := m.detected.figures()
	all = append(append(all, stray), found...)
	waited, counted := m.trips.figures()
	all = append(all, waited...)
	rtt := strconv.FormatFloat(float64(o.RTT)/float64(time.Millisecond), 'f', -1, 64)
	for _, f := range all {
		f = f.Label("rtt_ms", rtt)
		if o.Loss > 0 {
			f = f.Label("loss", strconv.FormatFloat(o.Loss, 'g', -1, 64))
		}
		if o.LinkRate > 0 {
			f = f.Label("link_mbit", strconv.FormatFloat(o.LinkRate/1e6, 'g', -1, 64))
		}
		file.Add(f)
	}
	file.Add(Published()...)
	return file, complete && whole && counted
}
