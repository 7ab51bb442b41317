package demo

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/fleet"
)

// ErrFailed says that the scenario was played to its end and a goal was missed.
var ErrFailed = errors.New("the demo did not pass")

// expected reports whether a client must have been measured in a phase: no samples are no success.
func (r *run) expected(system, when string) bool {
	if when == phaseOrphan && !r.opts.entryDies {
		return false
	}
	switch system {
	case "ms", "ms-each":
		return when != phaseReturn // may be shorter than a fetch
	case "ms-fresh":
		return when == phaseFlood || when == phaseAfter
	}
	return false
}

// report turns what happened into figures. What must hold for PASS has a goal; the plain client has
// none.
func (r *run) report() *figures.File {
	file := figures.New(r.opts.Command, r.where)
	rtt := strconv.FormatFloat(float64(r.opts.RTT)/float64(time.Millisecond), 'f', -1, 64)
	add := func(fs ...figures.Figure) {
		for _, f := range fs {
			file.Add(f.Label("rtt_ms", rtt))
		}
	}
	wrong, fetches := 0, 0
	for _, system := range []string{"ms", "ms-each", "ms-fresh", "plain"} {
		c := r.clients[system]
		if c == nil {
			continue
		}
		for _, when := range measured {
			samples := r.board.samplesOf(c.view, when)
			if len(samples) == 0 && (r.opts.light || !r.expected(system, when)) {
				continue
			}
			add(clientFigures(system, when, samples)...)
			for _, s := range samples {
				fetches++
				if s.Wrong {
					wrong++
				}
			}
		}
	}
	add(figures.Count("digest.mismatch", "", "", wrong, fetches).AtMost(0))
	add(r.proxyFigures()...)
	for _, s := range r.scans {
		add(figures.Count("standby.replies", "ms", s.when, s.replies, s.probes).AtMost(0))
		add(figures.Count("standby.different", "ms", s.when, s.different, s.probes).AtMost(0))
	}
	add(figures.Count("tun.unprotected", "ms", phasePeace, r.strays, r.siteFetches).AtMost(0))
	add(r.sessionFigures()...)
	if r.more != nil {
		add(r.more()...)
	}
	return file
}

// clientFigures are a client's in one phase: failures are in the shares, not in the times.
func clientFigures(system, when string, samples []fleet.Sample) []figures.Figure {
	var connects, downloads []time.Duration
	for _, s := range samples {
		if s.Connected {
			connects = append(connects, s.Connect)
		}
		if s.OK() {
			downloads = append(downloads, s.Total)
		}
	}
	connected := figures.Share("success.connect", system, when, len(connects), len(samples))
	downloaded := figures.Share("success.download", system, when, len(downloads), len(samples))
	if system != "plain" && !(system == "ms-each" && when == phaseOrphan) { // that one asks the dead proxy for every connection
		connected, downloaded = connected.AtLeast(1), downloaded.AtLeast(1)
	}
	return []figures.Figure{
		figures.Times("connect", system, when, connects), figures.Times("download_760k", system, when, downloads),
		connected, downloaded,
	}
}

// proxyFigures are about P1's way through its states, and the clients' to another proxy.
func (r *run) proxyFigures() []figures.Figure {
	detect := figures.Times("detect.delay", "ms", phaseFlood, nil)
	if at, ok := r.noticed(); ok {
		detect = figures.Times("detect.delay", "ms", phaseFlood, []time.Duration{max(0, at.Sub(r.floodStart))})
	}
	detect = detect.Label("kind", string(r.opts.Kind)).AtMost(3000)
	_, suspended := r.board.reached("p1", r.floodStart, "suspended")
	// What the programs counted from the flood's begin until P1 was back. The fresh one began anew meanwhile.
	during := func(id, system string, before, after uint64) figures.Figure {
		return figures.Count(id, system, phaseFlood, max(0, int(after)-int(before)), 1)
	}
	return []figures.Figure{
		detect,
		r.moveDelay("ms"), r.moveDelay("ms-each"), r.moveDelay("ms-fresh"),
		flag("p1.suspended", suspended), flag("p1.back", r.back),
		during("moves", "ms", r.before.moves["ms"], r.moved.moves["ms"]).AtLeast(1),
		during("transfers", "ms-fresh", 0, r.moved.transfers["ms-fresh"]).AtLeast(1),
		during("transfers.checker", "ms-fresh", r.before.checked, r.moved.checked).AtLeast(1), // beside those of P1's link listener
		during("transfers", "ms-each", r.before.transfers["ms-each"], r.moved.transfers["ms-each"]),
	}
}

// moveDelay is the time from the flood's start to the first fetch that began at another proxy and succeeded. Of an agent that
// was not at P1 the flood wants nothing.
func (r *run) moveDelay(system string) figures.Figure {
	f := figures.Times("move.delay", system, phaseFlood, nil).AtMost(float64(r.opts.Flood / time.Millisecond))
	c := r.clients[system]
	if c == nil {
		return f
	}
	if at := r.board.at(system, r.floodStart); at != "" && at != "p1" && system != "ms-fresh" {
		return figures.Skip("move.delay", system, phaseFlood, "it was at "+at+" when P1 was flooded")
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
	return f
}

func flag(id string, yes bool) figures.Figure {
	n := 0
	if yes {
		n = 1
	}
	return figures.Count(id, "ms", phaseFlood, n, 1).AtLeast(1)
}

// summary is the last word.
func summary(file *figures.File, err error) string {
	if err != nil {
		return fmt.Sprintf("FAIL: %v", err)
	}
	if file.Verdict == "pass" {
		return "PASS"
	}
	var s strings.Builder
	s.WriteString("FAIL:")
	for _, f := range file.Figures {
		if f.Meets != nil && !*f.Meets {
			fmt.Fprintf(&s, " %s (%s);", f.ID, strings.Join(names(f), ", "))
		}
	}
	return s.String()
}

// names are what tells a figure from others of the same id.
func names(f figures.Figure) (out []string) {
	for _, n := range []string{f.System, f.When, f.Labels["app"], f.Labels["kind"]} {
		if n != "" {
			out = append(out, n)
		}
	}
	return out
}
