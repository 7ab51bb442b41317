package agent

import (
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
