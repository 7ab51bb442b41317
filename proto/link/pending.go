package link

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
)

// pending holds the connections whose preamble is not verified yet. When it is full a random one is
// closed for the new one: a plain cap would let whoever fills it lock everybody else out.
type pending struct {
	max, ofOne int // of one source

	mu      sync.Mutex // guards what follows
	all     []*waiting
	sources map[netip.Addr]int
}

type waiting struct {
	c      net.Conn
	source netip.Addr
	at     int // index in all; -1: no longer in it
}

func newPending(limit, ofOne int) *pending {
	return &pending{max: limit, ofOne: ofOne, sources: map[netip.Addr]int{}}
}

// source is what counts as one: an IPv4 address, or an IPv6 /64, which one host usually owns.
func source(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

// add notes a connection; false: its source has enough of them.
func (p *pending) add(c net.Conn, from netip.Addr, s *counters) (*waiting, bool) {
	w := &waiting{c: c, source: source(from)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sources[w.source] >= p.ofOne {
		s.perSource.Add(1)
		return nil, false
	}
	if len(p.all) >= p.max {
		victim := p.all[rand.IntN(len(p.all))]
		p.removeLocked(victim)
		victim.c.Close()
		s.evicted.Add(1)
	}
	w.at = len(p.all)
	p.all = append(p.all, w)
	p.sources[w.source]++
	return w, true
}

// remove forgets a connection; one that was evicted is forgotten already.
func (p *pending) remove(w *waiting) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.removeLocked(w)
}

func (p *pending) removeLocked(w *waiting) {
	if w.at < 0 {
		return
	}
	last := p.all[len(p.all)-1]
	p.all[w.at], last.at = last, w.at
	p.all[len(p.all)-1] = nil
	p.all = p.all[:len(p.all)-1]
	w.at = -1
	if p.sources[w.source]--; p.sources[w.source] == 0 {
		delete(p.sources, w.source)
	}
}
