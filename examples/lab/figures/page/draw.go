package page

import (
	"fmt"
	"html/template"
	"math"
	"slices"
)

// Heights in pixels.
const (
	rowHeight   = 22
	barHeight   = 12
	capHeight   = 8  // the ends of a whisker
	headHeight  = 20 // a group's name, and the heads of the columns
	groupGap    = 8
	axisHeight  = 22
	roomInChart = 38 // characters of a reason that fit into the chart of a phone
)

type pageView struct {
	Page
	Style    template.CSS
	Legend   []legendEntry
	Sections []sectionView
}

type sectionView struct {
	Section
	ID     string
	Charts []chartView
}

type chartView struct {
	Chart
	ID                  string
	Reads, Desc         string
	Height, AxisY, Foot int
	Zero                pct
	Ticks               []tickView
	Groups              []groupView
	Reasons             []string // why values are missing, where the chart has no room to say it
	Numbers             Table
}

type tickView struct {
	X    pct
	Text string
}

type groupView struct {
	Name string
	Y    int // base line of the name
	Bars []barView
}

// barView is a row in place: Y is its middle, X and W the bar, Low and High the whisker.
type barView struct {
	Bar
	Slot              int
	Y, Top            int
	CapTop, CapBottom int
	X, W              pct
	MarkX             pct
	Line, Caps        []stroke // the whisker
	MarkY             int
	ValueText         string
	MarkText          string
	Words, Tip        string
}

func (p Page) view() (pageView, error) {
	l, err := newLegend(p)
	if err != nil {
		return pageView{}, err
	}
	v := pageView{Page: p, Style: template.CSS(style), Legend: l.entries}
	for i, s := range p.Sections {
		sv := sectionView{Section: s, ID: fmt.Sprintf("s%d", i+1)}
		for j, c := range s.Charts {
			sv.Charts = append(sv.Charts, draw(c, fmt.Sprintf("s%dc%d", i+1, j+1), l))
		}
		v.Sections = append(v.Sections, sv)
	}
	return v, nil
}

// draw lays a chart out from top to bottom.
func draw(c Chart, id string, l *legend) chartView {
	c.Groups = finite(c.Groups)
	s := newScale(c)
	v := chartView{Chart: c, ID: id, Reads: reads(c), Zero: s.at(0), Numbers: numbers(c)}
	y := 0
	for _, g := range c.Groups {
		gv := groupView{Name: g.Name, Y: y + headHeight - 7}
		y += headHeight
		for _, b := range g.Bars {
			gv.Bars = append(gv.Bars, drawBar(c, b, s, y+rowHeight/2, l.slots[b.System]))
			y += rowHeight
		}
		y += groupGap
		v.Groups = append(v.Groups, gv)
	}
	v.AxisY, v.Foot, v.Height = y, y+axisHeight-7, y+axisHeight
	ticks := s.ticks()
	for i, t := range ticks {
		v.Ticks = append(v.Ticks, tickView{s.at(t), tick(c.Unit, t, i == len(ticks)-1)})
	}
	v.Reasons, v.Desc = reasons(c), describe(c)
	return v
}

func drawBar(c Chart, b Bar, s scale, y, slot int) barView {
	v := barView{Bar: b, Slot: slot, Y: y, Top: y - barHeight/2, CapTop: y - capHeight/2, CapBottom: y + capHeight/2, Tip: say(c, b)}
	if b.Mark != nil {
		v.MarkX, v.MarkY, v.MarkText = s.at(*b.Mark), y+barHeight/2, number(c.Unit, *b.Mark)
	}
	if b.Value == nil {
		v.Words = shorten(b.Missing, roomInChart)
		return v
	}
	v.X, v.W = s.at(min(0, *b.Value)), s.at(max(0, *b.Value))-s.at(min(0, *b.Value))
	v.ValueText = number(c.Unit, *b.Value)
	if b.Whisker != nil {
		v.Line, v.Caps = whisker(b, s, v.X, v.X+v.W)
	}
	return v
}

// stroke is a piece of a whisker: on the bar or off it, where it needs another colour to be seen.
type stroke struct {
	Class  string
	X1, X2 pct
}

// capRoom is how long a whisker must be, in percent of the chart, to have room for its ends.
const capRoom = 1.5

// whisker cuts the line where it enters and leaves the bar, which lies from left to right. An end
// outside the chart has no cap.
func whisker(b Bar, s scale, left, right pct) (line, caps []stroke) {
	class := func(x pct) string {
		if x > left && x < right && !b.Faint {
			return "on"
		}
		return "off"
	}
	low, high := s.at(b.Whisker.Low), s.at(b.Whisker.High)
	cuts := []pct{low, min(max(left, low), high), min(max(right, low), high), high}
	for i := range 3 {
		if cuts[i] < cuts[i+1] {
			line = append(line, stroke{class((cuts[i] + cuts[i+1]) / 2), cuts[i], cuts[i+1]})
		}
	}
	if high-low < capRoom {
		return line, nil
	}
	if b.Whisker.Low >= s.low {
		caps = append(caps, stroke{class(low), low, low})
	}
	if b.Whisker.High <= s.high {
		caps = append(caps, stroke{class(high), high, high})
	}
	return line, caps
}

// finite makes a value that is no number a missing one, and gives every missing one its words.
func finite(groups []Group) []Group {
	out := make([]Group, len(groups))
	for i, g := range groups {
		out[i] = Group{g.Name, slices.Clone(g.Bars)}
		for j := range out[i].Bars {
			b := &out[i].Bars[j]
			if b.Value != nil && !isFinite(*b.Value) {
				b.Value, b.Missing = nil, "no value: the figure is not a number"
			}
			if b.Mark != nil && !isFinite(*b.Mark) {
				b.Mark = nil
			}
			if b.Whisker != nil && !(isFinite(b.Whisker.Low) && isFinite(b.Whisker.High)) {
				b.Whisker = nil
			}
			if b.Value == nil && b.Missing == "" {
				b.Missing = NotRun("")
			}
		}
	}
	return out
}

func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
