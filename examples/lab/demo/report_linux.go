package demo

import (
	"strconv"
	"time"

	"migrationsensor/examples/lab/figures"
)

// report turns what happened into figures. What must hold for PASS has a goal; the plain client has
// none.
func (r *run) report() *figures.File {
	file := figures.New(r.opts.Command, "kernel")
	rtt := strconv.FormatFloat(float64(r.opts.RTT)/float64(time.Millisecond), 'f', -1, 64)
	add := func(f figures.Figure) { file.Add(f.Label("rtt_ms", rtt)) }
	wrong, fetches := 0, 0
	for _, system := range []string{"ms", "ms-each", "ms-fresh", "plain"} {
		c := r.clients[system]
		if c == nil {
			continue
		}
		for _, when := range measured {
			samples := r.board.samplesOf(c.view, when)
			if len(samples) == 0 && !expected(system, when) {
				continue
			}
			for _, f := range clientFigures(system, when, samples) {
				add(f)
			}
			for _, s := range samples {
				fetches++
				if s.Wrong {
					wrong++
				}
			}
		}
	}
	add(figures.Count("digest.mismatch", "", "", wrong, fetches).AtMost(0))
	for _, f := range r.proxyFigures() {
		add(f)
	}
	for _, s := range r.scans {
		different := 0
		if !s.alike {
			different = 1
		}
		add(figures.Count("standby.replies", "ms", s.when, s.replies, s.probes).AtMost(0))
		add(figures.Count("standby.different", "ms", s.when, different, s.probes).AtMost(0))
	}
	add(figures.Count("tun.unprotected", "ms", phasePeace, r.strays, r.siteFetches).AtMost(0))
	for _, f := range r.sessionFigures() {
		add(f)
	}
	return file
}

// proxyFigures are about P1's way through its states, and the clients' to another proxy.
func (r *run) proxyFigures() []figures.Figure {
	detect := figures.Times("detect.delay", "ms", phaseFlood, nil)
	if at, ok := r.noticed(); ok {
		detect = figures.Times("detect.delay", "ms", phaseFlood, []time.Duration{max(0, at.Sub(r.floodStart))})
	}
	detect = detect.Label("kind", string(r.opts.Kind)).AtMost(3000)
	_, suspended := r.board.reached("p1", r.floodStart, "suspended")
	return []figures.Figure{
		detect,
		r.moveDelay("ms"), r.moveDelay("ms-each"), r.moveDelay("ms-fresh"),
		flag("p1.suspended", suspended), flag("p1.back", r.back),
		r.count("moves", "ms", func(c *clientView) uint64 { return c.Moves }).AtLeast(1),
		r.count("transfers", "ms-fresh", func(c *clientView) uint64 { return c.Transfers }).AtLeast(1),
		r.checked(),
		r.count("transfers", "ms-each", func(c *clientView) uint64 { return c.Transfers }),
	}
}

// checked is how many sealed replies P1's SYN Checker itself sent, beside those of its link listener.
func (r *run) checked() figures.Figure {
	r.board.mu.Lock()
	defer r.board.mu.Unlock()
	n := r.board.proxyLocked("p1").Counts["transfers"]
	return figures.Count("transfers.checker", "ms-fresh", phaseFlood, int(n), 1).AtLeast(1)
}

// moveDelay is the time from the flood's start to the first fetch that began and succeeded on
// another proxy.
func (r *run) moveDelay(system string) figures.Figure {
	f := figures.Times("move.delay", system, phaseFlood, nil)
	c := r.clients[system]
	if c == nil {
		return f.AtMost(0)
	}
	r.board.mu.Lock()
	defer r.board.mu.Unlock()
	for _, edge := range r.board.edgesAt[system] {
		if edge.name == "p1" || edge.since.Before(r.floodStart) {
			continue
		}
		for _, s := range c.view.samples {
			if end := s.Start.Add(s.Total); s.OK() && !s.Start.Before(edge.since) {
				f = figures.Times("move.delay", system, phaseFlood, []time.Duration{end.Sub(r.floodStart)})
				return f.AtMost(float64(r.opts.Flood / time.Millisecond))
			}
		}
	}
	return f.AtMost(float64(r.opts.Flood / time.Millisecond))
}

// count is how often an agent was moved (MIGRATE) or sent on (TRANSFER).
func (r *run) count(id, system string, of func(*clientView) uint64) figures.Figure {
	n := 0
	if c := r.clients[system]; c != nil {
		r.board.mu.Lock()
		n = int(of(c.view))
		r.board.mu.Unlock()
	}
	return figures.Count(id, system, phaseFlood, n, 1)
}
