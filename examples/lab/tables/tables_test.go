package tables

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/fleet"
)

func options(quick bool) *Options {
	return &Options{RTT: 15 * time.Millisecond, Quick: quick, Command: "test"}
}

// sample is a fetch that succeeded.
func sample(connect, total float64) fleet.Sample {
	ms := func(x float64) time.Duration { return time.Duration(x * float64(time.Millisecond)) }
	return fleet.Sample{Connect: ms(connect), Total: ms(total), Connected: true, Whole: true}
}

// good is a run in which every goal is met.
func good(s sizes) (*results, *detected) {
	r := newResults()
	for _, p := range s.plan() {
		connect := map[string]float64{"paper": 50, "ms-each": 31, "ms": 15.4}[p.System]
		if connect == 0 || p.Dest == "p2" || p.When == unprotected {
			connect = 15.3
		}
		for i := range p.n {
			noise := float64(i%7) / 100
			x := sample(connect+noise, connect+60+noise)
			if p.When == flooded && !p.ours() && i%10 > 0 {
				x = fleet.Sample{Err: "connect: timed out"}
			}
			r.add(p.cell, trial{x})
		}
	}
	d := newDetected(s.spells)
	for range s.spells {
		for _, kind := range kinds {
			d.flooded(kind, true, 300*time.Millisecond)
		}
		d.peaceful()
	}
	return r, d
}

// filed is the run's file.
func filed(s sizes, r *results, d *detected) (*figures.File, bool) {
	m := &measured{results: r, detected: d, trips: counted(s), tun: true, siteFetches: 5}
	return m.report(*options(true), s)
}

// counted are as many round trips as there may be.
func counted(s sizes) *trips {
	t := newTrips(s.trips)
	for _, c := range tripCells() {
		most, ours := c.waits()
		for range s.trips {
			if !ours {
				most = 1
			}
			t.add(c, most)
		}
	}
	return t
}

func TestRoundTripsAreHeldToTheirNumber(t *testing.T) {
	for _, tt := range []struct {
		rule string
		c    cell
		most int
		ours bool
	}{
		{"warm links wait once", cell{When: peace, System: "ms"}, 1, true},
		{"also under the flood", cell{When: flooded, System: "ms", Memory: "remembers"}, 1, true},
		{"a probe is two", cell{When: peace, System: "ms-each"}, 2, true},
		{"without a session: TCP, TLS, OPEN", cell{When: peace, System: "ms", Memory: "fresh"}, 3, true},
		{"and a TRANSFER before", cell{When: flooded, System: "ms", Memory: "fresh"}, 5, true},
		{"which ms-each needs too, for it forgets", cell{When: flooded, System: "ms-each"}, 5, true},
		{"others have no goal", cell{When: peace, System: "paper"}, 0, false},
	} {
		if most, ours := tt.c.waits(); most != tt.most || ours != tt.ours {
			t.Errorf("%s: got %d %v, want %d %v", tt.rule, most, ours, tt.most, tt.ours)
		}
	}
	s := options(true).sizes()
	few := newTrips(s.trips)
	if _, complete := few.figures(); complete {
		t.Error("nothing counted is complete")
	}
	slow := counted(s)
	c := cell{When: peace, System: "ms", Dest: "p1", App: "http"}
	slow.all[c] = nil
	for range s.trips {
		slow.add(c, 2)
	}
	all, _ := slow.figures()
	if f := find(&figures.File{Figures: all}, "round_trips", "ms", peace, c.labels()); f.Meets == nil || *f.Meets {
		t.Errorf("a second round trip meets the goal: %+v", f)
	}
}

// name is what names a figure.
func name(f figures.Figure) string {
	labels := maps.Clone(f.Labels)
	return fmt.Sprint(f.ID, " ", f.System, " ", f.When, " ", labels)
}

func TestQuickAndFullRunHaveTheSameFigures(t *testing.T) {
	var all [2][]string
	for i, quick := range []bool{false, true} {
		s := options(quick).sizes()
		r, d := good(s)
		f, complete := filed(s, r, d)
		if !complete {
			t.Fatalf("quick %v: a run with every trial is not complete", quick)
		}
		seen := map[string]bool{}
		for _, x := range f.Figures {
			n := name(x)
			if seen[n] {
				t.Errorf("two figures are named %s", n)
			}
			seen[n] = true
			all[i] = append(all[i], n)
			if x.System != "published" && x.Labels["rtt_ms"] != "15" {
				t.Errorf("%s lacks rtt_ms", n)
			}
		}
	}
	if !slices.Equal(all[0], all[1]) {
		t.Error("the quick run has other figures than the full one")
	}
	for _, want := range []cell{
		{When: flooded, System: "ms", Dest: "p1", App: "http", P: "0.25", Attacker: "hping3", Memory: "fresh"},
		{When: peace, System: "paper", Dest: "p2", App: "ssh"},
		{When: peace, System: "direct", Dest: "site", App: "ssh"},
		{When: unprotected, System: "ms", App: "http"},
	} {
		if !slices.ContainsFunc(options(false).sizes().plan(), func(p planned) bool { return p.cell == want }) {
			t.Errorf("no cell %+v", want)
		}
	}
}

