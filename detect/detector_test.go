package detect

import (
	"slices"
	"testing"
	"time"
)

// step is one observation: so many packets of each kind since the step before.
type step struct {
	after   time.Duration
	packets Counts
	attack  bool
	changed bool
	kind    Kind
}

func TestDetector(t *testing.T) {
	const s = time.Second
	all := [Kinds]float64{10000, 1000, 500, 2000}
	for _, tc := range []struct {
		name  string
		cfg   Config
		steps []step
	}{
		{"peace stays peace", Config{Threshold: all}, []step{
			{s, Counts{9999, 999, 499, 1999}, false, false, 0},
			{s, Counts{9999, 999, 499, 1999}, false, false, 0},
		}},
		{"a rate at the threshold is an attack", Config{Threshold: all}, []step{
			{s, Counts{1000, 1000, 0, 0}, true, true, SYN},
			{s, Counts{1000, 1000, 0, 0}, true, false, SYN},
		}},
		{"SYN before all when both fire", Config{Threshold: all}, []step{
			{s, Counts{20000, 1000, 0, 0}, true, true, SYN},
		}},
		{"ICMP and UDP before all", Config{Threshold: all}, []step{
			{s, Counts{20000, 0, 600, 0}, true, true, ICMP},
			{s, Counts{20000, 0, 0, 3000}, true, false, UDP},
		}},
		{"the kind furthest over its threshold", Config{Threshold: all}, []step{
			{s, Counts{9000, 1100, 5000, 0}, true, true, ICMP},
		}},
		{"all when nothing else explains it", Config{Threshold: all}, []step{
			{s, Counts{10000, 10, 10, 10}, true, true, All},
		}},
		{"a threshold of 0 is off", Config{Threshold: [Kinds]float64{SYN: 1000}}, []step{
			{s, Counts{1e6, 0, 1e6, 1e6}, false, false, 0},
		}},
		{"over only after the quiet time", Config{Threshold: all, Quiet: 3 * s}, []step{
			{s, Counts{1000, 1000, 0, 0}, true, true, SYN},
			{s, Counts{}, true, false, SYN},
			{s, Counts{}, true, false, SYN},
			{s, Counts{}, false, true, SYN},
			{s, Counts{}, false, false, SYN},
		}},
		{"a flood that flaps is one attack", Config{Threshold: all, Quiet: 3 * s}, []step{
			{s, Counts{1000, 1000, 0, 0}, true, true, SYN},
			{2 * s, Counts{}, true, false, SYN},
			{s, Counts{1000, 1000, 0, 0}, true, false, SYN},
			{2 * s, Counts{}, true, false, SYN},
			{s, Counts{}, false, true, SYN},
		}},
		{"counts add up to an interval", Config{Threshold: all}, []step{
			{300 * time.Millisecond, Counts{900, 900, 0, 0}, false, false, 0},
			{300 * time.Millisecond, Counts{}, false, false, 0},
			{400 * time.Millisecond, Counts{200, 200, 0, 0}, true, true, SYN},
		}},
		{"a second that no bin of the clock holds", Config{Threshold: all}, []step{
			{500 * time.Millisecond, Counts{}, false, false, 0},
			{500 * time.Millisecond, Counts{500, 500, 0, 0}, false, false, 0},
			{500 * time.Millisecond, Counts{500, 500, 0, 0}, true, true, SYN},
		}},
		{"an alarm waits for no end of an interval", Config{Threshold: all}, []step{
			{s, Counts{}, false, false, 0},
			{100 * time.Millisecond, Counts{999, 999, 0, 0}, false, false, 0},
			{100 * time.Millisecond, Counts{1, 1, 0, 0}, true, true, SYN},
		}},
		{"just after the start half a second is not taken for a whole one", Config{Threshold: all}, []step{
			{500 * time.Millisecond, Counts{999, 999, 0, 0}, false, false, 0},
			{500 * time.Millisecond, Counts{}, false, false, 0},
			{100 * time.Millisecond, Counts{}, false, false, 0},
		}},
		{"a call within half a step waits", Config{Threshold: all}, []step{
			{40 * time.Millisecond, Counts{1000, 1000, 0, 0}, false, false, 0},
			{60 * time.Millisecond, Counts{}, true, true, SYN},
		}},
		{"the kind that explains all comes a step later", Config{Threshold: [Kinds]float64{All: 1000, SYN: 1000}}, []step{
			{s, Counts{1050, 950, 0, 0}, true, true, All},
			{100 * time.Millisecond, Counts{1000, 1000, 0, 0}, true, false, SYN},
		}},
		{"a ticker's jitter skips no interval", Config{Threshold: all}, []step{
			{s - 5*time.Millisecond, Counts{1000, 1000, 0, 0}, true, true, SYN},
		}},
		{"a late call sees the rate, not the sum", Config{Threshold: all}, []step{
			{4 * s, Counts{3996, 3996, 0, 0}, false, false, 0},
		}},
		{"a flood that begins while calls are late", Config{Threshold: all}, []step{
			{4 * s, Counts{900, 900, 0, 0}, false, false, 0},
			{400 * time.Millisecond, Counts{1000, 1000, 0, 0}, true, true, SYN},
		}},
		{"calls that are too rare lose nothing", Config{Threshold: all}, append(
			slices.Repeat([]step{{300 * time.Millisecond, Counts{315, 315, 0, 0}, false, false, 0}}, 3),
			step{300 * time.Millisecond, Counts{315, 315, 0, 0}, true, true, SYN}),
		},
		{"nor do calls that are too many", Config{Threshold: all}, append(
			slices.Repeat([]step{{50 * time.Millisecond, Counts{50, 50, 0, 0}, false, false, 0}}, 19),
			step{50 * time.Millisecond, Counts{50, 50, 0, 0}, true, true, SYN}),
		},
		{"a short interval", Config{Threshold: all, Interval: 100 * time.Millisecond}, []step{
			{100 * time.Millisecond, Counts{99, 99, 0, 0}, false, false, 0},
			{100 * time.Millisecond, Counts{100, 100, 0, 0}, true, true, SYN},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := New(tc.cfg)
			now, sum := time.Unix(1e9, 0), Counts{7, 7, 7, 7}
			d.Observe(now, sum)
			for i, st := range tc.steps {
				now = now.Add(st.after)
				for k := range sum {
					sum[k] += st.packets[k]
				}
				v := d.Observe(now, sum)
				if v.Attack != st.attack || v.Changed != st.changed || v.Kind != st.kind {
					t.Fatalf("step %d: got %+v, want %+v", i, v, st)
				}
				if v.Changed && !v.Since.Equal(now) {
					t.Errorf("step %d: since %v, want %v", i, v.Since, now)
				}
			}
		})
	}
}

