package agent

import (
	"cmp"
	"fmt"
	"slices"
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
	Links     []LinkStatus
	Protected []string
	Streams   int
	Counts    Counts
	Events    []Event
}

// EdgeStatus is the proxy that the agent uses now.
type EdgeStatus struct {
	Name, Node, Addr string
	Since            time.Time
	RTTms            float64
}

// LinkStatus is one link that stands.
type LinkStatus struct {
	Kind, Node, Addr string // Kind: control, data, or data (old) for one that only its last streams keep
	Since            time.Time
	Streams          int
}

// Counts since the start.
type Counts struct {
	Opened, Refused, TimedOut, Failed, Direct uint64 // connections
	Moves                                     uint64 // to another proxy because the current one asked (MIGRATE)
	Transfers                                 uint64 // to another proxy because one answered a link so (TRANSFER)
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
		Version: a.sys.Version, Probe: a.cfg.Probe, Links: []LinkStatus{}, Protected: []string{}, Events: a.events.list(),
		Counts: Counts{
			Opened: now.Opened, Refused: now.Refused, TimedOut: now.TimedOut, Failed: now.Failed, Direct: now.Direct,
			Moves: a.moved.Load(), Transfers: a.transfers.Load(),
		},
	}
	a.mu.Lock()
	s.State, s.Why, s.Since = a.state, a.why, a.since
	for _, p := range a.protected {
		s.Protected = append(s.Protected, p.String())
	}
	e, up, warm, machine := a.enr, a.up, a.warm, a.machine
	links := make([]*dataLink, 0, len(a.links))
	for d := range a.links {
		links = append(links, d)
	}
	a.mu.Unlock()
	if e != nil {
		s.AgentID, s.Fleet = e.id.Agent.String(), e.id.Fleet
	}
	if machine != nil {
		s.Counts.TUNPackets = machine.Packets()
	}
	s.links(e, up, warm, links)
	return s
}

func (s *Status) links(e *enrolment, up *uplink, warm *dataLink, links []*dataLink) {
	if up != nil {
		addr := up.control.Remote().String()
		s.Edge = &EdgeStatus{Name: e.nameOf(up.cand.Node), Node: up.cand.Node.String(), Addr: addr, Since: up.since}
		s.Edge.RTTms = float64(up.data.SRTT()) / float64(time.Millisecond)
		s.Links = append(s.Links, LinkStatus{Kind: "control", Node: s.Edge.Node, Addr: addr, Since: up.since})
	}
	slices.SortFunc(links, func(x, y *dataLink) int { return y.since.Compare(x.since) })
	for _, d := range links {
		n := d.sess.Streams()
		s.Streams += n
		if len(s.Links) >= maxLinks {
			continue
		}
		kind := "data"
		if d != warm {
			kind = "data (old)"
		}
		s.Links = append(s.Links, LinkStatus{kind, d.cand.Node.String(), d.link.Remote().String(), d.since, n})
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
