package figures

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPercentilesOfKnownSamples(t *testing.T) {
	var samples []time.Duration
	for i := range 101 { // 100 ms down to 0 ms: order must not matter
		samples = append(samples, time.Duration(100-i)*time.Millisecond)
	}
	f := Times("connect", "ms", "peace", samples)
	got := *f.Spread
	got.SD = 0
	if want := (Spread{Mean: 50, P50: 50, P95: 95, P99: 99, Max: 100}); got != want || *f.Value != 50 || f.N != 101 {
		t.Errorf("got %+v value %v n %d, want %+v", got, *f.Value, f.N, want)
	}
	if f := Times("connect", "ms", "peace", []time.Duration{time.Second, 3 * time.Second}); f.P50 != 2000 || f.SD != 1414.214 {
		t.Errorf("two samples: %+v", f.Spread)
	}
}

func TestVerdict(t *testing.T) {
	good := Share("success.connect", "ms", "flood", 10, 10).AtLeast(1)
	bad := Share("success.connect", "ms", "flood", 9, 10).AtLeast(1)
	free := Share("success.connect", "plain", "flood", 0, 10)
	for rule, c := range map[string]struct {
		figures  []Figure
		complete bool
		want     string
	}{
		"all goals met":                     {[]Figure{good, free}, true, "pass"},
		"a goal missed":                     {[]Figure{good, bad}, true, "fail"},
		"a figure without a goal is free":   {[]Figure{free}, true, "pass"},
		"an incomplete run never passes":    {[]Figure{good}, false, "fail"},
		"no samples meet no goal":           {[]Figure{Share("x", "ms", "", 0, 0).AtLeast(0)}, true, "fail"},
		"no baseline meets no ratio":        {[]Figure{Count("x", "ms", "", 1, 1).RatioAtMost(2)}, true, "fail"},
		"a figure that was skipped is free": {[]Figure{Skip("x", "ms", "", "no sshd")}, true, "pass"},
	} {
		t.Run(rule, func(t *testing.T) {
			f := New("test", "kernel")
			f.Add(c.figures...)
			if f.Decide(c.complete); f.Verdict != c.want {
				t.Errorf("verdict %q, want %q", f.Verdict, c.want)
			}
		})
	}
}

// TestFileHasTheShape holds the names that readers of the file rely on, and that nothing is
// written for what has no value.
func TestFileHasTheShape(t *testing.T) {
	f := New("make demo", "kernel")
	base := Times("connect", "plain", "peace", []time.Duration{10 * time.Millisecond})
	f.Add(
		Times("connect", "ms", "peace", []time.Duration{11 * time.Millisecond}).Label("rtt_ms", "15").Against(base).RatioAtMost(1.05),
		Times("connect", "plain", "flood", nil),
		Skip("stall", "ms", "flood", "why"),
	)
	f.Decide(true)
	name := filepath.Join(t.TempDir(), "out", "demo.json")
	if err := f.Write(name); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got["schema"] != "ms.figures/1" || got["verdict"] != "fail" || got["host"].(map[string]any)["world"] != "kernel" {
		t.Errorf("head: %s", b)
	}
	list := got["figures"].([]any)
	first := list[0].(map[string]any)
	for _, key := range []string{"id", "system", "when", "unit", "n", "value", "mean", "sd", "p50", "p95", "p99", "min", "max", "labels", "baseline", "goal", "meets"} {
		if _, ok := first[key]; !ok {
			t.Errorf("no %q in %v", key, first)
		}
	}
	for _, i := range []int{1, 2} {
		if v, ok := list[i].(map[string]any)["value"]; ok {
			t.Errorf("figure %d has value %v, want none: it was not measured", i, v)
		}
	}
	var table strings.Builder
	if err := f.Table(&table); err != nil || !strings.Contains(table.String(), "1.100 of plain  ratio <= 1.05 ✗") {
		t.Errorf("table (%v):\n%s", err, table.String())
	}
}

func TestPublishedFigureHasOnlyWhatThePublicationGives(t *testing.T) {
	f := Published("connect", "peace", "ms", 1000, 47.4, 45.6, 9.9)
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"connect","system":"published","when":"peace","unit":"ms","n":1000,"value":45.6,"mean":47.4,"sd":9.9,"p50":45.6}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	if line := f.Line(); strings.Contains(line, "0.0 ms") {
		t.Errorf("what is not given is shown as zero: %s", line)
	}
	share := PublishedShare("success.connect", "flood", 0, 0.024)
	if b, err = json.Marshal(share); err != nil || string(b) != `{"id":"success.connect","system":"published","when":"flood","unit":"share","value":0.024}` {
		t.Errorf("%v: %s", err, b)
	}
}

func TestGoalOfTheSlowest(t *testing.T) {
	f := Times("detect.delay", "ms", "flood", []time.Duration{900 * time.Millisecond, 1001 * time.Millisecond})
	if *f.MaxAtMost(1000).Meets || !*f.MaxAtMost(1001).Meets || *Times("x", "", "", nil).MaxAtMost(1).Meets {
		t.Error("one sample above the limit, or none at all, meets it")
	}
}