// A flood enters and leaves the window step by step; the verdict keeps its height.
func TestVerdictSaysWhy(t *testing.T) {
	d := New(Config{Threshold: [Kinds]float64{All: 1000, SYN: 1000}, Quiet: time.Second})
	now, c := time.Unix(1e9, 0), Counts{}
	want := func(steps int, more Counts, why string) {
		t.Helper()
		var got string
		for range steps {
			now = now.Add(d.Step())
			for k, n := range more {
				c[k] += n
			}
			got = d.Observe(now, c).Why()
		}
		if got != why {
			t.Errorf("got %q, want %q", got, why)
		}
	}
	flood := Counts{All: 2010, SYN: 2000}
	want(11, Counts{}, "every rate below its threshold")
	want(1, flood, "syn flood: 2000 packets/s, threshold 1000")
	want(20, flood, "syn flood: 20000 packets/s, threshold 1000")
	want(9, Counts{All: 50}, "syn flood: 20000 packets/s, threshold 1000")
	want(10, Counts{All: 50}, "quiet since a syn flood of 20000 packets/s")
	want(5, Counts{SYN: 200, All: 200}, "syn flood: 1000 packets/s, threshold 1000")
}

func TestCountsThatBeginAgain(t *testing.T) {
	d := New(Config{Threshold: [Kinds]float64{All: 100}})
	now := time.Unix(1e9, 0)
	d.Observe(now, Counts{All: 1e9})
	if v := d.Observe(now.Add(500*time.Millisecond), Counts{All: 50}); v.Attack || v.Rates[All] != 50 {
		t.Errorf("another counter: got %+v, want a rate of 50 and peace", v)
	}
	if v := d.Observe(now.Add(time.Second), Counts{All: 40}); v.Attack || v.Rates[All] != 90 {
		t.Errorf("another one in the same second: got %+v, want the packets of both", v)
	}
}

func TestObserveDoesNotAllocate(t *testing.T) {
	d := New(Config{Threshold: [Kinds]float64{SYN: 1000}})
	now, c := time.Unix(1e9, 0), Counts{}
	if n := testing.AllocsPerRun(100, func() {
		now, c[SYN] = now.Add(d.Step()), c[SYN]+500
		d.Observe(now, c)
	}); n != 0 {
		t.Errorf("Observe allocates %v times", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	d := New(Config{Threshold: [Kinds]float64{SYN: 1000}})
	now, c := time.Unix(1e9, 0), Counts{}
	b.ReportAllocs()
	for b.Loop() {
		now, c[SYN] = now.Add(d.Step()), c[SYN]+500
		d.Observe(now, c)
	}
}
