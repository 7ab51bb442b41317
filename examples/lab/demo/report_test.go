package demo

import (
	"errors"
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
)

// good is a run in which everything went as it should.
func goodRun() *run {
	b := newBoard()
	b.proxies = []*proxyView{{Name: "p1", Kind: "entry"}}
	start := time.Now()
	r := &run{opts: &Options{Kind: "syn", RTT: 15 * time.Millisecond, Flood: 10 * time.Second}, board: b, floodStart: start, back: true, clients: map[string]*client{}}
	r.lasting = goodSessions(start)
	r.before = counts{moves: map[string]uint64{"ms": 1}}
	r.moved = counts{moves: map[string]uint64{"ms": 2}, transfers: map[string]uint64{"ms-fresh": 1, "ms-each": 40}, checked: 1}
	for i, kind := range stallKinds {
		from := start.Add(time.Duration(10*i) * time.Second)
		b.marks[kind] = mark{from, from.Add(10 * time.Second)}
	}
	for i, system := range []string{"ms", "ms-each", "ms-fresh", "plain"} {
		v := &clientView{Name: system, System: system}
		b.clients = append(b.clients, v)
		r.clients[system] = &client{view: v}
		for _, when := range measured {
			ok := system != "plain" || when != phaseFlood
			v.samples = append(v.samples, fleet.Sample{When: when, Start: start.Add(3 * time.Second), Connected: ok, Whole: ok, Connect: 15 * time.Millisecond, Total: 90 * time.Millisecond})
		}
		if i < 3 {
			b.edgesAt[system] = []edgeAt{{"p1", start.Add(-time.Minute)}, {"p2", start.Add(2 * time.Second)}}
		}
	}
	b.states["p1"] = []stateAt{{"active", start.Add(-time.Minute)}, {"defending", start.Add(time.Second)}, {"suspended", start.Add(5 * time.Second)}}
	for _, when := range []string{phasePeace, phaseFlood, phaseAfter} {
		r.scans = append(r.scans, scanned{when: when, probes: 100})
	}
	return r
}

// goodSessions arrive each 50 ms for a minute.
func goodSessions(start time.Time) *sessions {
	s := &sessions{typist: &app.Typist{}, reader: app.NewReader(), finished: true, servedN: 100, gotN: 100}
	for at := start.Add(-time.Second); at.Before(start.Add(time.Minute)); at = at.Add(typing) {
		s.typist.Add(at)
		s.reader.Add(at)
	}
	return s
}

// stands makes a session stand still.
func stands(from time.Time, d time.Duration) *app.Trace {
	out := &app.Trace{}
	for at := from.Add(-40 * time.Second); at.Before(from.Add(time.Minute)); at = at.Add(typing) {
		if at.Before(from) || at.After(from.Add(d)) {
			out.Add(at)
		}
	}
	return out
}

func TestVerdictOfTheDemo(t *testing.T) {
	if f := goodRun().report(); !f.Decide(true) {
		t.Fatalf("a good run: %s", summary(f, nil))
	}
	for rule, spoil := range map[string]func(*run){
		"an agent's download fails":       func(r *run) { r.clients["ms"].view.samples[1].Whole = false },
		"an agent's connect fails":        func(r *run) { r.clients["ms-each"].view.samples[1].Connected = false },
		"an agent was not measured":       func(r *run) { r.clients["ms"].view.samples = nil },
		"a digest is wrong":               func(r *run) { r.clients["plain"].view.samples[0].Wrong = true },
		"a scan got an answer":            func(r *run) { r.scans[1].replies = 1 },
		"a scan tells dark from unused":   func(r *run) { r.scans[1].different = 1 },
		"unprotected traffic in the TUN":  func(r *run) { r.strays = 1 },
		"the flood was not noticed":       func(r *run) { r.board.states["p1"] = nil },
		"P1 was never suspended":          func(r *run) { r.board.states["p1"] = r.board.states["p1"][:2] },
		"P1 did not come back":            func(r *run) { r.back = false },
		"an agent stayed on P1":           func(r *run) { r.board.edgesAt["ms"] = r.board.edgesAt["ms"][:1] },
		"no MIGRATE moved the warm agent": func(r *run) { r.moved.moves["ms"] = 1 },
		"the SYN Checker sent nothing":    func(r *run) { r.moved.checked = 0 },
		"ssh stood still after the death": func(r *run) {
			r.lasting.typist = &app.Typist{Trace: *stands(r.board.marks[phaseKilled].from.Add(time.Second), 4*time.Second)}
		},
		"the download never went on": func(r *run) {
			r.lasting.reader = &app.Reader{Trace: *stands(r.board.marks[phaseDrained].from, time.Hour)}
		},
		"nothing was drained":             func(r *run) { delete(r.board.marks, phaseDrained) },
		"ssh ended by itself":             func(r *run) { r.lasting.sshErr = errors.New("reset") },
		"the download's digest":           func(r *run) { r.lasting.got[0] ^= 1 },
		"the download lost its end":       func(r *run) { r.lasting.gotN = 99 },
		"there were no sessions":          func(r *run) { r.lasting = nil },
		"the fresh agent got no TRANSFER": func(r *run) { r.moved.transfers = nil },
	} {
		t.Run(rule, func(t *testing.T) {
			r := goodRun()
			spoil(r)
			if f := r.report(); f.Decide(true) {
				t.Error("the verdict is pass")
			}
		})
	}
}

