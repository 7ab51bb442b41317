package page

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func percent(t *testing.T, s string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !strings.HasSuffix(s, "%") {
		t.Fatalf("%q is no place across the chart", s)
	}
	return v
}

func near(a, b float64) bool { return math.Abs(a-b) < 0.002 }

func bars(values ...float64) Chart {
	g := Group{Name: "g"}
	for _, v := range values {
		g.Bars = append(g.Bars, Bar{Label: "b", System: "ms", Value: &v})
	}
	return Chart{Title: "c", Unit: "ms", Bar: "mean", Groups: []Group{g}}
}

func TestBarsAreLinearFromZero(t *testing.T) {
	values := []float64{0.5, 1, 10, 100, 1000, 0}
	rects := one(t, bars(values...)).all("rect", "bar")
	if len(rects) != len(values) {
		t.Fatalf("%d bars, want %d", len(rects), len(values))
	}
	for i, r := range rects {
		if x := percent(t, attr(r, "x")); x != 0 {
			t.Errorf("bar %d begins at %v, want 0", i, x)
		}
		if got, want := percent(t, attr(r, "width")), values[i]/1000*100; !near(got, want) {
			t.Errorf("bar %d of %v is %v wide, want %v", i, values[i], got, want)
		}
	}
}

func TestBarsBelowZero(t *testing.T) {
	c := bars(-40, 20)
	c.Unit = "percent"
	d := one(t, c)
	zero := percent(t, attr(d.all("line", "zero")[0], "x1"))
	rects := d.all("rect", "bar")
	left, right := percent(t, attr(rects[0], "x")), percent(t, attr(rects[1], "x"))
	w := []float64{percent(t, attr(rects[0], "width")), percent(t, attr(rects[1], "width"))}
	if !near(left+w[0], zero) || !near(right, zero) || !near(w[0], 2*w[1]) {
		t.Errorf("zero at %v, bars at %v and %v of %v", zero, left, right, w)
	}
	if got := texts(d.all("text", "value")); !slices.Equal(got, []string{"−40.0 %", "+20.0 %"}) {
		t.Errorf("labels %q", got)
	}
}

// TestWhisker holds its ends, and that it changes colour where it leaves the bar.
func TestWhisker(t *testing.T) {
	c := bars(50, 100)
	c.Groups[0].Bars[0].Whisker = &Range{30, 70}
	c.Groups[0].Bars[0].Mark = new(45.0)
	d := one(t, c)
	line := d.all("line", "on")[0]
	if a, b := percent(t, attr(line, "x1")), percent(t, attr(line, "x2")); !near(a, 30) || !near(b, 50) {
		t.Errorf("on the bar from %v to %v, want 30 to 50", a, b)
	}
	line = d.all("line", "off")[0]
	if a, b := percent(t, attr(line, "x1")), percent(t, attr(line, "x2")); !near(a, 50) || !near(b, 70) {
		t.Errorf("off the bar from %v to %v, want 50 to 70", a, b)
	}
	if x := percent(t, attr(d.all("svg", "mark")[0], "x")); !near(x, 45) {
		t.Errorf("mark at %v, want 45", x)
	}
	c.Groups[0].Bars[0].Whisker.Low = -10
	if d := one(t, c); percent(t, attr(d.all("line", "zero")[0], "x1")) <= 0 {
		t.Error("a whisker below zero is not on the scale")
	}
}

