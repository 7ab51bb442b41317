package page

import (
	"math"
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab/figures"
)

// TestEveryFigureIsOnThePage gives each figure a value of its own and looks for it.
func TestEveryFigureIsOnThePage(t *testing.T) {
	f := sample()
	f.Add(figures.Count("something.new", "haproxy", "never", 0, 1).Label("what", "unknown"))
	for i := range f.Figures {
		x := &f.Figures[i]
		if x.Value == nil {
			continue
		}
		switch x.Unit {
		case "ms":
			x.Value = new(5000.1 + float64(i))
		case "share":
			x.Value = new(float64(i) / 1000)
		default:
			x.Value = new(700000 + float64(i))
		}
		if x.Unit == "share" && i >= 1000 {
			t.Fatal("too many figures for shares of their own")
		}
	}
	d := render(t, Paper(f))
	cells := map[string]bool{}
	for _, s := range append(texts(d.all("td", "")), texts(d.all("text", ""))...) {
		cells[s] = true
	}
	for _, x := range f.Figures {
		if want := valueOf(x); !cells[want] {
			t.Errorf("%v: %q is not on the page", name(x), want)
		}
	}
	for _, want := range []string{"something.new", "what = unknown", "not run: no sshd here", "none: no sample", "✗ missed", "✓ met"} {
		if !cells[want] {
			t.Errorf("%q is not on the page", want)
		}
	}
	if !strings.Contains(d.text, f.Command) || !strings.Contains(d.text, f.Host.Kernel) {
		t.Error("the page does not say what was run and where")
	}
}

// TestAnEmptyFileIsNotRun holds that the page of a run that found nothing claims nothing.
func TestAnEmptyFileIsNotRun(t *testing.T) {
	d := render(t, Paper(figures.New("make bench-paper", "kernel")))
	if n := len(d.all("rect", "bar")); n != 0 {
		t.Errorf("%d bars", n)
	}
	if rows, words := len(d.all("g", "row")), len(d.all("text", "words")); rows == 0 || rows != words {
		t.Errorf("%d rows, %d say why", rows, words)
	}
	for _, bad := range []string{"longer", "less time", "succeeds at one try", "Every attempt", "faster"} {
		for _, p := range texts(d.all("p", "")) {
			if strings.Contains(p, bad) && !strings.Contains(p, "none of ours") {
				t.Errorf("a run without figures says: %s", p)
			}
		}
	}
}

// two is a file with one base and one system in Table 4.
func two(plain, ms time.Duration) *figures.File {
	f := figures.New("test", "memory")
	for system, d := range map[string]time.Duration{"plain": plain, "ms": ms} {
		f.Add(figures.Times("download_760k", system, "peace", []time.Duration{d, d, d}).Label("dest", "p1").Label("app", "ssh"))
	}
	return f
}

func TestWordsFollowTheNumbers(t *testing.T) {
	for rule, c := range map[string]struct {
		plain, ms time.Duration
		want, not string
	}{
		"slower":  {100 * time.Millisecond, 103 * time.Millisecond, "3.0 % longer with ms", "less time"},
		"faster":  {100 * time.Millisecond, 60 * time.Millisecond, "40.0 % less time with ms", "longer"},
		"as fast": {100 * time.Millisecond, 100 * time.Millisecond, "the same time with ms", "less time"},
	} {
		t.Run(rule, func(t *testing.T) {
			d := render(t, Paper(two(c.plain, c.ms)))
			all := strings.Join(texts(d.all("p", "")), "\n")
			if !strings.Contains(all, c.want) || strings.Contains(all, c.not) {
				t.Errorf("want %q and no %q in:\n%s", c.want, c.not, all)
			}
			if faster := strings.Contains(all, "In this run that concerns ms."); faster != (c.ms < c.plain) {
				t.Errorf("says that ms is faster: %v", faster)
			}
		})
	}
}

func TestPublishedIsComparedWithItself(t *testing.T) {
	p := samplePage()
	over := p.Sections[1].Charts[1]
	if b := over.Groups[0].Bars[0]; b.System != "published" || math.Abs(*b.Value-200) > 0.01 {
		t.Errorf("Table 3, P1, published: %+v", b)
	}
	if b := over.Groups[1].Bars[0]; b.Whisker.Low > 0 || b.Whisker.High < 0 {
		t.Errorf("14.1 ± 6.6 and 14.3 ± 8.8 of 1,000 are told apart: %+v", b.Whisker)
	}
	if got := noise(over); !strings.Contains(got, "published (P2)") {
		t.Errorf("noise: %q", got)
	}
	if got := p.Sections[1].Charts[1].Note; !strings.Contains(strings.Join(got, " "), "its means leave 15.8 ms") {
		t.Errorf("timeout: %q", got)
	}
}

func TestIntervals(t *testing.T) {
	for _, c := range []struct {
		share     float64
		n         int
		low, high float64
	}{{0, 10, 0, .2775}, {1, 10, .7225, 1}, {.5, 100, .4038, .5962}} {
		r := wilson(c.share, c.n)
		if math.Abs(r.Low-c.low) > 5e-4 || math.Abs(r.High-c.high) > 5e-4 {
			t.Errorf("%v of %d: %+v, want %v to %v", c.share, c.n, *r, c.low, c.high)
		}
	}
	if wilson(.5, 0) != nil {
		t.Error("an interval without attempts")
	}
	f := func(mean, sd float64, n int) *figures.Figure {
		return &figures.Figure{Value: &mean, N: n, Spread: &figures.Spread{Mean: mean, SD: sd}}
	}
	// SD/mean = 0.1 for both, n = 100: the ratio's relative error is √2 · 0.01.
	if r := interval(f(200, 20, 100), f(100, 10, 100)); math.Abs(r.High-r.Low-2*1.96*200*math.Sqrt2*0.01) > 1e-9 || math.Abs(r.High+r.Low-200) > 1e-9 {
		t.Errorf("interval %+v", r)
	}
	if interval(f(200, 20, 1), f(100, 10, 100)) != nil {
		t.Error("an interval from one sample")
	}
}

// TestPaperOnlyWhatThePaperHas holds that published rows stand where the paper has them.
func TestPaperOnlyWhatThePaperHas(t *testing.T) {
	for _, s := range samplePage().Sections {
		for _, c := range s.Charts {
			published := 0
			for _, g := range c.Groups {
				for _, b := range g.Bars {
					if b.System == "published" {
						published++
					}
				}
			}
			none := strings.HasSuffix(c.Title, "over HTTP") && strings.HasPrefix(s.Number, "Table 4") ||
				strings.HasSuffix(c.Title, "over SSH") && strings.HasPrefix(s.Number, "Table 3") ||
				strings.Contains(c.Title, "to P2") || strings.Contains(s.Title, "how long") || c.Title == "False alarms in peace" || strings.HasPrefix(c.Title, "From the first")
			if none != (published == 0) {
				t.Errorf("%s: %s has %d published bars", s.Number, c.Title, published)
			}
		}
	}
}
