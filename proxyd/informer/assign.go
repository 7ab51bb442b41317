package informer

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"migrationsensor/proto"
)

// attackMemory is how long a neighbour that said it is attacked is left alone after it stopped
// saying so (ours; it damps P1 → P2 → P1 loops).
const attackMemory = 60 * time.Second

// Neighbour is a proxy that this one may send clients to. Handed over with the key H that it gave us.
type Neighbour struct {
	Node   proto.NodeID
	Name   string
	Addr4  netip.Addr // invalid when it has none
	Addr6  netip.Addr
	Port   uint16 // link port
	Gen    uint8
	Issuer uint8
	H      proto.Secret
	HasKey bool // false until it handed over a key: not a target yet
}

// condition is what a neighbour last said of itself.
type condition struct {
	up       bool
	attacked time.Time // last heartbeat that said so
	busy     time.Time // last BUSY
}

// busyFor is how long a BUSY answer keeps clients away (ours).
const busyFor = 5 * time.Second

// permitted reports whether clients may be sent there now.
func (c condition) permitted(now time.Time) bool {
	return now.Sub(c.attacked) >= attackMemory && now.Sub(c.busy) >= busyFor
}

// rank orders neighbours for an agent by rendezvous hash (highest random weight): each agent has its
// own order, and taking one neighbour away moves only the agents that were on it.
func rank(agent proto.AgentID, ns []Neighbour) []Neighbour {
	out := slices.Clone(ns)
	slices.SortFunc(out, func(a, b Neighbour) int {
		return cmp.Or(
			-cmp.Compare(weight(agent, a.Node), weight(agent, b.Node)),
			slices.Compare(a.Node[:], b.Node[:]))
	})
	return out
}

func weight(agent proto.AgentID, n proto.NodeID) uint64 {
	var b [24]byte
	copy(b[:], agent[:])
	copy(b[16:], n[:])
	sum := sha256.Sum256(b[:])
	return binary.BigEndian.Uint64(sum[:])
}

// target makes what a notification tells of a neighbour: its addresses, and the agent's key for it,
// derived from the handover key without asking it.
func (n Neighbour) target(agent proto.AgentID) proto.Target {
	return proto.Target{
		Addr4: n.Addr4, Addr6: n.Addr6, Port: n.Port, Node: n.Node,
		Key:  proto.KeyID{Gen: n.Gen, Issuer: n.Issuer},
		Keys: n.H.Admission(agent),
	}
}

// Target returns the agent's next proxy; false when none is permitted. It is the same for the same
// agent until a neighbour's condition changes.
func (i *Informer) Target(agent proto.AgentID) (proto.Target, bool) {
	now := i.cfg.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	n, ok := i.pickLocked(agent, now)
	if !ok {
		return proto.Target{}, false
	}
	return n.target(agent), true
}

// Replacement reports whether any neighbour could take clients now.
func (i *Informer) Replacement() bool {
	now := i.cfg.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.ContainsFunc(i.neighbours, func(n Neighbour) bool {
		return n.HasKey && i.conditions[n.Node].permitted(now)
	})
}

func (i *Informer) pickLocked(agent proto.AgentID, now time.Time) (Neighbour, bool) {
	told := i.told[agent]
	var unreachable *Neighbour
	for _, n := range rank(agent, i.neighbours) {
		c := i.conditions[n.Node]
		if !n.HasKey || !c.permitted(now) {
			continue
		}
		if len(told) >= i.cfg.Budget && !slices.Contains(told, n.Node) {
			continue // the agent knows as many hidden addresses as it may
		}
		if c.up {
			return n, true
		}
		if unreachable == nil {
			unreachable = &n
		}
	}
	if unreachable != nil {
		return *unreachable, true
	}
	return Neighbour{}, false
}