func TestPlainClientDoesNotDecide(t *testing.T) {
	r := goodRun()
	for i := range r.clients["plain"].view.samples {
		r.clients["plain"].view.samples[i] = fleet.Sample{When: phaseFlood, Err: "timed out"}
	}
	if f := r.report(); !f.Decide(true) {
		t.Errorf("%s: PASS must not depend on the plain client", summary(f, nil))
	}
}

func TestTableHasALineForEachClientAndPhase(t *testing.T) {
	r := goodRun()
	f := r.report()
	f.Decide(true)
	var out strings.Builder
	if err := table(&out, f, r.board); err != nil {
		t.Fatal(err)
	}
	for _, c := range r.board.clients {
		if n := strings.Count(out.String(), "\n"+c.Name+" "); n != len(measured) {
			t.Errorf("%d lines for %s, want %d:\n%s", n, c.Name, len(measured), out.String())
		}
	}
	if !strings.Contains(out.String(), "standby.replies") || strings.Count(out.String(), "✗") != 0 {
		t.Errorf("what had to hold is not there, or not met:\n%s", out.String())
	}
}

// TestAgentElsewhere: of an agent that was not at P1 the flood wants nothing, and its later moves are not the flood's.
func TestAgentElsewhere(t *testing.T) {
	r := goodRun()
	r.board.edgesAt["ms-each"] = []edgeAt{{"p1", r.floodStart.Add(-time.Minute)}, {"e2", r.floodStart.Add(-time.Second)}, {"p3", r.floodStart.Add(2 * time.Second)}}
	f := r.moveDelay("ms-each")
	if f.Value != nil || !strings.Contains(f.Skipped, "at e2") {
		t.Errorf("move.delay %+v, want that it was at e2", f)
	}
	if f := r.moveDelay("ms"); f.Value == nil || *f.Value != 3090 {
		t.Errorf("move.delay of the others %+v, want 3.09 s: until the end of the first fetch at P2", f)
	}
}

// TestStallsAreOfTheirPhase: what a session felt in a phase stands in that phase's column, and the way there.
func TestStallsAreOfTheirPhase(t *testing.T) {
	r := goodRun()
	killed := r.board.marks[phaseKilled]
	r.board.edgesAt["ms"] = append(r.board.edgesAt["ms"], edgeAt{"p1", killed.from.Add(time.Second)})
	r.lasting.typist = &app.Typist{Trace: *stands(killed.from.Add(time.Second), 2*time.Second)}
	r.board.lasting = []*lastingView{{"ssh", typing, &r.lasting.typist.Trace}}
	n := r.board.snapshot()
	if got := n.Lasting[0].Stalls; got[phaseKilled] < 1900*time.Millisecond || got[phasePeace] > visible || got[phaseDrained] > visible {
		t.Errorf("stalls %v, want 2 s in %s and none elsewhere", got, phaseKilled)
	}
	if n.Way[phaseKilled] != "p2→p1" || n.Way[phaseDrained] != "p1" {
		t.Errorf("ways %v, want p2→p1 when P2 was killed, and p1 then", n.Way)
	}
	f := r.report()
	f.Decide(true)
	var out strings.Builder
	if err := table(&out, f, r.board); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"p2→p1", "2050.0 ms"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

// TestSlowIsNotWrong: a stall that is too long is a matter of the machine, one without an end is not.
func TestSlowIsNotWrong(t *testing.T) {
	for _, tt := range []struct {
		stall time.Duration
		slow  bool
	}{{4 * time.Second, true}, {time.Hour, false}} {
		r := goodRun()
		r.lasting.typist = &app.Typist{Trace: *stands(r.board.marks[phaseKilled].from.Add(time.Second), tt.stall)}
		f := r.report()
		if f.Decide(true) || onlySlow(f) != tt.slow {
			t.Errorf("a stall of %v: only slow %v, want %v: %s", tt.stall, onlySlow(f), tt.slow, summary(f, nil))
		}
	}
}
