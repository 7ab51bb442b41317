package proxyd

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Ours: how many prefixes of strangers are known, and how many a status shows.
const (
	maxStrangers  = 1024
	shownPrefixes = 8
)

// strangers counts by prefix those who completed a handshake, so the address is theirs, and proved nothing. Its size is fixed:
// when it is full a new prefix takes the place, and the count, of one with the fewest, so that who comes often stays (Metwally et
// al., Space-Saving).
type strangers struct {
	now func() time.Time

	mu   sync.Mutex
	seen map[netip.Prefix]*stranger
}

type stranger struct {
	count uint64
	last  time.Time
	why   map[string]uint64 // since it has this place
}

// StrangerStatus is a prefix from which strangers came.
type StrangerStatus struct {
	Prefix netip.Prefix      `json:"prefix"` // /24 or /48
	Count  uint64            `json:"count"`  // at most so often: it may have taken another's place
	Last   time.Time         `json:"last"`   // zero: a packet program alone has seen them
	Why    map[string]uint64 `json:"why,omitempty"`
}

func newStrangers(now func() time.Time) *strangers {
	return &strangers{now: now, seen: make(map[netip.Prefix]*stranger)}
}

// prefixOf is the part of an address that one site has.
func prefixOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // not for an address that is none
	return p
}

// count notes one; why is a word, of few.
func (s *strangers) count(a netip.Addr, why string) {
	p := prefixOf(a)
	if !p.IsValid() {
		return
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.seen[p]
	if x == nil {
		x = &stranger{why: make(map[string]uint64, 1)}
		if len(s.seen) >= maxStrangers {
			x.count = s.forgetLocked()
		}
		s.seen[p] = x
	}
	x.count++
	x.last = now
	x.why[why]++
}

// forgetLocked makes room and returns the count of who went: of the fewest the one unheard of for longest.
func (s *strangers) forgetLocked() uint64 {
	var least netip.Prefix
	for p, x := range s.seen {
		if y := s.seen[least]; y == nil || x.count < y.count || x.count == y.count && x.last.Before(y.last) {
			least = p
		}
	}
	n := s.seen[least].count
	delete(s.seen, least)
	return n
}

// top lists those who came most often, with what a packet program counted.
func (s *strangers) top(program map[netip.Prefix]uint64) []StrangerStatus {
	s.mu.Lock()
	all := make(map[netip.Prefix]StrangerStatus, len(s.seen)+len(program))
	for p, x := range s.seen {
		all[p] = StrangerStatus{p, x.count, x.last, maps.Clone(x.why)}
	}
	s.mu.Unlock()
	for p, n := range program {
		x := all[p]
		if x.Why == nil {
			x.Prefix, x.Why = p, map[string]uint64{}
		}
		x.Count += n
		x.Why["bad_tag"] += n
		all[p] = x
	}
	out := slices.Collect(maps.Values(all))
	slices.SortFunc(out, func(a, b StrangerStatus) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), a.Prefix.Compare(b.Prefix))
	})
	return out[:min(len(out), shownPrefixes)]
}
