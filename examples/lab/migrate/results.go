package migrate

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/figures"
)

// The kinds of event.
const (
	none    = "none" // to see what the machine does by itself
	planned = "planned"
	reset   = "reset"
	silent  = "silent"
)

var kinds = []string{none, planned, reset, silent}

// goal is the longest stall that is good, in milliseconds.
func goal(kind string, rtt time.Duration) (limit float64, ok bool) {
	trips := float64(rtt) / float64(time.Millisecond)
	switch kind {
	case planned:
		return 20, true
	case reset:
		return 3*trips + 50, true
	case silent:
		return 2300 + 5*trips, true
	}
	return 0, false
}

// event is one kind of event at one round trip.
type event struct {
	kind   string
	rtt    time.Duration
	agents int // that felt it at once
}

// found is all that a run found. A part that did not come to its end has nothing.
type found struct {
	stalls map[event][]time.Duration

	echoed, lost int64 // bytes of the echoes
	broken       []string
	connections  int

	still, moved []app.Transferred // without moves and with them
	moves        int               // of each of the latter
	transferWhy  string            // a transfer that broke

	many   []Many
	short  []*short                      // numbers of sessions in memory for which this machine is too small
	weight map[string]map[string]float64 // "session" or "stream" → at → bytes
	weighs map[string]int                // of so many

	congestion string
}

func newFound() *found {
	return &found{stalls: map[event][]time.Duration{}, weight: map[string]map[string]float64{}, weighs: map[string]int{}}
}

const incomplete = "the run ended before"

// ofTime are the units whose goals depend on the machine's clock.
var ofTime = []string{"ms", "ratio", "cores"}

// report turns it into figures.
func (r *found) report(o Options, s sizes) (file *figures.File, complete bool) {
	file = figures.New(o.Command, "kernel")
	file.Host.Congestion = r.congestion
	complete = true
	add := func(fs []figures.Figure, whole bool) {
		file.Add(fs...)
		complete = complete && whole
	}
	add(r.stallFigures(s))
	add(r.lossFigures())
	add(r.transferFigures())
	add(r.manyFigures(s))
	add(r.weightFigures())
	return file, complete
}

func millis(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', -1, 64)
}

func (r *found) stallFigures(s sizes) (fs []figures.Figure, complete bool) {
	complete = true
	for _, h := range s.herds {
		for _, rtt := range rtts {
			for _, kind := range kinds {
				samples := r.stalls[event{kind, rtt, h.agents}]
				f := figures.Times("stall", "ms", "", samples)
				if len(samples) == 0 {
					f = figures.Skip("stall", "ms", "", incomplete)
				}
				complete = complete && len(samples) >= h.watched*h.times(kind)
				if limit, ok := goal(kind, rtt); ok && len(samples) > 0 {
					f = f.AtMost(limit)
				}
				fs = append(fs, f.Label("kind", kind).Label("rtt_ms", millis(rtt)).Label("agents", strconv.Itoa(h.agents)))
			}
		}
	}
	return fs, complete
}

// lossFigures are what must be zero: bytes that did not arrive and connections that did not end as their ends said.
func (r *found) lossFigures() (fs []figures.Figure, complete bool) {
	sent, lost, broken, n := r.echoed, r.lost, len(r.broken), r.connections
	wrong := 0
	for _, t := range slices.Concat(r.still, r.moved) {
		sent, lost, n = sent+2*t.Size, lost+t.Lost, n+1
		if t.Wrong != "" {
			wrong++
		}
	}
	if r.transferWhy != "" {
		broken++
	}
	for _, m := range r.many {
		if m.World == "memory" { // the others are in r already
			sent, lost, broken, n = sent+m.Echoed, lost+m.Lost, broken+m.Broken, n+m.Sessions
		}
	}
	return []figures.Figure{
		figures.Count("bytes.lost", "ms", "", int(lost), int(sent)).AtMost(0),
		figures.Count("streams.broken", "ms", "", broken, n).AtMost(0),
		figures.Count("digest.mismatch", "ms", "", wrong, 2*(len(r.still)+len(r.moved))).AtMost(0),
	}, true
}

