package memory

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"migrationsensor/detect"
	"migrationsensor/netstack/memnet"
	"migrationsensor/proxyd"
	"migrationsensor/proxyd/firewall"
	"migrationsensor/proxyd/synchecker"
)

// ingress is what stands between an interface and its host's stack. It belongs to the machine: a process that is killed
// leaves its firewall.
type ingress struct {
	counts [detect.Kinds]atomic.Uint64
	port   atomic.Pointer[port]
	filter atomic.Pointer[firewall.Memory]
}

func watch(i *memnet.Interface) *ingress {
	g := &ingress{}
	i.SetTap(memnet.Tap{In: g.in, Out: g.out})
	return g
}

// in has Linux's order: packet sockets see what the firewall drops.
func (g *ingress) in(head []byte) bool {
	g.count(head)
	if p := g.port.Load(); p != nil {
		p.see(head)
	}
	f := g.filter.Load()
	return f == nil || f.In(head)
}

func (g *ingress) out(head []byte) bool {
	if f := g.filter.Load(); f != nil {
		f.Out(head)
	}
	return true
}

func (g *ingress) count(head []byte) {
	g.counts[detect.All].Add(1)
	proto, segment := transport(head)
	switch {
	case proto == protoICMP || proto == protoICMPv6:
		g.counts[detect.ICMP].Add(1)
	case proto == protoUDP:
		g.counts[detect.UDP].Add(1)
	case proto == protoTCP && len(segment) > 13 && segment[13]&(flagSYN|flagACK) == flagSYN:
		g.counts[detect.SYN].Add(1)
	}
}

const (
	protoICMP, protoTCP, protoUDP, protoICMPv6 = 1, 6, 17, 58
	flagFIN, flagSYN, flagRST, flagACK         = 0x01, 0x02, 0x04, 0x10
)

// transport finds what follows the IP header. Nothing in the lab sends extension headers or fragments.
func transport(b []byte) (proto byte, segment []byte) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		return b[9], b[int(b[0]&15)*4:]
	case len(b) >= 40 && b[0]>>4 == 6:
		return b[6], b[40:]
	}
	return 0, nil
}

// counter is a detect.Counter.
type counter struct {
	g      *ingress
	before detect.Counts // when it was opened
	closed atomic.Bool
}

func (g *ingress) read() (c detect.Counts) {
	for k := range c {
		c[k] = g.counts[k].Load()
	}
	return c
}

func (c *counter) Read() (detect.Counts, error) {
	now := c.g.read()
	for k := range now {
		now[k] -= c.before[k]
	}
	if c.closed.Load() {
		return now, net.ErrClosed
	}
	return now, nil
}

func (c *counter) Close() error { c.closed.Store(true); return nil }

// machine is the proxyd.Host of one process on a host in memory.
type machine struct {
	proc  *memnet.Process
	gates map[string]*ingress // by interface

	mu   sync.Mutex
	kept []*firewall.Memory
	dead bool
}

var _ proxyd.Host = (*machine)(nil)

// kill leaves the process without sockets and packet ports; its firewall stays in place.
func (m *machine) kill() {
	m.mu.Lock()
	m.dead = true
	for _, f := range m.kept {
		f.Keep()
	}
	m.mu.Unlock()
	m.proc.Kill()
	for _, g := range m.gates {
		if p := g.port.Load(); p != nil {
			_ = p.Close() // never fails
		}
	}
}

func (m *machine) Lock() (func() error, error) { return func() error { return nil }, nil }
func (m *machine) Now() time.Time              { return time.Now() }

func (m *machine) Listen(_ context.Context, at netip.AddrPort) (net.Listener, error) {
	return m.proc.Listen(at)
}

func (m *machine) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w (the lab has addresses only)", addr, err)
	}
	c, err := m.proc.Dial(ctx, "", to)
	if err != nil {
		return nil, err // not a nil Conn in an interface
	}
	return c, nil
}

// Links implements proxyd.Host: a machine's interfaces stay.
func (m *machine) Links(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

func (m *machine) Interface(a netip.Addr) (string, error) {
	if i := m.proc.Host().InterfaceOf(a); i != nil {
		return i.Name(), nil
	}
	return "", fmt.Errorf("no interface of %s has the address %s", m.proc.Host().Name, a)
}

func (m *machine) gate(ifname string) (*ingress, error) {
	g, ok := m.gates[ifname]
	if !ok {
		return nil, fmt.Errorf("%s has no interface %s: %w", m.proc.Host().Name, ifname, detect.ErrGone)
	}
	return g, nil
}

func (m *machine) Counter(ifname string) (detect.Counter, error) {
	g, err := m.gate(ifname)
	if err != nil {
		return nil, err
	}
	return &counter{g: g, before: g.read()}, nil
}

// SYNCookies is true: nothing in memory runs out of room for half-open connections.
func (m *machine) SYNCookies() bool { return true }

func (m *machine) Port(ifname string, f synchecker.Filter, _ synchecker.Path) (synchecker.Port, synchecker.Taken, error) {
	g, err := m.gate(ifname)
	if err != nil {
		return nil, synchecker.Taken{}, err
	}
	p := newPort(m.proc, m.proc.Host().Interface(ifname), f)
	g.port.Store(p)
	return p, synchecker.Taken{Path: "memory"}, nil
}

// Firewall replaces one that a killed process left, when it is opened.
func (m *machine) Firewall(cfg firewall.Config) (proxyd.Firewall, error) {
	if len(cfg.Interfaces) != 1 {
		return nil, errors.New("the lab in memory has one public interface a host")
	}
	g, err := m.gate(cfg.Interfaces[0])
	if err != nil {
		return nil, err
	}
	f, filter, err := firewall.NewMemory(cfg)
	if err != nil {
		return nil, err
	}
	return &guard{Firewall: f, m: m, g: g, filter: filter}, nil
}

// guard is a firewall in memory.
type guard struct {
	*firewall.Firewall
	m      *machine
	g      *ingress
	filter *firewall.Memory
}

func (f *guard) Open() (func() error, error) {
	undo, err := f.Firewall.Open()
	if err != nil {
		return nil, err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.kept = append(f.m.kept, f.filter)
	f.g.filter.Store(f.filter)
	return undo, nil
}

// Admit waits while the process is stopped.
func (f *guard) Admit(a netip.Addr, ttl time.Duration) error {
	f.m.proc.Yield()
	return f.Firewall.Admit(a, ttl)
}

// Watch has nothing to watch: no interface in memory comes or goes.
func (f *guard) Watch(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
