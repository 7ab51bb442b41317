package firewall

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Memory is the packet filter of a machine that has none in its kernel: the lab's hosts in memory, whose links ask it
// about each packet. It decides as the rules in nftables do (see the package's documentation), but for what the link
// layer needs: there is none.
type Memory struct {
	mu      sync.Mutex
	on      bool // there is a table
	kept    bool // for good: the process that would remove it was killed
	plan    plan
	doors   map[netip.AddrPort]Plain // of guarded ports
	ours    map[netip.Addr]bool
	flows   map[Flow]bool
	doorFor map[netip.Addr]time.Time
	own     map[ownKey]time.Time
	taken   map[ration]int // in this second
	second  int64
	stats   Stats
}

// ownKey is what the machine sent, as its answer will look.
type ownKey struct {
	proto         byte
	theirs, local netip.AddrPort
}

// NewMemory returns a firewall whose packet filter is in memory. Its Watch does not apply: no interface comes or goes.
func NewMemory(cfg Config) (*Firewall, *Memory, error) {
	f, err := New(cfg)
	if err != nil {
		return nil, nil, err
	}
	m := &Memory{}
	f.dial = func() (kernel, error) { return m, nil }
	return f, m, nil
}

// Keep makes the table outlive its firewall, as it does in a kernel when the process is killed.
func (m *Memory) Keep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = true
}

func (m *Memory) replace(p *plan) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on, m.plan, m.stats = true, *p, Stats{}
	m.doors, m.ours = map[netip.AddrPort]Plain{}, map[netip.Addr]bool{}
	for _, a := range p.cfg.Addrs {
		m.ours[a] = true
		m.doors[netip.AddrPortFrom(a, p.cfg.LinkPort)] = PlainDrop
	}
	for _, s := range p.cfg.Services {
		for _, at := range spread(s, p.cfg.Addrs) {
			m.doors[at] = p.cfg.Plain(s)
		}
	}
	m.doorFor = make(map[netip.Addr]time.Time, len(p.admitted))
	for _, a := range p.admitted {
		m.doorFor[a.addr] = a.until
	}
	if m.own == nil {
		m.own = map[ownKey]time.Time{}
	}
	m.setFlowsLocked(p.flows)
	return true, nil
}

// spread is a service's address, or ours of its family for an unspecified one.
func spread(s netip.AddrPort, ours []netip.Addr) (out []netip.AddrPort) {
	if !s.Addr().IsUnspecified() {
		return []netip.AddrPort{unmap(s)}
	}
	for _, a := range ours {
		if a.Is4() == s.Addr().Is4() {
			out = append(out, netip.AddrPortFrom(a, s.Port()))
		}
	}
	return out
}

func (m *Memory) gate(p *plan) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plan.defending = p.defending
	return nil
}

func (m *Memory) setFlows(_, now []Flow) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setFlowsLocked(now)
	return nil
}

func (m *Memory) setFlowsLocked(flows []Flow) {
	m.flows = make(map[Flow]bool, len(flows))
	for _, f := range flows {
		m.flows[f] = true
	}
}

func (m *Memory) admit(admit []admission, evict []netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range evict {
		delete(m.doorFor, a)
	}
	for _, a := range admit {
		m.doorFor[a.addr] = a.until
	}
	return nil
}

func (m *Memory) counters() (Stats, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stats, nil
}

func (m *Memory) intact(*plan) (bool, error) { return true, nil }

func (m *Memory) remove() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on = m.kept
	return nil
}

func (m *Memory) close() error { return nil }

// In decides about a packet that arrives at a public interface: its first bytes, from the IP header on.
func (m *Memory) In(head []byte) bool {
	p, ok := parsePacket(head)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.on:
		return true
	case !ok:
		return !m.plan.cfg.Hidden
	case p.proto == protoUDP && m.ours[p.dst.Addr()] && p.dst.Port() == m.plan.cfg.LinkPort:
		m.stats.Knocks++
		return false
	case m.plan.cfg.Hidden:
		return m.darkLocked(p)
	case m.plan.defending:
		return m.doorLocked(p)
	}
	return true
}

// doorLocked decides at a defending entry.
func (m *Memory) doorLocked(p packet) bool {
	plain, guarded := m.doors[p.dst]
	opens := p.flags&(tcpSYN|tcpACK) == tcpSYN
	switch {
	case p.proto != protoTCP || !guarded:
		return !m.ours[p.dst.Addr()] || m.restLocked(p)
	case m.knownLocked(p):
		return true
	case plain == PlainAdmit, plain == PlainCookie && !opens:
		m.stats.Plain++
		return true
	case plain == PlainCookie && m.rationLocked(ration{"cookie", cookieRate}):
		m.stats.Cookies++
		return true
	}
	m.stats.Dropped++
	return false
}

