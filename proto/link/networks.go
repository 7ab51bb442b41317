package link

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Bounds of what is remembered of networks (ours).
const (
	maxNetworks = 64
	eatenFor    = time.Hour
)

// Networks remembers the networks that lose SYNs which carry data. There an ordinary SYN goes first and a keyed one
// after it, the other way round than elsewhere; so a mistake costs one redial, and an answer to a keyed SYN corrects it.
//
// A network is the prefix of this machine's own address in it, /24 or /64. Two homes may share 192.168.1.0/24; a gateway's
// address would tell no more of them apart, and its MAC needs a right to ask. The zero value is empty; it is safe for
// concurrent use.
type Networks struct {
	mu    sync.Mutex
	eaten map[netip.Prefix]time.Time // until when; guarded by mu
}

// A Network is one that loses SYNs with data.
type Network struct {
	Prefix netip.Prefix
	Until  time.Time // believed so long
}

// NetworkOf is the network that a machine with the address a is in; the zero Prefix if a is none.
func NetworkOf(a netip.Addr) netip.Prefix {
	bits := 24
	if a = a.Unmap().WithZone(""); a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// List tells the networks that are believed to lose SYNs with data.
func (n *Networks) List(now time.Time) []Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forgetLocked(now)
	list := make([]Network, 0, len(n.eaten))
	for p, until := range n.eaten {
		list = append(list, Network{p, until})
	}
	slices.SortFunc(list, func(a, b Network) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	return list
}

func (n *Networks) forgetLocked(now time.Time) {
	for p, until := range n.eaten {
		if !now.Before(until) {
			delete(n.eaten, p)
		}
	}
}

// any reports whether it is worth asking which network one is in.
func (n *Networks) any() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.eaten) > 0
}

func (n *Networks) eats(p netip.Prefix, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	until, ok := n.eaten[p]
	return ok && now.Before(until)
}

// note takes what a dial showed of a network; changed tells whether that was news.
func (n *Networks) note(p netip.Prefix, ate bool, now time.Time) (changed bool) {
	if !p.IsValid() {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	until, known := n.eaten[p]
	known = known && now.Before(until)
	if !ate {
		delete(n.eaten, p)
		return known
	}
	if n.eaten == nil {
		n.eaten = map[netip.Prefix]time.Time{}
	}
	if n.forgetLocked(now); len(n.eaten) >= maxNetworks && !known {
		var oldest netip.Prefix
		for q, until := range n.eaten {
			if !oldest.IsValid() || until.Before(n.eaten[oldest]) {
				oldest = q
			}
		}
		delete(n.eaten, oldest)
	}
	n.eaten[p] = now.Add(eatenFor)
	return !known
}
