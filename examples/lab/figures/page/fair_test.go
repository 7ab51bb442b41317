package page

import (
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab/figures"
)

func bar(label, system string, v float64) Bar { return Bar{Label: label, System: system, Value: &v} }

func TestARetriedShareIsNoFirstTry(t *testing.T) {
	g := Group{Name: "p = 1", Bars: []Bar{bar("published", "published", .037), bar("plain", "plain", .01)}}
	for mayRetry, want := range map[bool]string{
		true:  "At p = 1 this share of downloads succeeds at one try: 1.0 % with plain. At p = 1, where the user may retry: 3.7 % as published.",
		false: "At p = 1 this share of downloads succeeds at one try: 3.7 % as published and 1.0 % with plain.",
	} {
		if got := succeeds("downloads", g, mayRetry); got != want {
			t.Errorf("may retry: %v: %q, want %q", mayRetry, got, want)
		}
	}
	if got := succeeds("downloads", Group{}, true); got != "" {
		t.Errorf("without figures: %q", got)
	}
}

func TestFreshStandsApart(t *testing.T) {
	g := Group{Name: "P1", Bars: []Bar{bar("ms", "ms", 6.1), bar("ms, fresh", "ms", 211.8), bar("ms, remembers", "ms", 7)}}
	if got, want := inWords(g, longer), "6.1 to 7.0 % longer with ms and 211.8 % longer with ms when fresh"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// meanOf is a time with that mean, or one that was not run.
func meanOf(ms float64) *figures.Figure {
	if ms == 0 {
		return new(figures.Skip("download_760k", "test", "peace", "no sshd"))
	}
	d := time.Duration(ms * float64(time.Millisecond))
	return new(figures.Times("download_760k", "test", "peace", []time.Duration{d, d}))
}

func TestAdditionsAreComputed(t *testing.T) {
	for rule, c := range map[string]struct {
		with, plain, paper float64
		want, not          string
	}{
		"both":       {1956, 518, 554.2, "from P1, by the means: +53.7 ms on 1,902.3 ms as published and +36.2 ms on 518.0 ms with", "−"},
		"less":       {1900, 518, 517, "−2.3 ms on 1,902.3 ms as published and −1.0 ms on 518.0 ms with", "+"},
		"only there": {1956, 518, 0, "+53.7 ms on 1,902.3 ms as published.", "re-created"},
		"neither":    {0, 518, 0, "compare by themselves.", "adds"},
	} {
		there, here := meanOf(1902.3), meanOf(c.plain)
		got := addition(row{"P1", []cell{
			{"published, without", "published", true, there, nil}, {"published, with", "published", false, meanOf(c.with), there},
			{"plain", "plain", true, here, nil}, {"paper", "paper", false, meanOf(c.paper), here}, {"ms", "ms", false, meanOf(1), here},
		}})
		if !strings.Contains(got, c.want) || strings.Contains(got, c.not) {
			t.Errorf("%s: want %q and no %q in: %s", rule, c.want, c.not, got)
		}
	}
}

func TestTheSiteIsComparedAsItWas(t *testing.T) {
	for rule, c := range map[string]struct {
		site, plain float64
		longer      bool
	}{"longer": {548, 518, true}, "shorter": {123, 125, false}, "the same": {15.34, 15.31, false}, "not run": {0, 15, false}, "no base": {15, 0, false}} {
		rows := row{"P1", []cell{{"published, without", "published", true, meanOf(1), nil}, {"plain", "plain", true, meanOf(c.plain), nil}}}
		got := reference(cell{"direct", "direct", true, meanOf(c.site), nil}, baseOf(rows))
		if strings.Contains(got, "longer than plain did") != c.longer || !strings.Contains(got, "not a base") {
			t.Errorf("%s: %s", rule, got)
		}
	}
	if got := reference(cell{figure: meanOf(1)}, baseOf(row{})); strings.Contains(got, "longer") {
		t.Errorf("without a base: %s", got)
	}
}

func TestConditionsAreSaid(t *testing.T) {
	all := render(t, samplePage()).text
	for _, want := range []string{
		"Our P1 is flooded at two ports", "p says little about ours", "Linux has cookies on by default",
		"beside an OPEN on a link that is already open", "to P2 it is a plain dial", "from an earlier trial",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not on the page", want)
		}
	}
}