func TestVerdict(t *testing.T) {
	s := options(true).sizes()
	ms := func(app string) cell { return cell{When: peace, System: "ms", Dest: "p1", App: app} }
	flood := cell{When: flooded, System: "ms", Dest: "p1", App: "http", P: "0.5", Attacker: "own", Memory: "fresh"}
	slower := func(r *results, c cell) {
		for i := range r.trials[c] {
			r.trials[c][i][0].Connect += 20 * time.Millisecond
			r.trials[c][i][0].Total += 20 * time.Millisecond
		}
	}
	for rule, x := range map[string]struct {
		spoil func(*results, *detected)
		want  error
	}{
		"all is well": {func(*results, *detected) {}, nil},
		"the plain proxy fails": {func(r *results, _ *detected) {
			r.trials[cell{When: peace, System: "plain", Dest: "p1", App: "http"}][0][0] = fleet.Sample{}
		}, nil},
		"the paper's P1 is slow": {func(r *results, _ *detected) { slower(r, cell{When: peace, System: "paper", Dest: "p1", App: "http"}) }, nil},
		"no hping3 here": {func(r *results, _ *detected) {
			c := flood
			c.Attacker = "hping3"
			delete(r.trials, c)
			r.skip(c, "no hping3")
		}, nil},
		"our connect is slow":                {func(r *results, _ *detected) { slower(r, ms("http")) }, figures.ErrSlow},
		"our ssh is slow":                    {func(r *results, _ *detected) { slower(r, ms("ssh")) }, figures.ErrSlow},
		"an agent slows what is unprotected": {func(r *results, _ *detected) { slower(r, cell{When: unprotected, System: "ms", App: "http"}) }, figures.ErrSlow},
		"a flood is found late":              {func(_ *results, d *detected) { d.delays["syn"][1] = 1100 * time.Millisecond }, figures.ErrSlow},
		"a flood is not found":               {func(_ *results, d *detected) { d.delays["icmp"] = d.delays["icmp"][1:] }, figures.ErrWrong},
		"an alarm in peace":                  {func(_ *results, d *detected) { d.alarmed("syn") }, figures.ErrWrong},
		"a spell is missing":                 {func(_ *results, d *detected) { d.spellsDone-- }, figures.ErrWrong},
		"our download fails":                 {func(r *results, _ *detected) { r.trials[ms("ssh")][0][0].Whole = false }, figures.ErrWrong},
		"our fresh agent fails in the flood": {func(r *results, _ *detected) { r.trials[flood][0][0] = fleet.Sample{Err: "timed out"} }, figures.ErrWrong},
		"a digest is wrong, even of the plain": {func(r *results, _ *detected) {
			r.trials[cell{When: peace, System: "plain", Dest: "p2", App: "ssh"}][0][0].Wrong = true
		}, figures.ErrWrong},
		"a trial is missing": {func(r *results, _ *detected) { r.trials[flood] = r.trials[flood][1:] }, figures.ErrWrong},
	} {
		t.Run(rule, func(t *testing.T) {
			r, d := good(s)
			x.spoil(r, d)
			f, complete := filed(s, r, d)
			if err := figures.Judge(f, complete, "ms"); !errors.Is(err, x.want) || (err == nil) != (x.want == nil) {
				t.Errorf("got %v, want %v: %s", err, x.want, summary(f, err, nil))
			}
		})
	}
}

func TestBaselineIsThePlainProxyOfTheSameTable(t *testing.T) {
	s := options(true).sizes()
	f, _ := filed(s, first(good(s)), second(good(s)))
	each := find(f, "connect", "ms-each", peace, map[string]string{"dest": "p1", "app": "http"})
	plain := find(f, "connect", "plain", peace, map[string]string{"dest": "p1", "app": "http"})
	if each.Baseline == nil || each.Baseline.System != "plain" || each.Baseline.Value != *plain.Value || each.Goal != "ratio <= 2.1" {
		t.Errorf("ms-each to P1: %+v, goal %q", each.Baseline, each.Goal)
	}
	if direct := find(f, "connect", "direct", peace, nil); direct.Baseline != nil || direct.Goal != "" {
		t.Errorf("direct is compared with %+v, goal %q", direct.Baseline, direct.Goal)
	}
}