// restLocked decides about what is for a defending entry and no guarded port.
func (m *Memory) restLocked(p packet) bool {
	class := ration{"rest", restRate}
	switch {
	case p.tooBig, m.allowedLocked(p.src.Addr()):
		return true
	case m.own[ownKey{p.proto, p.src, p.dst}].After(time.Now()):
		m.stats.Own++
		return true
	case p.proto == protoUDP:
		class = ration{"UDP", restUDPRate}
	case p.proto == protoICMP, p.proto == protoICMPv6:
		class = ration{"ICMP", restICMP}
	case p.proto == protoTCP && p.flags&(tcpSYN|tcpACK) == tcpSYN:
		class = ration{"SYN", restSYNRate}
	}
	if m.rationLocked(class) {
		return true
	}
	m.stats.Floods++
	return false
}

// ration is a class of packets of which a defending entry takes so many a second.
type ration struct {
	class string
	rate  int
}

func (m *Memory) rationLocked(r ration) bool {
	if s := time.Now().Unix(); s != m.second || m.taken == nil {
		m.second, m.taken = s, map[ration]int{}
	}
	m.taken[r]++
	return m.taken[r] <= r.rate
}

// allowedLocked counts, and reports, a source among those that are never shut out.
func (m *Memory) allowedLocked(src netip.Addr) bool {
	ok := slices.ContainsFunc(m.plan.cfg.Allow, func(x netip.Prefix) bool { return x.Contains(src) })
	if ok {
		m.stats.Allowed++
	}
	return ok
}

// darkLocked decides at a hidden edge.
func (m *Memory) darkLocked(p packet) bool {
	now := time.Now()
	switch {
	case m.knownLocked(p):
		return true
	case m.own[ownKey{p.proto, p.src, p.dst}].After(now):
		m.stats.Own++
		return true
	case p.tooBig:
		return true
	}
	m.stats.Dropped++
	return false
}

// knownLocked is what gets in at both: peers, live flows, admitted addresses.
func (m *Memory) knownLocked(p packet) bool {
	src := p.src.Addr()
	switch {
	case m.allowedLocked(src):
	case p.proto == protoTCP && m.flows[Flow{Src: p.src, Dst: p.dst}]:
		m.stats.Flows++
	case p.proto == protoTCP && m.ours[p.dst.Addr()] && p.dst.Port() == m.plan.cfg.LinkPort && m.doorFor[src].After(time.Now()):
		m.stats.Admitted++
	default:
		return false
	}
	return true
}

const (
	protoTCP, protoUDP, protoICMP, protoICMPv6 = 6, 17, 1, 58

	ownFor    = 10 * time.Minute // as in the kernel
	ownUDPFor = time.Minute
	sweepOwn  = 4096
)

// Out notes what the machine sends, so that the reply is let in. Links and services are not noted.
func (m *Memory) Out(head []byte) {
	p, ok := parsePacket(head)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !ok || !m.on {
		return
	}
	if _, guarded := m.doors[p.src]; guarded && p.proto == protoTCP {
		return
	}
	k, now := ownKey{p.proto, p.dst, p.src}, time.Now()
	switch _, known := m.own[k]; {
	case p.proto == protoTCP && (known || p.flags&(tcpSYN|tcpACK) == tcpSYN):
		m.own[k] = now.Add(ownFor)
	case p.proto == protoUDP:
		m.own[k] = now.Add(ownUDPFor)
	}
	if len(m.own) > sweepOwn {
		maps.DeleteFunc(m.own, func(_ ownKey, until time.Time) bool { return until.Before(now) })
	}
}

const tcpSYN, tcpACK = 0x02, 0x10

// packet is what the filter looks at.
type packet struct {
	src, dst netip.AddrPort // ports are 0 for what is neither TCP nor UDP
	proto    byte
	flags    byte
	tooBig   bool // what path MTU discovery needs
}

// parsePacket reads a packet's headers; it follows no extension headers, as the rules do not.
func parsePacket(b []byte) (p packet, ok bool) {
	var src, dst netip.Addr
	var rest []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		p.proto, rest = b[9], b[int(b[0]&15)*4:]
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			rest = nil // a later fragment has no ports
		}
	case len(b) >= 40 && b[0]>>4 == 6:
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		p.proto, rest = b[6], b[40:]
	default:
		return p, false
	}
	var sport, dport uint16
	switch {
	case p.proto == protoTCP && len(rest) >= 14:
		sport, dport, p.flags = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:]), rest[13]
	case p.proto == protoUDP && len(rest) >= 4:
		sport, dport = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	case p.proto == protoICMP && len(rest) >= 2:
		p.tooBig = rest[0] == 3 && rest[1] == 4
	case p.proto == protoICMPv6 && len(rest) >= 2:
		p.tooBig = rest[0] == 2
	}
	p.src, p.dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return p, true
}
