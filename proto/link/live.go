package link

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"migrationsensor/proto"
)

// Live is a link that is up, for a firewall that has to let it live and for status.
type Live struct {
	Agent  proto.AgentID  // the token id on an enrol link
	Addr   netip.AddrPort // the agent's, as seen
	Local  netip.AddrPort
	Kind   proto.Kind
	Since  time.Time
	Anchor proto.NodeID // who ends it, when this node only passes it on; else zero
	Via    proto.NodeID // the edge that passed it on to this node; zero: the agent dialled this node
}

// Relayed reports whether this node only passes the link on to its anchor.
func (l Live) Relayed() bool { return !l.Anchor.IsZero() }

// entry is a link in the table. end ends it at once, with a reset.
type entry struct {
	Live
	end func()
}

// live is the table of links that are up: those that end here, and those that are passed on.
type live struct {
	mu    sync.Mutex
	links map[*entry]struct{}
	own   map[proto.AgentID]int // by agent, of those that Links lists
	data  int                   // of those, the data links
}

func (t *live) add(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.links == nil {
		t.links, t.own = map[*entry]struct{}{}, map[proto.AgentID]int{}
	}
	t.links[e] = struct{}{}
	if e.Via.IsZero() {
		t.own[e.Agent]++
	}
	if dataHere(&e.Live) {
		t.data++
	}
}

func (t *live) remove(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.links[e]; !ok {
		return
	}
	delete(t.links, e)
	if dataHere(&e.Live) {
		t.data--
	}
	if !e.Via.IsZero() {
		return
	}
	if t.own[e.Agent]--; t.own[e.Agent] == 0 {
		delete(t.own, e.Agent)
	}
}

func (t *live) full(limit int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.links) >= limit
}

func (t *live) list(match func(*Live) bool) []Live {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Live
	for e := range t.links {
		if match(&e.Live) {
			out = append(out, e.Live)
		}
	}
	return out
}

// Links lists the links that agents have with this node's link port; some may end at another anchor.
func (a *Acceptor) Links() []Live {
	return a.live.list(func(l *Live) bool { return l.Via.IsZero() })
}

// LinksOf is how many of them are one agent's.
func (a *Acceptor) LinksOf(agent proto.AgentID) int {
	a.live.mu.Lock()
	defer a.live.mu.Unlock()
	return a.live.own[agent]
}

// Passed lists the links that other edges passed on to this node.
func (a *Acceptor) Passed() []Live {
	return a.live.list(func(l *Live) bool { return !l.Via.IsZero() })
}

// dataHere is a data link that comes in at the link port, wherever it ends: what a suspended edge must not carry.
func dataHere(l *Live) bool { return l.Kind == proto.KindData && l.Via.IsZero() }

// DataLinks is how many data links run through this node's link port, those that it passes on included. Links that
// other edges passed on to it are no load of its line and do not count.
func (a *Acceptor) DataLinks() int {
	a.live.mu.Lock()
	defer a.live.mu.Unlock()
	return a.live.data
}

// CloseData ends the links that DataLinks counts. Sessions go on: over links that come another way, or when one does.
func (a *Acceptor) CloseData() int { return a.closeIf(dataHere) }

// Close ends every link of an agent with a reset, as for its revocation. It returns how many there were.
func (a *Acceptor) Close(agent proto.AgentID) int {
	return a.closeIf(func(l *Live) bool { return l.Agent == agent })
}

// CloseNode ends every link that goes over another node: passed on to it, or by it.
func (a *Acceptor) CloseNode(id proto.NodeID) int {
	return a.closeIf(func(l *Live) bool { return l.Anchor == id || l.Via == id })
}

// CloseAll ends every link.
func (a *Acceptor) CloseAll() int { return a.closeIf(func(*Live) bool { return true }) }

func (a *Acceptor) closeIf(match func(*Live) bool) (n int) {
	a.live.mu.Lock()
	defer a.live.mu.Unlock()
	for e := range a.live.links {
		if match(&e.Live) {
			n++
			e.end()
		}
	}
	return n
}

// Stats count since the Acceptor began.
type Stats struct {
	Accepted     uint64 // connections
	Short        uint64 // no whole preamble in time
	BadMagic     uint64
	BadKey       uint64
	BadTag       uint64
	BadMAC       uint64
	BadKind      uint64
	Clock        uint64 // rejected: time off
	Version      uint64 // rejected: another version
	Revoked      uint64
	Replayed     uint64 // nonce seen from another address
	Evicted      uint64 // unverified ones closed for newer ones
	PerSource    uint64 // closed: too many unverified ones of one source
	Full         uint64 // answered BUSY: too many links
	Sealed       uint64 // sealed replies of every kind
	TLSFailed    uint64
	NoTurn       uint64 // handshakes that were not begun: too many before them
	Control      uint64 // links that came up
	Data         uint64
	Enrol        uint64
	Probes       uint64 // answered "go ahead"
	Relayed      uint64 // data links passed on to their anchor
	Unreached    uint64 // answered RETRY or REJECT: their anchor could not be reached, did not answer, or is gone
	Passed       uint64 // relay headers of other edges that were good
	BadRelay     uint64 // and those that were not
	AcceptErrors uint64
}

type counters struct {
	accepted, short, badMagic, badKey, badTag, badMAC, badKind, clock, version, revoked, replayed,
	evicted, perSource, full, sealed, tlsFailed, noTurn, control, data, enrol, probes, relayed, unreached,
	passed, badRelay, acceptErrors atomic.Uint64
}

// wrong counts a preamble that is none of ours, and says in a word why.
func (c *counters) wrong(err error) string {
	switch {
	case errors.Is(err, proto.ErrKey):
		c.badKey.Add(1)
		return "bad_key"
	case errors.Is(err, proto.ErrTag):
		c.badTag.Add(1)
		return "bad_tag"
	case errors.Is(err, proto.ErrMAC):
		c.badMAC.Add(1)
		return "bad_mac"
	}
	c.badMagic.Add(1)
	return "bad_magic"
}

// Stats returns the counts.
func (a *Acceptor) Stats() Stats {
	c := &a.stats
	return Stats{
		Accepted: c.accepted.Load(), Short: c.short.Load(), BadMagic: c.badMagic.Load(), BadKey: c.badKey.Load(),
		BadTag: c.badTag.Load(), BadMAC: c.badMAC.Load(), BadKind: c.badKind.Load(), Clock: c.clock.Load(),
		Version: c.version.Load(), Revoked: c.revoked.Load(), Replayed: c.replayed.Load(), Evicted: c.evicted.Load(),
		PerSource: c.perSource.Load(), Full: c.full.Load(), Sealed: c.sealed.Load(), TLSFailed: c.tlsFailed.Load(), NoTurn: c.noTurn.Load(),
		Control: c.control.Load(), Data: c.data.Load(), Enrol: c.enrol.Load(), Probes: c.probes.Load(),
		Relayed: c.relayed.Load(), Unreached: c.unreached.Load(), Passed: c.passed.Load(), BadRelay: c.badRelay.Load(),
		AcceptErrors: c.acceptErrors.Load(),
	}
}
