package informer

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"migrationsensor/proto"
)

// Limits of what the Informer remembers (ours).
const (
	maxTold    = 1 << 16 // agents whose disclosures are counted
	ratifyRoom = 4096    // queued RATIFYs; beyond, the client enters by its knock
)

// Peers carries notifications to other nodes over authenticated links on the backplane.
type Peers interface {
	// Request sends m and returns the node's answer. It is safe for concurrent use.
	Request(ctx context.Context, to proto.NodeID, m proto.Message) (proto.Message, error)
}

// Config is what an Informer needs. All fields but Log and Now are required.
type Config struct {
	Self   proto.NodeID
	Peers  Peers
	Budget int // hidden addresses that one agent may be told; 0 means 4
	Rate   int // new links a second that a next proxy admits: clients are spread over it; 0: all at once
	Now    func() time.Time
	Log    *slog.Logger
}

// Informer assigns clients to next proxies and notifies. It is safe for concurrent use.
type Informer struct {
	cfg Config
	log *slog.Logger

	ratifies chan ratify // Transfer sends, Run receives; dropped when full, never closed

	mu         sync.Mutex
	neighbours []Neighbour
	conditions map[proto.NodeID]condition
	told       map[proto.AgentID][]proto.NodeID
	members    map[*Member]struct{}
	agents     map[proto.AgentID][]*Member // the same, the newest last
	tally      tally
	preferred  proto.NodeID // by an operator; zero: none
	counter    uint64       // of migration notifications, rising
	round      uint64
	stats      Stats
}

// Stats counts notifications since the start.
type Stats struct {
	UserInfo, UserInfoOK uint64 // sent, acknowledged
	Migrate, MigrateOK   uint64
	Transfer             uint64
	Ratify, RatifyOK     uint64 // sent (without repetitions), approved
	Busy                 uint64 // a neighbour refused
}

// New returns an Informer without neighbours: it sends nobody anywhere until SetNeighbours.
func New(cfg Config) *Informer {
	if cfg.Budget == 0 {
		cfg.Budget = 4
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Informer{
		cfg: cfg, log: cfg.Log,
		ratifies:   make(chan ratify, ratifyRoom),
		conditions: make(map[proto.NodeID]condition),
		told:       make(map[proto.AgentID][]proto.NodeID),
		members:    make(map[*Member]struct{}),
		agents:     make(map[proto.AgentID][]*Member),
		counter:    uint64(cfg.Now().UnixMilli()), // rises over restarts
	}
}

// SetNeighbours replaces the list of possible next proxies.
func (i *Informer) SetNeighbours(ns []Neighbour) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.neighbours = slices.Clone(ns)
}

// Heard notes what a neighbour says of itself, or that its peer link went down (up false).
func (i *Informer) Heard(n proto.NodeID, up, attacked bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.conditions[n]
	c.up = up
	if attacked {
		c.attacked = i.cfg.Now()
	}
	i.conditions[n] = c
}

// Away notes that a neighbour says it takes nobody, and why: "draining", "suspended", "stopping".
// Empty: it does.
func (i *Informer) Away(n proto.NodeID, why string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.conditions[n]
	c.away = why
	i.conditions[n] = c
}

// Stats returns the counts so far.
func (i *Informer) Stats() Stats {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.stats
}

// Disclosed returns, for each hidden neighbour by name, how many agents have been told its address.
func (i *Informer) Disclosed() map[string]int {
	i.mu.Lock()
	defer i.mu.Unlock()
	names := make(map[proto.NodeID]string, len(i.neighbours))
	for _, n := range i.neighbours {
		names[n.Node] = n.Name
	}
	out := make(map[string]int)
	for nodes := range maps.Values(i.told) {
		for _, n := range nodes {
			if names[n] != "" {
				out[names[n]]++
			}
		}
	}
	return out
}

// tellLocked notes that the agent is told n's address: the newest is the last. That of an entry is no
// disclosure.
func (i *Informer) tellLocked(agent proto.AgentID, n Neighbour) {
	if n.Entry {
		return
	}
	told := i.told[agent]
	if at := slices.Index(told, n.Node); at >= 0 {
		told = slices.Delete(slices.Clone(told), at, at+1)
	}
	if told == nil && len(i.told) >= maxTold {
		for victim := range i.told { // any: the count is for the operator, not a gate
			delete(i.told, victim)
			break
		}
	}
	i.told[agent] = append(told, n.Node)
}

// seen puts an address into the form that notifications carry.
func seen(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
