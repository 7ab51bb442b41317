package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Status is what `ms-agent status` shows and the control socket gives as JSON.
type Status struct {
	State     string // enrolling, connecting, connected, moving, stopped
	Why       string // of the last failure to connect, while it lasts
	Since     time.Time
	Version   string
	AgentID   string
	Fleet     string
	Probe     string
	Edge      *EdgeStatus `json:",omitempty"`
	Second    *EdgeStatus `json:",omitempty"` // the entry to which there is a warm control link
	Sessions  []SessionStatus
	Links     []LinkStatus
	Protected []string
	Streams   int
	Counts    Counts
	Eaten     []NetworkStatus `json:",omitempty"`
	Events    []Event
}

// NetworkStatus is a network that loses SYNs which carry data: there an ordinary one goes first.
type NetworkStatus struct {
	Prefix string // of this machine's address in it
	Until  time.Time
}

// EdgeStatus is the proxy that the agent uses now.
type EdgeStatus struct {
	Name, Node, Addr string
	Since            time.Time
	RTTms            float64
}

// SessionStatus is what ties this machine to one anchor.
type SessionStatus struct {
	State        string // live, moving, waiting
	Anchor, Edge string // names, or node ids; Edge is empty while it waits
	Own          bool   // the edge in use is the anchor: when it dies the streams end
	New          bool   // takes new streams
	Single       bool   // made for one connection
	Since        time.Time
	Waiting      time.Time `json:",omitzero"` // since when it has no link
	Links        int
	Streams      int
	Epoch        int // counts RESUMEs
	Moves        int // those that were answered
	LastStallMs  float64
}

// LinkStatus is one link that stands.
type LinkStatus struct {
	Kind, Node, Addr string // Kind: control, control (second), data, or data (old) for one that another is to replace
	Since            time.Time
	Confirmed        time.Time `json:",omitzero"` // data: when the anchor took it in
	Streams          int
}

// Counts since the start.
type Counts struct {
	Opened, Refused, TimedOut, Failed, Direct uint64 // connections
	Moves                                     uint64 // to another proxy because the current one asked (MIGRATE)
	Transfers                                 uint64 // to another proxy because one answered a link so (TRANSFER)
	Forged                                    uint64 // answers to our dials that were no proxy's, see link.ErrGarbage
	TUNPackets                                uint64
}

// Event is something an operator would want to know of.
type Event struct {
	Time         time.Time
	What, Detail string
}

// Values of [Status.State].
const (
	stateEnrolling  = "enrolling"
	stateConnecting = "connecting"
	stateConnected  = "connected"
	stateMoving     = "moving"
	stateStopped    = "stopped"
)

// maxEvents bounds the ring. Ours.
const maxEvents = 256

// events is a ring of the last events. A sentence that repeats the last one is not kept again: it would push out
// what explains it.
type events struct {
	mu   sync.Mutex
	ring []Event
	next int
}

func (r *events) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.ring); n > 0 {
		last := &r.ring[(r.next+n-1)%n]
		if last.What == e.What && last.Detail == e.Detail {
			last.Time = e.Time
			return
		}
	}
	if len(r.ring) < maxEvents {
		r.ring = append(r.ring, e)
		return
	}
	r.ring[r.next] = e
	r.next = (r.next + 1) % maxEvents
}

// list returns the events, the oldest first.
func (r *events) list() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(append(make([]Event, 0, len(r.ring)), r.ring[r.next:]...), r.ring[:r.next]...)
}

// maxLinks bounds how many links a status lists; with probe = "each" there may be thousands.
const maxLinks = 64

