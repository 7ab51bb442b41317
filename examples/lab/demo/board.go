package demo

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
)

// The phases of a run, as figures name them. Return is from the flood's end until P1 is back.
const (
	phaseStart   = "start"
	phasePeace   = "peace"
	phaseFlood   = "flood"
	phaseReturn  = "return"
	phaseKilled  = "killed"
	phaseDrained = "drained"
	phaseAfter   = "after"
	phaseEnd     = "end"
)

var measured = []string{phasePeace, phaseFlood, phaseReturn, phaseKilled, phaseDrained, phaseAfter}

// proxyView is a proxy on the screen.
type proxyView struct {
	Name, Kind, Addr string
	Up               bool
	fleet.ProxyStatus
	History []float64 // packets/s, the newest last
	drawn   time.Time // when the newest was added
}

// clientView is a client on the screen.
type clientView struct {
	Name, System, About string
	ServedBy            string
	State               string
	Transfers, Moves    uint64
	samples             []fleet.Sample
}

// lastingView is a session that lives through the whole run.
type lastingView struct {
	Name  string
	usual time.Duration // between two arrivals
	trace *app.Trace
}

// event is a line of the history.
type event struct {
	At   time.Time
	Text string
}

// board is what the run knows at this moment; the scenario and its watchers write it, the screen
// and the report read snapshots.
type board struct {
	mu      sync.Mutex
	where   string // the lab that it is played in
	began   time.Time
	phase   string
	since   time.Time
	title   string
	proxies []*proxyView
	clients []*clientView
	lasting []*lastingView
	events  []event
	edgesAt map[string][]edgeAt // by client: where it was when
	states  map[string][]stateAt
}

type edgeAt struct {
	name  string
	since time.Time
}

type stateAt struct {
	state string
	since time.Time
}

func newBoard() *board {
	now := time.Now()
	return &board{where: "on this machine's kernel", began: now, since: now, phase: phaseStart, edgesAt: map[string][]edgeAt{}, states: map[string][]stateAt{}}
}

// The screen shows the last 20 s of packets/s.
const (
	history     = 40
	historyStep = 500 * time.Millisecond
)

// say adds a line to the history.
func (b *board) say(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, event{time.Now(), fmt.Sprintf(format, args...)})
}

// enter starts a phase.
func (b *board) enter(phase, title string) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.phase, b.title, b.since = phase, title, time.Now()
	b.events = append(b.events, event{b.since, title})
	return b.since
}

func (b *board) current() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.phase
}

// proxy returns the board's own view; change it under mu only.
func (b *board) proxyLocked(name string) *proxyView {
	i := slices.IndexFunc(b.proxies, func(p *proxyView) bool { return p.Name == name })
	return b.proxies[i]
}

// saw takes a proxy's status and tells of a change of state.
func (b *board) saw(name string, st fleet.ProxyStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.proxyLocked(name)
	if p.State != st.State {
		text := fmt.Sprintf("%s is %s", name, st.State)
		if st.Why != "" {
			text += ": " + st.Why
		}
		b.events = append(b.events, event{time.Now(), text})
		b.states[name] = append(b.states[name], stateAt{st.State, st.Since})
	}
	p.ProxyStatus, p.Up = st, true
	if now := time.Now(); now.Sub(p.drawn) >= historyStep {
		p.drawn = now
		p.History = append(p.History, st.Rates["all"])
		p.History = p.History[max(0, len(p.History)-history):]
	}
}

// lost notes that a proxy does not answer.
func (b *board) lost(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.proxyLocked(name); p.Up {
		p.Up = false
		p.State = ""
	}
}

// sawAgent takes an agent's status and tells of a move.
func (b *board) sawAgent(c *clientView, st fleet.AgentStatus, nameOf func(addr string) string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.State, c.Transfers, c.Moves = st.State, st.Counts.Transfers, st.Counts.Moves
	if st.Edge == nil {
		c.ServedBy = ""
		return
	}
	name := nameOf(st.Edge.Addr)
	if name == c.ServedBy {
		return
	}
	if c.ServedBy = name; name != "" {
		b.events = append(b.events, event{time.Now(), fmt.Sprintf("%s is served by %s", c.Name, name)})
		b.edgesAt[c.System] = append(b.edgesAt[c.System], edgeAt{name, st.Edge.Since})
	}
}

// add takes a fetch that ended.
func (b *board) add(c *clientView, s fleet.Sample) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.samples = append(c.samples, s)
}

// state is the state of a proxy as last seen.
func (b *board) state(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.proxyLocked(name).State
}

// reached reports whether a proxy was in one of some states at or after a moment, and since when.
func (b *board) reached(name string, after time.Time, states ...string) (time.Time, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.states[name] {
		if slices.Contains(states, s.state) && !s.since.Before(after) {
			return s.since, true
		}
	}
	return time.Time{}, false
}

// snapshot is what the screen draws.
type snapshot struct {
	Where            string
	At, Began, Since time.Time
	Phase, Title     string
	Proxies          []proxyView
	Clients          []clientLine
	Lasting          []lastingLine
	Events           []event
}

// lastingLine is a session and what it felt in this phase; at the end, in all.
type lastingLine struct {
	Name           string
	Arrived        int
	Stalls, Stands time.Duration // the longest so far, and the one it is in
}

// clientLine is a client's figures so far.
type clientLine struct {
	Name, About, ServedBy, State string
	OK, Failed                   int // in this phase; at the end, in all
	Connect, Total               time.Duration
	Last                         []bool
}

func (b *board) snapshot() snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := snapshot{Where: b.where, At: time.Now(), Began: b.began, Since: b.since, Phase: b.phase, Title: b.title, Events: slices.Clone(b.events)}
	for _, p := range b.proxies {
		v := *p
		v.History = slices.Clone(p.History)
		s.Proxies = append(s.Proxies, v)
	}
	for _, c := range b.clients {
		s.Clients = append(s.Clients, c.line(b.phase))
	}
	since := b.since
	if b.phase == phaseEnd {
		since = b.began
	}
	for _, l := range b.lasting {
		longest, _ := l.trace.Longest(since, s.At)
		now, _ := l.trace.Longest(s.At, s.At)
		s.Lasting = append(s.Lasting, lastingLine{l.Name, l.trace.Count(), app.Stall(longest, l.usual), app.Stall(now, l.usual)})
	}
	return s
}

func (c *clientView) line(phase string) clientLine {
	l := clientLine{Name: c.Name, About: c.About, ServedBy: c.ServedBy, State: c.State}
	for _, s := range c.samples {
		if s.When == phase || phase == phaseEnd {
			if s.OK() {
				l.OK++
			} else {
				l.Failed++
			}
		}
	}
	for _, s := range c.samples[max(0, len(c.samples)-24):] {
		l.Last = append(l.Last, s.OK())
		if s.OK() {
			l.Connect, l.Total = s.Connect, s.Total
		}
	}
	return l
}

// samplesOf returns a client's fetches that began in a phase.
func (b *board) samplesOf(c *clientView, phase string) (out []fleet.Sample) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range c.samples {
		if s.When == phase {
			out = append(out, s)
		}
	}
	return out
}