func (r *found) transferFigures() (fs []figures.Figure, complete bool) {
	if len(r.still) == 0 || len(r.moved) == 0 {
		why := incomplete
		if r.transferWhy != "" {
			why = r.transferWhy
		}
		return []figures.Figure{figures.Skip("throughput.ratio", "ms", "", why)}, false
	}
	rate := func(all []app.Transferred) float64 { // MB/s, both directions
		var bytes, seconds float64
		for _, t := range all {
			bytes, seconds = bytes+2*float64(t.Size), seconds+t.Took.Seconds()
		}
		return bytes / seconds / 1e6
	}
	size := strconv.FormatInt(r.still[0].Size>>20, 10)
	moves := strconv.Itoa(r.moves)
	still, moved := rate(r.still), rate(r.moved)
	value := func(id, unit string, v float64, n int) figures.Figure {
		return figures.Figure{ID: id, System: "ms", Unit: unit, N: n, Value: &v}.Label("mib", size)
	}
	var waits []time.Duration
	for _, t := range r.moved {
		waits = append(waits, t.Longest)
	}
	return []figures.Figure{
		value("throughput", "MB/s", still, len(r.still)).Label("moves", "0"),
		value("throughput", "MB/s", moved, len(r.moved)).Label("moves", moves),
		value("throughput.ratio", "ratio", moved/still, len(r.moved)).Label("moves", moves).AtLeast(0.9),
		figures.Times("transfer.wait", "ms", "", waits).Label("mib", size).Label("moves", moves),
	}, true
}

func (r *found) manyFigures(s sizes) (fs []figures.Figure, complete bool) {
	complete = true
	for _, want := range s.many {
		complete = complete && slices.ContainsFunc(r.many, func(m Many) bool { return m.World == "kernel" && m.Sessions == want })
	}
	for _, want := range s.memory {
		played := slices.ContainsFunc(r.many, func(m Many) bool { return m.World == "memory" && m.Sessions == want })
		complete = complete && (played || r.shortOf(want) != nil)
	}
	for _, m := range r.many {
		fs = append(fs, m.figures()...)
		complete = complete && m.Moved == m.Sessions
	}
	for _, x := range r.short {
		fs = append(fs, figures.Figure{ID: "many.need", System: "ms", Unit: "cores", N: 1, Value: &x.need}.
			Label("sessions", strconv.Itoa(x.sessions)).Label("world", "memory").AtMost(float64(x.processors)))
	}
	for _, x := range all {
		if slices.ContainsFunc(r.many, func(m Many) bool { return m.World == x.world && m.Sessions == x.sessions }) {
			continue
		}
		why := "a quick run leaves it out"
		switch {
		case x.world == "memory" && r.shortOf(x.sessions) != nil:
			why = r.shortOf(x.sessions).String()
		case slices.Contains(s.memory, x.sessions), slices.Contains(s.many, x.sessions):
			why = incomplete
		}
		for _, id := range []string{"many.last", "many.stall"} {
			fs = append(fs, figures.Skip(id, "ms", "", why).Label("sessions", strconv.Itoa(x.sessions)).Label("world", x.world))
		}
		if x.world == "memory" { // one process: nobody's share can be told
			for _, id := range []string{"many.cpu", "many.memory"} {
				fs = append(fs, figures.Skip(id, "ms", "", why).Label("at", "all").Label("sessions", strconv.Itoa(x.sessions)).Label("world", x.world))
			}
		}
	}
	return fs, complete
}

func (r *found) shortOf(sessions int) *short {
	if i := slices.IndexFunc(r.short, func(x *short) bool { return x.sessions == sessions }); i >= 0 {
		return r.short[i]
	}
	return nil
}

// manyGoal is for 10,000 sessions; fewer must not take longer.
const manyGoal = 10_000

// controlGoal is how much later the last control link may move.
const controlGoal = 30 * time.Second

func (m Many) figures() (fs []figures.Figure) {
	one := func(id string, d time.Duration) figures.Figure {
		return figures.Times(id, "ms", "", []time.Duration{d})
	}
	missing, within := m.Sessions-m.Moved, m.Last+controlGoal
	fs = []figures.Figure{
		one("many.last", m.Last).Want(fmt.Sprintf("value <= %d, all moved", manyGoal), m.Last.Milliseconds() <= manyGoal && missing == 0),
		one("many.control", m.Control).Want(fmt.Sprintf("value <= %d, all moved", within.Milliseconds()), m.Control <= within && m.controls == m.Sessions),
		figures.Times("many.stall", "ms", "", m.Stalls),
		figures.Count("many.left", "ms", "", missing, m.Sessions).AtMost(0),
	}
	for _, at := range []string{"p2", "anchor", "all"} {
		u, ok := m.Used[at]
		if !ok {
			continue
		}
		cores, mib := u.CPU.Seconds()/u.Of.Seconds(), float64(u.RSS)/(1<<20)
		fs = append(fs,
			figures.Figure{ID: "many.cpu", System: "ms", Unit: "cores", N: 1, Value: &cores}.Label("at", at),
			figures.Figure{ID: "many.memory", System: "ms", Unit: "MiB", N: 1, Value: &mib}.Label("at", at))
	}
	for i := range fs {
		fs[i] = fs[i].Label("sessions", strconv.Itoa(m.Sessions)).Label("world", m.World)
	}
	return fs
}