// Status says what the agent is doing.
func (a *Agent) Status() Status {
	now := a.handler.Stats()
	s := Status{
		Version: a.sys.Version, Probe: a.cfg.Probe, Sessions: []SessionStatus{}, Links: []LinkStatus{}, Protected: []string{}, Events: a.events.list(),
		Counts: Counts{
			Opened: now.Opened, Refused: now.Refused, TimedOut: now.TimedOut, Failed: now.Failed, Direct: now.Direct,
			Moves: a.moved.Load(), Transfers: a.transfers.Load(), Forged: a.forged.Load(),
		},
	}
	for _, n := range a.networks.List(a.sys.Now()) {
		s.Eaten = append(s.Eaten, NetworkStatus{n.Prefix.String(), n.Until})
	}
	a.mu.Lock()
	s.State, s.Why, s.Since = a.state, a.why, a.since
	for _, p := range a.protected {
		s.Protected = append(s.Protected, p.String())
	}
	e, up, upSince, second, machine := a.enr, a.up, a.upSince, a.second, a.machine
	warm := make(map[*tether]bool, len(a.warm))
	for _, t := range a.warm {
		warm[t] = true
	}
	a.mu.Unlock()
	if e != nil {
		s.AgentID, s.Fleet = e.id.Agent.String(), e.id.Fleet
	}
	if machine != nil {
		s.Counts.TUNPackets = machine.Packets()
	}
	if s.Edge = s.control(e, "control", up); s.Edge != nil {
		s.Edge.Since = upSince
		if t := a.lead(); t != nil {
			s.Edge.RTTms = millis(t.SRTT())
		}
	}
	s.Second = s.control(e, "control (second)", second)
	ts := a.sessions()
	slices.SortFunc(ts, func(x, y *tether) int { return cmp.Or(compareBool(x.single, y.single), y.since.Compare(x.since)) })
	for _, t := range ts {
		s.session(t, warm[t])
	}
	return s
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func compareBool(x, y bool) int {
	switch {
	case x == y:
		return 0
	case y:
		return -1
	}
	return 1
}

// control lists a control link.
func (s *Status) control(e *enrolment, kind string, u *uplink) *EdgeStatus {
	if u == nil {
		return nil
	}
	addr, node := u.control.Remote().String(), u.cand.Node.String()
	s.Links = append(s.Links, LinkStatus{Kind: kind, Node: node, Addr: addr, Since: u.since})
	return &EdgeStatus{Name: e.nameOf(u.cand.Node), Node: node, Addr: addr, Since: u.since}
}

// session lists a session and its links.
func (s *Status) session(t *tether, warm bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := SessionStatus{
		State: t.stateLocked(), Waiting: t.waiting, Anchor: t.nodeName(t.anchor), New: warm, Single: t.single, Since: t.since, Links: len(t.links),
		Streams: t.sess.Streams(), Epoch: t.epoch, Moves: t.moves, LastStallMs: millis(t.stall),
	}
	s.Streams += st.Streams
	if d := t.current.Load(); d != nil {
		st.Edge, st.Own = t.edgeName(d.cand.Target), d.cand.Node == t.anchor
	}
	if len(s.Sessions) < maxLinks {
		s.Sessions = append(s.Sessions, st)
	}
	for _, d := range t.links {
		if len(s.Links) >= maxLinks {
			return
		}
		kind := "data"
		if d.role == parked || !warm && !t.single {
			kind = "data (old)"
		}
		s.Links = append(s.Links, LinkStatus{
			Kind: kind, Node: d.cand.Node.String(), Addr: d.Remote().String(), Since: d.since, Confirmed: d.taken, Streams: d.share.Streams(),
		})
	}
}

// Summary is the state in one line.
func (a *Agent) Summary() string {
	s := a.Status()
	switch {
	case s.Edge != nil:
		return fmt.Sprintf("connected to %s (%s), %d addresses protected", cmp.Or(s.Edge.Name, s.Edge.Node), s.Edge.Addr, len(s.Protected))
	case s.Why != "":
		return fmt.Sprintf("started, %d addresses protected, not connected yet: %s", len(s.Protected), s.Why)
	}
	return s.State
}

// Describe tells where each session of the agent stands, for a report of a connection that stands still.
func (a *Agent) Describe() string {
	a.mu.Lock()
	all := slices.Collect(maps.Keys(a.tethers))
	a.mu.Unlock()
	var w strings.Builder
	for _, t := range all {
		w.WriteString(t.sess.Describe())
	}
	return w.String()
}
