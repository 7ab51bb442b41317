// Package page draws what a measuring command found as one HTML page that stands alone: no script,
// no font, no picture and no address outside it. It is readable on a phone, in the dark and on paper.
//
// A Page is a plain description; Render turns it into bars:
//
//	         ┌ Group.Name                    Chart.Bar  Chart.Mark  ← heads of the two columns
//	Label ▕▆▆▆▆▆▆▆▆▆▆▆├─────┤                  47.4 ms     45.6     ← one Bar
//	                    ▴
//	Label ▕not run: no sshd here
//	      0        20        40        60 ms                        ← always linear, always with zero
//
// Rules that hold for every page: bars begin at zero and there is no logarithmic scale; shares are
// drawn from 0 to 100 %; a system has one colour everywhere; what has no value says why in words and
// is never drawn as zero; all numbers are once more in a table under the chart.
//
// Paper is the page of the paper's tables.
package page

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
)

// Page is what one page says. All its texts are plain text: Render escapes them.
type Page struct {
	Title    string
	Lead     string
	Facts    []Fact   // where, when and with which settings it was measured
	Systems  []System // the legend, in its order; systems of bars that are not in it follow by name
	Sections []Section
}

// Fact is a name and what it is.
type Fact struct{ Name, Text string }

// System explains who was measured.
type System struct {
	ID    string // as in figures.Figure.System
	About string
}

// Section is one table of the paper, or one question of a bench.
type Section struct {
	Number string // "Table 3 · §6.3", or nothing
	Title  string
	Note   []string // paragraphs before the charts
	Charts []Chart
	Table  *Table // figures that are better read than seen, or nil
}

// Chart is a set of bars on one scale. Bar, Whisker and Mark say what bar, line and triangle stand
// for; an empty one is not used. Bar and Mark also head the columns of numbers: one or two words.
type Chart struct {
	Title              string
	Unit               string // ms, share (0 to 1), percent (a signed change), count, or any unit's name
	Bar, Whisker, Mark string
	Groups             []Group
	Note               []string // sentences under the chart: what it means, where it is not fair
}

// Group is bars that are compared with each other.
type Group struct {
	Name string
	Bars []Bar
}

// Bar is one row of a chart.
type Bar struct {
	Label   string // at most about 18 characters
	System  string // chooses the colour
	Faint   bool   // drawn as an outline: the system's base, not its result
	Value   *float64
	Whisker *Range
	Mark    *float64
	Ratio   *float64 // of the value to its base, for the table
	N       int
	Detail  string // more about the spread, for the table: "SD 9.9 ms"
	Missing string // the words in place of the value, see NotRun
}

// Range is from Low to High.
type Range struct{ Low, High float64 }

// Table is rows of text under a head.
type Table struct {
	Open bool // shown without being asked for
	Head []string
	Rows [][]string
}

// NotRun is the text for what was not measured.
func NotRun(why string) string {
	if why == "" {
		why = "no reason given"
	}
	return "not run: " + why
}

var (
	//go:embed page.html
	source string
	//go:embed page.css
	style string

	pageTemplate = template.Must(template.New("page").Parse(source))
)

// Render writes the page as HTML.
func (p Page) Render(w io.Writer) error {
	v, err := p.view()
	if err != nil {
		return err
	}
	if err := pageTemplate.Execute(w, v); err != nil {
		return fmt.Errorf("page: %w", err)
	}
	return nil
}

// Write writes the page to a file, whole or not at all.
func (p Page) Write(name string) error {
	var b bytes.Buffer
	if err := p.Render(&b); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("page: %w", err)
	}
	if err := os.WriteFile(name+".new", b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("page: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("page: %w", err)
	}
	return nil
}
