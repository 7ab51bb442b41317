package page

import (
	"fmt"
	"math"
)

// scale maps values to the width of a chart. It is linear and holds zero.
type scale struct{ low, high, step float64 }

// minSpan keeps a chart of small changes from showing noise as a mountain: at least ten points.
const minSpan = 10

// newScale fits the marks of a chart. Shares are always seen on the whole from 0 to 1.
func newScale(c Chart) scale {
	low, high := 0.0, 0.0
	for _, g := range c.Groups {
		for _, b := range g.Bars {
			for _, v := range b.marks() {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	switch {
	case c.Unit == "share":
		return scale{0, 1, 0.25}
	case c.Unit == "percent" && high-low < minSpan:
		high = low + minSpan
	case high == low:
		high = 1
	}
	step := niceStep((high - low) / 4)
	if c.Unit == "count" {
		step = max(1, step) // there is no half of a thing
	}
	fine := step / 5 // below zero an axis ends close to what it holds
	return scale{math.Floor(low/fine) * fine, math.Ceil(high/step) * step, step}
}

// niceStep is the next 1, 2, 2.5 or 5 of a power of ten.
func niceStep(raw float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 2.5, 5} {
		if m*power >= raw*(1-1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// at is where a value lies. A whisker may leave the chart (a share of 100 % ± something): it is cut
// at the edge.
func (s scale) at(v float64) pct {
	v = min(max(v, s.low), s.high)
	return pct(100 * (v - s.low) / (s.high - s.low))
}

func (s scale) ticks() []float64 {
	var t []float64
	for i := math.Ceil(s.low/s.step - 1e-9); i <= math.Round(s.high/s.step); i++ {
		t = append(t, i*s.step)
	}
	return t
}

// pct is a share of the chart's width. Charts are laid out in percent across and pixels down, so
// that the letters keep their size when the page gets narrow.
type pct float64

func (p pct) String() string { return fmt.Sprintf("%.3f%%", float64(p)) }

// marks are the values that the scale must hold.
func (b Bar) marks() []float64 {
	var v []float64
	for _, p := range []*float64{b.Value, b.Mark} {
		if p != nil {
			v = append(v, *p)
		}
	}
	if b.Whisker != nil && b.Value != nil {
		v = append(v, b.Whisker.High)
		if *b.Value < 0 || b.Whisker.Low < 0 {
			v = append(v, b.Whisker.Low)
		}
	}
	return v
}