func first[A, B any](a A, _ B) A  { return a }
func second[A, B any](_ A, b B) B { return b }

func TestRetriesAreTheUsersAndHisTimeCounts(t *testing.T) {
	start := time.Now()
	failed := fleet.Sample{Start: start, Err: "timed out"}
	late := sample(15, 80)
	late.Start = start.Add(3 * time.Second)
	x := trial{failed, late}
	if _, ok := x.connected(0); ok {
		t.Error("the first attempt failed, and without retries the trial did not")
	}
	if d, ok := x.connected(2); !ok || d != 3015*time.Millisecond {
		t.Errorf("with retries: %v %v, want the time since the first attempt began", d, ok)
	}
	if d, ok := x.downloaded(2); !ok || d != 3080*time.Millisecond {
		t.Errorf("download with retries: %v %v", d, ok)
	}
	cut := sample(15, 0)
	cut.Whole, cut.Start = false, start
	if d, ok := (trial{cut, late}).connected(2); !ok || d != 15*time.Millisecond {
		t.Errorf("connected at once, downloaded later: connect %v %v", d, ok)
	}
}

func TestNoise(t *testing.T) {
	var a, b []time.Duration
	for i := range 60 {
		a = append(a, 15*time.Millisecond+time.Duration(i*7%60)*time.Microsecond)
		b = append(b, 15*time.Millisecond+time.Duration(i*11%60)*time.Microsecond)
	}
	same := noise(a, b, 1)
	if same <= 0 || same > 30*time.Microsecond {
		t.Errorf("two alike clients differ by %v", same)
	}
	if noise(a, b, 1) != same {
		t.Error("a seed does not fix the noise")
	}
	for i := range b {
		b[i] += time.Millisecond
	}
	if got := noise(a, b, 1); got < 900*time.Microsecond {
		t.Errorf("clients that differ by 1 ms have noise %v", got)
	}
	if noise(nil, b, 1) != 0 {
		t.Error("no samples, and a noise")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for rule, x := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no round trip":       {func(o *Options) { o.RTT = 0 }, "--rtt"},
		"too long a one":      {func(o *Options) { o.RTT = 2 * time.Second }, "--rtt"},
		"a loss above reason": {func(o *Options) { o.Loss = 0.5 }, "--loss"},
		"a loss that is none": {func(o *Options) { o.Loss = math.NaN() }, "--loss"},
		"a negative rate":     {func(o *Options) { o.LinkRate = -1 }, "--link-mbit"},
		"negative rounds":     {func(o *Options) { o.N = -1 }, "-n"},
		"no programs":         {func(o *Options) { o.Bin = t.TempDir() }, "make"},
	} {
		o := options(false)
		x.change(o)
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want an error that names %s", rule, err, x.want)
		}
	}
	if s := (&Options{N: 1000}).sizes(); s.http != 1000 || s.ssh != 1000 || s.unprotected != 1000 || s.trials != 250 {
		t.Errorf("N=1000 gives %+v", s)
	}
}

func TestAlarmsOfALog(t *testing.T) {
	log := `# proxyd run --config /run/p1.toml
{"time":"2026-11-27T15:18:00.1Z","level":"INFO","msg":"proxy running","kind":"entry"}
{"time":"2026-11-27T15:18:01.3Z","level":"WARN","msg":"attack detected","kind":"syn","rate":1435.5,"threshold":1250}
not JSON
{"time":"2026-11-27T15:18:09Z","level":"WARN","msg":"attack detected","kind":"icmp"}
`
	all, err := alarmsIn(strings.NewReader(log))
	if err != nil || len(all) != 2 || all[0].Kind != "syn" {
		t.Fatalf("%v: %+v", err, all)
	}
	if a, ok := firstAlarm(all, all[0].Time.Add(time.Second), all[1].Time); !ok || a.Kind != "icmp" {
		t.Errorf("first alarm after the first: %+v %v", a, ok)
	}
	if _, ok := firstAlarm(all, all[1].Time.Add(1), all[1].Time.Add(time.Hour)); ok {
		t.Error("an alarm of before counts")
	}
}
