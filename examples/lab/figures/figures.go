// Package figures is the one shape in which every measuring command writes what it found, so that
// two runs can be compared and a table in a document is made by a command, never by hand.
package figures

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// Schema names the shape.
const Schema = "ms.figures/1"

// File is what one run found.
type File struct {
	Schema  string    `json:"schema"`
	Command string    `json:"command"`
	Version string    `json:"version"`
	Time    time.Time `json:"time"`
	Host    Host      `json:"host"`
	Verdict string    `json:"verdict"`
	Figures []Figure  `json:"figures"`
}

// Host is where it ran.
type Host struct {
	Kernel string `json:"kernel"`
	CPUs   int    `json:"cpus"`
	World  string `json:"world"` // kernel or memory
	// Congestion is the TCP congestion control of the lab's machines, where it matters to a figure.
	Congestion string `json:"congestion,omitempty"`
}

// Figure is one figure. ID, System, When and Labels together name it. Counts and shares have only
// Value and N; what was not run has Skipped and no value.
type Figure struct {
	ID     string   `json:"id"`
	System string   `json:"system,omitempty"`
	When   string   `json:"when,omitempty"`
	Unit   string   `json:"unit,omitempty"`
	N      int      `json:"n,omitempty"`
	Value  *float64 `json:"value,omitempty"`
	*Spread
	Labels   map[string]string `json:"labels,omitempty"`
	Baseline *Baseline         `json:"baseline,omitempty"`
	Goal     string            `json:"goal,omitempty"`
	Meets    *bool             `json:"meets,omitempty"`
	Skipped  string            `json:"skipped,omitempty"`
}

// Spread says how samples lie. A publication gives less than a run of ours: what it does not give is
// zero here and absent in the file.
type Spread struct {
	Mean float64 `json:"mean"`
	SD   float64 `json:"sd"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95,omitzero"`
	P99  float64 `json:"p99,omitzero"`
	Min  float64 `json:"min,omitzero"`
	Max  float64 `json:"max,omitzero"`
}

// Baseline is what a figure is compared with.
type Baseline struct {
	System string  `json:"system"`
	Value  float64 `json:"value"`
	Ratio  float64 `json:"ratio"`
}

// New starts a file for a command.
func New(command, world string) *File {
	f := &File{Schema: Schema, Command: command, Version: "unknown", Time: time.Now().UTC().Truncate(time.Second)}
	f.Host = Host{Kernel: runtime.GOOS, CPUs: runtime.NumCPU(), World: world}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		f.Host.Kernel = strings.TrimSpace(string(b))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		f.Version = info.Main.Version
	}
	return f
}

// Add appends figures.
func (f *File) Add(figures ...Figure) { f.Figures = append(f.Figures, figures...) }

// Decide sets the verdict: pass if the run was complete and every goal is met.
func (f *File) Decide(complete bool) (pass bool) {
	pass = complete && !slices.ContainsFunc(f.Figures, func(x Figure) bool { return x.Meets != nil && !*x.Meets })
	f.Verdict = "fail"
	if pass {
		f.Verdict = "pass"
	}
	return pass
}

// Write writes the file, whole or not at all.
func (f *File) Write(name string) error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	if err := os.WriteFile(name+".new", append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	return os.Rename(name+".new", name)
}

// Times is a figure in milliseconds, its value the median. Without samples it has no value.
func Times(id, system, when string, samples []time.Duration) Figure {
	f := Figure{ID: id, System: system, When: when, Unit: "ms", N: len(samples)}
	if len(samples) == 0 {
		return f
	}
	ms := make([]float64, len(samples))
	for i, d := range samples {
		ms[i] = float64(d) / float64(time.Millisecond)
	}
	s := spread(ms)
	f.Value, f.Spread = new(s.P50), &s
	return f
}

// Published is a time that a publication gives, with its number of samples; what it does not say is
// left out.
func Published(id, when, unit string, n int, mean, median, sd float64) Figure {
	return Figure{
		ID: id, System: "published", When: when, Unit: unit, N: n,
		Value: &median, Spread: &Spread{Mean: mean, SD: sd, P50: median},
	}
}

// PublishedShare is a share that a publication gives; n is 0 where it does not say of how many.
func PublishedShare(id, when string, n int, share float64) Figure {
	return Figure{ID: id, System: "published", When: when, Unit: "share", N: n, Value: &share}
}

// Share is how many of n succeeded, from 0 to 1.
func Share(id, system, when string, succeeded, n int) Figure {
	f := Figure{ID: id, System: system, When: when, Unit: "share", N: n}
	if n > 0 {
		f.Value = new(float64(succeeded) / float64(n))
	}
	return f
}

// Count is a number of things.
func Count(id, system, when string, value, n int) Figure {
	return Figure{ID: id, System: system, When: when, Unit: "count", N: n, Value: new(float64(value))}
}

