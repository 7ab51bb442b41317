package link

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"migrationsensor/proto"
)

// Live is a link that is up, for a firewall that has to let it live and for status.
type Live struct {
	Agent proto.AgentID  // the token id on an enrol link
	Addr  netip.AddrPort // the agent's, as seen
	Local netip.AddrPort
	Kind  proto.Kind
	Since time.Time
}

type entry struct {
	Live
	cancel context.CancelFunc
}

// live is the table of established links.
type live struct {
	mu    sync.Mutex
	links map[*Link]*entry
}

func (t *live) add(l *Link, agent proto.AgentID, cancel context.CancelFunc) {
	e := &entry{cancel: cancel, Live: Live{
		Agent: agent, Addr: l.Remote(), Local: addrPort(l.raw.LocalAddr()), Kind: l.Kind, Since: l.Since,
	}}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.links == nil {
		t.links = map[*Link]*entry{}
	}
	t.links[l] = e
}

func (t *live) remove(l *Link) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.links, l)
}

func (t *live) full(limit int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.links) >= limit
}

// Links lists the links that are up.
func (a *Acceptor) Links() []Live {
	a.live.mu.Lock()
	defer a.live.mu.Unlock()
	out := make([]Live, 0, len(a.live.links))
	for _, e := range a.live.links {
		out = append(out, e.Live)
	}
	return out
}

// Close ends every link of an agent with a reset, as for its revocation. It returns how many there were.
func (a *Acceptor) Close(agent proto.AgentID) int {
	return a.closeIf(func(e *entry) bool { return e.Agent == agent })
}

// CloseAll ends every link.
func (a *Acceptor) CloseAll() int { return a.closeIf(func(*entry) bool { return true }) }

func (a *Acceptor) closeIf(match func(*entry) bool) (n int) {
	a.live.mu.Lock()
	defer a.live.mu.Unlock()
	for l, e := range a.live.links {
		if match(e) {
			n++
			e.cancel()
			l.Abort()
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
	Control      uint64 // links that came up
	Data         uint64
	Enrol        uint64
	Probes       uint64 // answered "go ahead"
	AcceptErrors uint64
}

type counters struct {
	accepted, short, badMagic, badKey, badTag, badMAC, badKind, clock, version, revoked, replayed,
	evicted, perSource, full, sealed, tlsFailed, control, data, enrol, probes, acceptErrors atomic.Uint64
}

func (c *counters) wrong(err error) {
	switch {
	case errors.Is(err, proto.ErrKey):
		c.badKey.Add(1)
	case errors.Is(err, proto.ErrTag):
		c.badTag.Add(1)
	case errors.Is(err, proto.ErrMAC):
		c.badMAC.Add(1)
	default:
		c.badMagic.Add(1)
	}
}

// Stats returns the counts.
func (a *Acceptor) Stats() Stats {
	c := &a.stats
	return Stats{
		Accepted: c.accepted.Load(), Short: c.short.Load(), BadMagic: c.badMagic.Load(), BadKey: c.badKey.Load(),
		BadTag: c.badTag.Load(), BadMAC: c.badMAC.Load(), BadKind: c.badKind.Load(), Clock: c.clock.Load(),
		Version: c.version.Load(), Revoked: c.revoked.Load(), Replayed: c.replayed.Load(), Evicted: c.evicted.Load(),
		PerSource: c.perSource.Load(), Full: c.full.Load(), Sealed: c.sealed.Load(), TLSFailed: c.tlsFailed.Load(),
		Control: c.control.Load(), Data: c.data.Load(), Enrol: c.enrol.Load(), Probes: c.probes.Load(), AcceptErrors: c.acceptErrors.Load(),
	}
}
