package migrate

import (
	"errors"
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/figures"
)

// whole is a run in which everything went as it should.
func whole(s sizes) *found {
	r := newFound()
	for _, h := range s.herds {
		for _, rtt := range rtts {
			for _, kind := range kinds {
				e := event{kind, rtt, h.agents}
				for range h.watched * h.times(kind) {
					r.stalls[e] = append(r.stalls[e], 5*time.Millisecond)
				}
			}
		}
	}
	r.echoed, r.connections, r.moves = 1e6, s.herds[0].agents, s.moves
	r.still = []app.Transferred{{Size: s.transfer, Took: 10 * time.Second}, {Size: s.transfer, Took: 12 * time.Second}}
	r.moved = []app.Transferred{{Size: s.transfer, Took: 12 * time.Second}}
	for _, n := range s.many {
		r.many = append(r.many, Many{World: "kernel", Sessions: n, Moved: n, controls: n, Last: 5 * time.Second, Control: 6 * time.Second,
			Used: map[string]Used{"p2": {time.Second, 5 * time.Second, 1 << 20}, "anchor": {time.Second, 5 * time.Second, 1 << 20}}})
	}
	for _, n := range s.memory {
		r.many = append(r.many, Many{World: "memory", Sessions: n, Moved: n, controls: n, Last: 5 * time.Second, Control: 6 * time.Second,
			Used: map[string]Used{"all": {time.Second, 5 * time.Second, 1 << 20}}})
	}
	for what, n := range map[string]int{"session": 400, "stream": 8000} {
		r.weight[what], r.weighs[what] = map[string]float64{"agent": 5000, "edge": 0, "anchor": 5000}, n
	}
	return r
}

func TestVerdictOfARun(t *testing.T) {
	o := Options{Command: "test"}
	s := o.sizes()
	late := func(kind string, rtt time.Duration, d time.Duration) func(*found) {
		return func(r *found) {
			all := r.stalls[event{kind, rtt, s.herds[0].agents}]
			for i := range all {
				all[i] = d
			}
		}
	}
	for _, c := range []struct {
		rule  string
		spoil func(*found)
		want  error
	}{
		{"everything is good", func(*found) {}, nil},
		{"a machine too small for the most sessions", func(r *found) {
			last := len(r.many) - 1
			r.short = append(r.short, (&Many{Sessions: 1000, Idle: 0.5, Used: map[string]Used{"all": {CPU: 11 * time.Second, Of: 10 * time.Second}}}).short(r.many[last].Sessions, 2))
			r.many = r.many[:last]
		}, figures.ErrSlow},
		{"planned 21 ms", late(planned, rtts[1], 21*time.Millisecond), figures.ErrSlow},
		{"reset as long as allowed", late(reset, rtts[0], 95*time.Millisecond), nil},
		{"reset longer", late(reset, rtts[0], 96*time.Millisecond), figures.ErrSlow},
		{"silent as long as allowed", late(silent, rtts[1], 2700*time.Millisecond), nil},
		{"silent longer", late(silent, rtts[1], 2701*time.Millisecond), figures.ErrSlow},
		{"the machine's own stalls have no goal", late(none, rtts[0], time.Second), nil},
		{"a stall is missing", func(r *found) {
			e := event{silent, rtts[1], s.herds[0].agents}
			r.stalls[e] = r.stalls[e][1:]
		}, figures.ErrWrong},
		{"one byte of an echo is lost", func(r *found) { r.lost = 1 }, figures.ErrWrong},
		{"one byte of a transfer is lost", func(r *found) { r.moved[0].Lost = 1 }, figures.ErrWrong},
		{"a connection broke", func(r *found) { r.broken = []string{"reset"} }, figures.ErrWrong},
		{"a digest differs", func(r *found) { r.moved[0].Wrong = "what came down" }, figures.ErrWrong},
		{"moves cost too much", func(r *found) { r.moved[0].Took = 13 * time.Second }, figures.ErrSlow},
		{"no transfer with moves", func(r *found) { r.moved = nil }, figures.ErrWrong},
		{"many take long", func(r *found) { r.many[0].Last = 11 * time.Second }, figures.ErrSlow},
		{"control links take long", func(r *found) { r.many[0].Control = r.many[0].Last + 30*time.Second + 1 }, figures.ErrSlow},
		{"a control link stays", func(r *found) { r.many[0].controls-- }, figures.ErrSlow},
		{"a session did not move", func(r *found) { r.many[0].Moved-- }, figures.ErrWrong},
		{"many are missing", func(r *found) { r.many = nil }, figures.ErrWrong},
		{"a stream is heavy", func(r *found) { r.weight["stream"]["anchor"] = 8193 }, figures.ErrWrong},
		{"nothing was weighed", func(r *found) { delete(r.weight, "session") }, figures.ErrWrong},
	} {
		r := whole(s)
		c.spoil(r)
		file, complete := r.report(o, s)
		if got := figures.Judge(file, complete, ofTime...); !errors.Is(got, c.want) || (got == nil) != (c.want == nil) {
			t.Errorf("%s: got %v, want %v; %s", c.rule, got, c.want, summary(file, got, nil))
		}
	}
}

func TestQuickRunHasTheSameFigures(t *testing.T) {
	names := func(quick bool) map[string]bool {
		o := Options{Quick: quick}
		s := o.sizes()
		file, _ := whole(s).report(o, s)
		ids := map[string]bool{}
		for _, f := range file.Figures {
			ids[f.ID+" "+f.Labels["kind"]+f.Labels["at"]+f.Labels["rtt_ms"]] = true
		}
		return ids
	}
	slow, quick := names(false), names(true)
	for id := range slow {
		if !quick[id] {
			t.Errorf("a quick run has no %s", id)
		}
	}
}

func TestTableSaysWhatWasNotRun(t *testing.T) {
	o := Options{}
	s := o.sizes()
	r := whole(s)
	r.many = nil
	file, complete := r.report(o, s)
	err := figures.Judge(file, complete, ofTime...)
	var out strings.Builder
	if err := printTable(&out, file); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "many.last 2000 sessions kernel") || !strings.Contains(out.String(), "not run: "+incomplete) {
		t.Errorf("%s", out.String())
	}
	if got := summary(file, err, nil); !strings.HasPrefix(got, "FAIL") {
		t.Error(got)
	}
}
