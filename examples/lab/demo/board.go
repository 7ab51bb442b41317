package demo

import (
	"fmt"
	"maps"
	"slices"
	"strings"
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
	phaseOrphan  = "p1-killed" // where the run kills the entry too
	phaseDrained = "drained"
	phaseHome    = "home"
	phaseAfter   = "after"
	phaseEnd     = "end"
)

var measured = []string{phasePeace, phaseFlood, phaseReturn, phaseKilled, phaseOrphan, phaseDrained, phaseHome, phaseAfter}

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
	Name, System     string
	ServedBy         string
	Transfers, Moves uint64
	samples          []fleet.Sample
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
	marks   map[string]mark     // of what happens to the sessions, by kind
	edgesAt map[string][]edgeAt // by system: where it was seen when
	states  map[string][]stateAt
	kinds   []string // of what happens to the sessions, in their order
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
	return &board{where: "on this machine's kernel", began: now, since: now, phase: phaseStart, marks: map[string]mark{}, edgesAt: map[string][]edgeAt{}, states: map[string][]stateAt{}, kinds: stallKinds}
}

// The screen shows the last 14 s of packets/s.
const (
	history     = 14
	historyStep = time.Second
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

// open starts a phase in which something happens to the sessions, and close ends that: what they feel is looked for between.
func (b *board) open(kind, title string) time.Time {
	from := b.enter(kind, title)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marks[kind] = mark{from: from}
	return from
}

func (b *board) close(kind string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marks[kind] = mark{b.marks[kind].from, time.Now()}
}

func (b *board) marksNow() map[string]mark {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.marks)
}

// counts are what the programs have counted, as last seen.
func (b *board) counts() counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := counts{map[string]uint64{}, map[string]uint64{}, b.proxyLocked("p1").Counts["transfers"]}
	for _, v := range b.clients {
		c.moves[v.System], c.transfers[v.System] = v.Moves, v.Transfers
	}
	return c
}

// at is the proxy that served an agent at a moment.
func (b *board) at(system string, when time.Time) (name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.atLocked(system, when)
}

func (b *board) atLocked(system string, when time.Time) (name string) {
	for _, e := range b.edgesAt[system] {
		if !e.since.After(when) {
			name = e.name
		}
	}
	return name
}

// wayLocked is an agent's way from proxy to proxy in a time.
func (b *board) wayLocked(system string, m mark) string {
	way := []string{}
	if at := b.atLocked(system, m.from); at != "" {
		way = append(way, at)
	}
	for _, e := range b.edgesAt[system] {
		if e.since.After(m.from) && (m.to.IsZero() || e.since.Before(m.to)) {
			way = append(way, e.name)
		}
	}
	return strings.Join(way, "→")
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
	c.Transfers, c.Moves = st.Counts.Transfers, st.Counts.Moves
	name, now := nameOf(st.ServedBy()), time.Now()
	if name == c.ServedBy {
		return
	}
	if c.ServedBy = name; name == "" {
		return
	}
	if at := b.edgesAt[c.System]; len(at) == 0 || at[len(at)-1].name != name {
		b.events = append(b.events, event{now, fmt.Sprintf("%s is served by %s", c.Name, name)})
		b.edgesAt[c.System] = append(at, edgeAt{name, now})
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
	Kinds            []string          // of what happens to the sessions
	Way              map[string]string // of the sessions from proxy to proxy, by kind
	Events           []event
}

// lastingLine is a session and what it felt.
type lastingLine struct {
	Name    string
	Arrived int
	Stalls  map[string]time.Duration // the longest, by kind
	Stands  time.Duration            // the one it is in
}

// clientLine is a client's figures so far.
type clientLine struct {
	Name, ServedBy string
	OK, Failed     int // in this phase; at the end, in all
	Connect, Total time.Duration
	Last           []bool
}

func (b *board) snapshot() snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := snapshot{Where: b.where, At: time.Now(), Began: b.began, Since: b.since, Phase: b.phase, Title: b.title, Events: slices.Clone(b.events), Kinds: b.kinds}
	for _, p := range b.proxies {
		v := *p
		v.History = slices.Clone(p.History)
		s.Proxies = append(s.Proxies, v)
	}
	for _, c := range b.clients {
		s.Clients = append(s.Clients, c.line(b.phase))
	}
	s.Way = map[string]string{}
	for kind, m := range b.marks {
		s.Way[kind] = b.wayLocked("ms", m)
	}
	for _, l := range b.lasting {
		s.Lasting = append(s.Lasting, l.line(b.marks, s.At))
	}
	return s
}

func (l *lastingView) line(marks map[string]mark, now time.Time) lastingLine {
	stands, _ := l.trace.Longest(now, now)
	out := lastingLine{l.Name, l.trace.Count(), map[string]time.Duration{}, app.Stall(stands, l.usual)}
	for kind, m := range marks {
		if m.to.IsZero() {
			m.to = now
		}
		longest, _ := l.trace.Longest(m.from, m.to)
		out.Stalls[kind] = app.Stall(longest, l.usual)
	}
	return out
}

func (c *clientView) line(phase string) clientLine {
	l := clientLine{Name: c.Name, ServedBy: c.ServedBy}
	for _, s := range c.samples {
		if s.When == phase || phase == phaseEnd {
			if s.OK() {
				l.OK++
			} else {
				l.Failed++
			}
		}
	}
	for _, s := range c.samples[max(0, len(c.samples)-18):] {
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