func TestMissingIsNeverZero(t *testing.T) {
	nan := math.NaN()
	why := "no sshd on this machine: install openssh-server, then run the bench again"
	d := one(t, Chart{Title: "c", Unit: "ms", Bar: "mean", Groups: []Group{{"g", []Bar{
		{Label: "a", System: "ms", Missing: NotRun(why)},
		{Label: "b", System: "ms"},
		{Label: "c", System: "ms", Value: &nan},
		{Label: "d", System: "ms", Missing: NotRun("no time")},
	}}}})
	if n := len(d.all("rect", "bar")) + len(d.all("text", "value")); n != 0 {
		t.Errorf("%d bars and values for what has none", n)
	}
	got := texts(d.all("text", "words"))
	want := []string{"not run: no sshd on this machine…", "not run: no reason given", "no value: the figure is not a number", "not run: no time"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := texts(d.all("p", "reason")); !slices.Equal(got, []string{"not run: " + why}) {
		t.Errorf("the whole reason is %q", got)
	}
	if !slices.Contains(texts(d.all("td", "")), "not run: "+why) {
		t.Error("the reason is not in the table")
	}
}

func TestScaleHoldsEverything(t *testing.T) {
	for rule, c := range map[string]struct {
		unit      string
		values    []float64
		low, high float64
	}{
		"nothing is a scale too":                 {"ms", nil, 0, 1},
		"zero alone is a scale too":              {"ms", []float64{0}, 0, 1},
		"shares are seen on the whole":           {"share", []float64{.02}, 0, 1},
		"small changes do not look like big":     {"percent", []float64{.3}, 0, 10},
		"small changes below zero neither":       {"percent", []float64{-.5}, -.5, 10},
		"the end is a round number":              {"ms", []float64{47.4}, 0, 60},
		"there is no half of a thing":            {"count", []float64{1}, 0, 1},
		"below zero it ends close":               {"percent", []float64{-4, 210}, -20, 300},
		"large numbers":                          {"ms", []float64{1956}, 0, 2000},
		"all below zero still begins at nothing": {"ms", []float64{-9}, -9, 0},
	} {
		t.Run(rule, func(t *testing.T) {
			x := bars(c.values...)
			x.Unit = c.unit
			s := newScale(x)
			if math.Abs(s.low-c.low) > 1e-9 || math.Abs(s.high-c.high) > 1e-9 {
				t.Errorf("from %v to %v, want %v to %v", s.low, s.high, c.low, c.high)
			}
			ticks := s.ticks()
			if len(ticks) < 2 || len(ticks) > 7 || !slices.Contains(ticks, 0) {
				t.Errorf("ticks %v", ticks)
			}
			for _, v := range append(ticks, c.values...) {
				if v < s.low-1e-9 || v > s.high+1e-9 {
					t.Errorf("%v is not on the scale", v)
				}
			}
		})
	}
}

func TestOneColourForASystem(t *testing.T) {
	d := render(t, samplePage())
	legend := map[string]string{}
	for _, li := range d.all("li", "") {
		legend[words(li.FirstChild.NextSibling)] = attr(li, "class")
	}
	if len(legend) != 6 {
		t.Fatalf("legend %v", legend)
	}
	used := map[string]bool{}
	for _, class := range legend {
		if used[class] {
			t.Errorf("two systems are %s", class)
		}
		used[class] = true
	}
	for _, g := range d.all("g", "row") {
		label, _, _ := strings.Cut(words((doc{t, "", g}).all("text", "label")[0]), ",")
		if got, want := attr(g, "class"), "row "+legend[label]; got != want {
			t.Errorf("bar %q is %q, want %q", label, got, want)
		}
	}
	many := bars()
	for s := range strings.FieldsSeq("haproxy synproxy tun2socks syncookies more") {
		many.Groups[0].Bars = append(many.Groups[0].Bars, Bar{Label: s, System: s, Value: new(1.0)})
	}
	p := Page{Sections: []Section{{Charts: []Chart{many}}}}
	if err := p.Render(&strings.Builder{}); err == nil {
		t.Error("five more systems, and a page that gives two the same colour")
	}
}

func TestNumbersAreReadable(t *testing.T) {
	for _, c := range []struct {
		unit string
		v    float64
		want string
	}{
		{"ms", 1902.34, "1,902.3 ms"}, {"ms", 0, "0.0 ms"}, {"share", .024, "2.4 %"}, {"share", 1, "100.0 %"},
		{"percent", 199.87, "+199.9 %"}, {"percent", -2, "−2.0 %"}, {"percent", -.01, "±0.0 %"},
		{"count", 3, "3"}, {"pps", 1234567, "1,234,567 pps"}, {"ns", 12.5, "12.5 ns"}, {"", -1e-12, "0"},
	} {
		if got := number(c.unit, c.v); got != c.want {
			t.Errorf("number(%q, %v) = %q, want %q", c.unit, c.v, got, c.want)
		}
	}
}
