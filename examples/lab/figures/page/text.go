package page

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// reads is the key of the marks.
func reads(c Chart) string {
	var parts []string
	for _, p := range [][2]string{{"bar", c.Bar}, {"line", c.Whisker}, {"triangle", c.Mark}} {
		if p[1] != "" {
			parts = append(parts, p[0]+": "+p[1])
		}
	}
	if n := counts(c); n != "" {
		parts = append(parts, n)
	}
	return strings.Join(parts, " · ")
}

// counts is how many samples a bar has, at least and at most.
func counts(c Chart) string {
	low, high := 0, 0
	for _, g := range c.Groups {
		for _, b := range g.Bars {
			if b.Value != nil && b.N > 0 {
				if low == 0 || b.N < low {
					low = b.N
				}
				high = max(high, b.N)
			}
		}
	}
	switch {
	case high == 0:
		return ""
	case low == high:
		return "n = " + decimals(float64(high), 0)
	}
	return "n from " + decimals(float64(low), 0) + " to " + decimals(float64(high), 0)
}

// reasons are the missing values whose words were cut, each reason once.
func reasons(c Chart) []string {
	var list []string
	for _, g := range c.Groups {
		for _, b := range g.Bars {
			if b.Value == nil && shorten(b.Missing, roomInChart) != b.Missing && !slices.Contains(list, b.Missing) {
				list = append(list, b.Missing)
			}
		}
	}
	return list
}

// describe is the chart in words, for those who do not see it.
func describe(c Chart) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Horizontal bars, linear from zero; %s.", reads(c))
	for _, g := range c.Groups {
		fmt.Fprintf(&b, " %s:", g.Name)
		for i, x := range g.Bars {
			if i > 0 {
				b.WriteString(";")
			}
			b.WriteString(" " + say(c, x))
		}
		b.WriteString(".")
	}
	return b.String()
}

// say is one bar in words.
func say(c Chart, b Bar) string {
	text := b.Label + " " + b.Missing
	if b.Value != nil {
		text = b.Label + " " + number(c.Unit, *b.Value)
	}
	if b.Mark != nil {
		text += ", " + c.Mark + " " + number(c.Unit, *b.Mark)
	}
	if b.Detail != "" {
		text += ", " + b.Detail
	}
	if b.N > 0 {
		text += fmt.Sprintf(", n %d", b.N)
	}
	return text
}

// numbers is the chart as a table; a column that no bar fills is left out.
func numbers(c Chart) Table {
	mark, ratio := false, false
	for _, g := range c.Groups {
		for _, b := range g.Bars {
			mark, ratio = mark || b.Mark != nil, ratio || b.Ratio != nil
		}
	}
	t := Table{Head: []string{"", "", c.Bar}}
	if mark {
		t.Head = append(t.Head, c.Mark)
	}
	t.Head = append(t.Head, "spread")
	if ratio {
		t.Head = append(t.Head, "ratio")
	}
	t.Head = append(t.Head, "n")
	for _, g := range c.Groups {
		for _, b := range g.Bars {
			t.Rows = append(t.Rows, numbersOf(c, g, b, mark, ratio))
		}
	}
	return t
}

func numbersOf(c Chart, g Group, b Bar, mark, ratio bool) []string {
	value, spread, n := b.Missing, b.Detail, ""
	if b.Value != nil {
		value = number(c.Unit, *b.Value)
		if spread == "" && b.Whisker != nil {
			spread = number(c.Unit, b.Whisker.Low) + " to " + number(c.Unit, b.Whisker.High)
		}
	}
	if b.N > 0 {
		n = decimals(float64(b.N), 0)
	}
	row := []string{g.Name, b.Label, value}
	if mark {
		row = append(row, optional(c.Unit, b.Mark))
	}
	row = append(row, spread)
	if ratio {
		text := ""
		if b.Ratio != nil {
			text = decimals(*b.Ratio, 3)
		}
		row = append(row, text)
	}
	return append(row, n)
}

func optional(unit string, v *float64) string {
	if v == nil {
		return ""
	}
	return number(unit, *v)
}

// shorten cuts a text at a word and says that it did.
func shorten(s string, room int) string {
	if utf8.RuneCountInString(s) <= room {
		return s
	}
	cut := string([]rune(s)[:room-1])
	if i := strings.LastIndexByte(cut, ' '); i > room/2 {
		cut = cut[:i]
	}
	return strings.TrimRight(cut, " ,.;:") + "…"
}
