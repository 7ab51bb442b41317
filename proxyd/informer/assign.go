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
	Entry  bool // anyone may know its address: it takes nothing of the budget of disclosure
}

// condition is what a neighbour last said of itself.
type condition struct {
	up       bool
	away     string    // it says that it takes nobody, and why: draining, suspended, stopping
	attacked time.Time // last heartbeat that said so
	busy     time.Time // last BUSY
}

// busyFor is how long a BUSY answer keeps clients away (ours).
const busyFor = 5 * time.Second

// refusal says why no client may be sent there now; empty: they may.
func (c condition) refusal(now time.Time) string {
	if why := c.lost(now); why != "" {
		return why
	}
	if now.Sub(c.busy) < busyFor {
		return "refused clients a moment ago, because it is full; wait, or choose another"
	}
	return ""
}

// lost is a refusal that holds for clients who are on their way there already: those that it took
// before it was full go on.
func (c condition) lost(now time.Time) string {
	switch {
	case now.Sub(c.attacked) < attackMemory:
		return "is under attack, or was within the last minute; wait, or choose another"
	case c.away != "":
		return "is " + c.away + "; wait, or choose another"
	}
	return ""
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
	n, ok := i.pickLocked(agent, now, Order{})
	if !ok {
		return proto.Target{}, false
	}
	return n.target(agent), true
}

// Standby is the agent's next proxy, told ahead: it counts as disclosed, and is the one that a MIGRATE or TRANSFER would
// name. False when none is permitted.
func (i *Informer) Standby(agent proto.AgentID) (proto.Target, bool) {
	now := i.cfg.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	n, ok := i.pickLocked(agent, now, Order{})
	if !ok {
		return proto.Target{}, false
	}
	i.tellLocked(agent, n)
	return n.target(agent), true
}

// Replacement reports whether any neighbour could take clients now.
func (i *Informer) Replacement() bool {
	now := i.cfg.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.ContainsFunc(i.neighbours, func(n Neighbour) bool { return i.refusalLocked(n, now) == "" })
}

// Refusal says why no client can be sent to a neighbour now, as the end of a sentence that begins with
// its name; empty: one can.
func (i *Informer) Refusal(node proto.NodeID) string {
	now := i.cfg.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, n := range i.neighbours {
		if n.Node == node {
			return i.refusalLocked(n, now)
		}
	}
	return "is not a neighbour"
}

func (i *Informer) refusalLocked(n Neighbour, now time.Time) string {
	if !n.HasKey {
		return "has not handed over a key: its peer link has not been up since this proxyd started; is it running, and does the backplane reach it?"
	}
	return i.conditions[n.Node].refusal(now)
}

// Prefer sends clients to one neighbour as long as it is permitted, as an operator asked; the zero id
// ends it: each client its own again.
func (i *Informer) Prefer(n proto.NodeID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.preferred = n
}

// pickLocked is the agent's next proxy. First comes what an operator prefers, then the hidden edge that
// the agent was told last, so that asking again in a round discloses nothing new when a busy one is
// free again; then its own order.
func (i *Informer) pickLocked(agent proto.AgentID, now time.Time, o Order) (Neighbour, bool) {
	told := i.told[agent]
	order := rank(agent, i.neighbours)
	if len(told) > 0 {
		bringForward(order, told[len(told)-1])
	}
	bringForward(order, i.preferred)
	var unreachable *Neighbour
	for _, n := range order {
		switch {
		case i.refusalLocked(n, now) != "" || !o.allows(n):
			continue
		case !n.Entry && len(told) >= i.cfg.Budget && !slices.Contains(told, n.Node):
			continue // the agent knows as many hidden addresses as it may
		}
		if i.conditions[n.Node].up {
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

// bringForward puts a node to the front, if it is there.
func bringForward(ns []Neighbour, node proto.NodeID) {
	if at := slices.IndexFunc(ns, func(n Neighbour) bool { return n.Node == node }); at > 0 {
		n := ns[at]
		copy(ns[1:at+1], ns[:at])
		ns[0] = n
	}
}