// streamLimit is what an idle stream may weigh at the anchor, in KiB.
const streamLimit = 8

func (r *found) weightFigures() (fs []figures.Figure, complete bool) {
	complete = true
	for _, what := range []string{"session", "stream"} {
		for _, at := range []string{"agent", "edge", "anchor"} {
			bytes, ok := r.weight[what][at]
			if !ok {
				complete = false
				fs = append(fs, figures.Skip("memory."+what, "ms", "", incomplete).Label("at", at))
				continue
			}
			kib := bytes / 1024
			f := figures.Figure{ID: "memory." + what, System: "ms", Unit: "KiB", N: r.weighs[what], Value: &kib}.Label("at", at).Label("how", how(at))
			if what == "stream" && at == "anchor" {
				f = f.AtMost(streamLimit)
			}
			fs = append(fs, f)
		}
	}
	return fs, complete
}

// how something was weighed: agents share a process with others, whose heap can be asked.
func how(at string) string {
	if at == "agent" {
		return "heap"
	}
	return "rss"
}

// printTable prints the figures for people.
func printTable(w io.Writer, file *figures.File) error {
	var s strings.Builder
	fmt.Fprintf(&s, "\n%-40s %8s %12s %12s %12s  %s\n", "figure", "n", "value", "p99", "max", "goal")
	for _, f := range file.Figures {
		if f.Skipped != "" {
			fmt.Fprintf(&s, "%-40s not run: %s\n", title(f), f.Skipped)
			continue
		}
		p99, most := "", ""
		if f.Spread != nil && f.N > 1 {
			p99, most = fmt.Sprintf("%.1f", f.P99), fmt.Sprintf("%.1f", f.Max)
		}
		mark := ""
		if f.Meets != nil {
			mark = f.Goal + map[bool]string{true: " ✓", false: " ✗"}[*f.Meets]
		}
		fmt.Fprintln(&s, strings.TrimRight(fmt.Sprintf("%-40s %8d %12s %12s %12s  %s", title(f), f.N, number(f), p99, most, mark), " "))
	}
	_, err := io.WriteString(w, s.String())
	return err
}

func title(f figures.Figure) string {
	var s strings.Builder
	s.WriteString(f.ID)
	for _, k := range []string{"kind", "at", "moves", "sessions", "world", "agents", "rtt_ms"} {
		v := f.Labels[k]
		switch {
		case v == "":
		case k == "rtt_ms":
			s.WriteString(" " + v + " ms")
		case k == "moves" || k == "sessions" || k == "agents":
			s.WriteString(" " + v + " " + k)
		default:
			s.WriteString(" " + v)
		}
	}
	return s.String()
}

func number(f figures.Figure) string {
	if f.Value == nil {
		return "none"
	}
	if f.Unit == "count" {
		return strconv.FormatFloat(*f.Value, 'f', -1, 64)
	}
	if f.Unit == "ratio" {
		return fmt.Sprintf("%.2f", *f.Value)
	}
	return fmt.Sprintf("%.1f %s", *f.Value, f.Unit)
}

// summary is the last word.
func summary(file *figures.File, verdict, played error) string {
	if played != nil {
		return fmt.Sprintf("FAIL: %v", played)
	}
	var missed []string
	for _, f := range file.Figures {
		if f.Meets != nil && !*f.Meets {
			missed = append(missed, title(f))
		}
	}
	switch verdict {
	case nil:
		return "PASS"
	case figures.ErrSlow:
		return "SLOW, everything arrived: " + strings.Join(missed, "; ")
	}
	if len(missed) == 0 {
		return "FAIL: incomplete"
	}
	return "FAIL: " + strings.Join(missed, "; ")
}