// Skip is a figure that was not run.
func Skip(id, system, when, why string) Figure {
	return Figure{ID: id, System: system, When: when, Skipped: why}
}

// Label adds a label.
func (f Figure) Label(key, value string) Figure {
	labels := map[string]string{key: value}
	maps.Copy(labels, f.Labels)
	f.Labels = labels
	return f
}

// Against compares with another figure of the same kind.
func (f Figure) Against(base Figure) Figure {
	if f.Value != nil && base.Value != nil && *base.Value != 0 {
		f.Baseline = &Baseline{System: base.System, Value: *base.Value, Ratio: round(*f.Value / *base.Value)}
	}
	return f
}

// AtMost sets the goal value <= limit. A figure without a value does not meet it.
func (f Figure) AtMost(limit float64) Figure {
	return f.Want(fmt.Sprintf("value <= %g", limit), f.Value != nil && *f.Value <= limit)
}

// AtLeast sets the goal value >= limit.
func (f Figure) AtLeast(limit float64) Figure {
	return f.Want(fmt.Sprintf("value >= %g", limit), f.Value != nil && *f.Value >= limit)
}

// RatioAtMost sets the goal ratio <= limit against the baseline.
func (f Figure) RatioAtMost(limit float64) Figure {
	return f.Want(fmt.Sprintf("ratio <= %g", limit), f.Baseline != nil && f.Baseline.Ratio <= limit)
}

// MaxAtMost sets the goal max <= limit: no sample may be above it.
func (f Figure) MaxAtMost(limit float64) Figure {
	return f.Want(fmt.Sprintf("max <= %g", limit), f.Spread != nil && f.Max <= limit)
}

// Want sets a goal in words of its own.
func (f Figure) Want(goal string, meets bool) Figure {
	f.Goal, f.Meets = goal, &meets
	return f
}

func spread(v []float64) Spread {
	v = slices.Sorted(slices.Values(v))
	var sum, squares float64
	for _, x := range v {
		sum += x
	}
	mean := sum / float64(len(v))
	for _, x := range v {
		squares += (x - mean) * (x - mean)
	}
	sd := 0.0
	if len(v) > 1 {
		sd = math.Sqrt(squares / float64(len(v)-1))
	}
	return Spread{
		Mean: round(mean), SD: round(sd), Min: round(v[0]), Max: round(v[len(v)-1]),
		P50: round(percentile(v, 0.50)), P95: round(percentile(v, 0.95)), P99: round(percentile(v, 0.99)),
	}
}

// percentile interpolates between the two samples around the rank.
func percentile(sorted []float64, p float64) float64 {
	rank := p * float64(len(sorted)-1)
	low := int(rank)
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (rank-float64(low))*(sorted[low+1]-sorted[low])
}

// round keeps microseconds of milliseconds: more would be noise.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }

// Table prints the figures for people.
func (f *File) Table(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%-22s %-8s %-7s %7s %10s %10s %10s  %s\n", "figure", "system", "when", "n", "value", "p95", "max", "goal")
	for _, x := range f.Figures {
		_, lineErr := fmt.Fprintln(w, x.Line())
		if err == nil {
			err = lineErr
		}
	}
	return err
}

// Line is the figure as a line of Table.
func (f Figure) Line() string {
	s := fmt.Sprintf("%-22s %-8s %-7s", f.name(), f.System, f.When)
	if f.Skipped != "" {
		return s + "  not run: " + f.Skipped
	}
	most := ""
	if f.Spread != nil && f.Max > 0 {
		most = f.number(f.Max)
	}
	s += fmt.Sprintf(" %7d %10s %10s %10s", f.N, f.Text(), f.P95Text(), most)
	if f.Baseline != nil {
		s += fmt.Sprintf("  %.3f of %s", f.Baseline.Ratio, f.Baseline.System)
	}
	if f.Meets != nil {
		s += "  " + f.Goal + map[bool]string{true: " ✓", false: " ✗"}[*f.Meets]
	}
	return strings.TrimRight(s, " ")
}

// Text is the value with its unit, or "none".
func (f Figure) Text() string {
	if f.Value == nil {
		return "none"
	}
	return f.number(*f.Value)
}

// P95Text is the 95th percentile with its unit, or nothing.
func (f Figure) P95Text() string {
	if f.Spread == nil || f.P95 == 0 {
		return ""
	}
	return f.number(f.P95)
}

func (f Figure) name() string {
	var name strings.Builder
	name.WriteString(f.ID)
	for _, label := range []string{"app", "kind"} {
		if v := f.Labels[label]; v != "" {
			name.WriteString(" " + v)
		}
	}
	return name.String()
}

func (f Figure) number(x float64) string {
	switch f.Unit {
	case "ms":
		return fmt.Sprintf("%.1f ms", x)
	case "share":
		return fmt.Sprintf("%.1f %%", 100*x)
	}
	return fmt.Sprintf("%g", x)
}
