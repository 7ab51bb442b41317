package firewall

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Config says what to guard.
type Config struct {
	Interfaces []string         // public ones
	Addrs      []netip.Addr     // our public addresses
	LinkPort   uint16           // TCP and UDP
	Services   []netip.AddrPort // public addresses of services; 0.0.0.0 and :: stand for Addrs

	// Plain says how a service takes new plain clients while the edge defends. Nil: none does.
	Plain func(netip.AddrPort) Plain

	Hidden bool           // dark, see the package's documentation
	Inside []string       // interfaces through which packets for Addrs may come all the same: the backplane. A hidden edge's
	Allow  []netip.Prefix // peers and management: never dropped
	Log    *slog.Logger

	// Evicted is told whose door was closed for somebody else's, as there were too many. It must not call the Firewall. May
	// be nil.
	Evicted func([]netip.Addr)
}

// Plain is how new clients without an agent are taken while an edge defends (PROTOCOL, "Which door is open").
type Plain int

// The ways of Plain.
const (
	PlainDrop   Plain = iota // not at all
	PlainCookie              // by the kernel's SYN cookies: so many SYNs a second as it answers without being overwhelmed
	PlainAdmit               // as in peace, and the flood with them
)

// Ours: what an entry that defends takes a second of each family, of packets that are for no admitted client. It is more than an
// edge's other uses need, and costs the kernel a fifth of a core at most.
const (
	cookieRate  = 50_000 // SYNs to services with plain = cookie: 3.3 µs each
	restSYNRate = 1_000  // SYNs to ports that are not guarded
	restUDPRate = 1_000  // datagrams that answer nothing the machine sent
	restICMP    = 100
	restRate    = 50_000 // the rest of TCP, fragments, tunnels
)

// Flow is a live TCP connection: Src is the client, Dst our end.
type Flow struct{ Src, Dst netip.AddrPort }

// Stats are packets since Open, by the rule that decided.
type Stats struct {
	Dropped      uint64 // strangers
	Knocks       uint64 // UDP to the link port, taken from the kernel
	Allowed      uint64 // peers and management
	Flows        uint64 // live connections
	Admitted     uint64 // of admitted addresses
	Plain        uint64 // to services with plain = admit, and of connections to those with plain = cookie, while defending
	Cookies      uint64 // SYNs to services with plain = cookie that went to the kernel, while defending
	Floods       uint64 // to other ports, or no TCP, beyond what an attacked edge takes
	Own          uint64 // replies to what a hidden edge itself sent
	Evicted      uint64 // doors closed for others, as there were too many
	Transactions uint64 // with the kernel
}

// ErrInterface says that a public interface does not exist now; Reapply when it is back.
var ErrInterface = errors.New("no such interface")

// kernel is the packet filter: nftables, or a fake.
type kernel interface {
	// replace writes the whole table in one transaction, then all elements. It reports
	// whether there is a new table, which may be so even if there is an error as well.
	replace(p *plan) (written bool, err error)
	gate(p *plan) error // switch between active and defending
	setFlows(old, now []Flow) error
	admit(admit []admission, evict []netip.Addr) error
	counters() (Stats, error)
	intact(p *plan) (bool, error) // whether the rules are what was written last
	remove() error                // no table is no error
	close() error
}

// plan is all that the kernel should know.
type plan struct {
	cfg       Config
	defending bool
	flows     []Flow
	admitted  []admission
}

// Firewall guards the public ports of an edge. It is safe for concurrent use.
type Firewall struct {
	log  *slog.Logger
	dial func() (kernel, error)

	batch *batcher

	mu       sync.Mutex // also one transaction at a time
	k        kernel     // nil: not open
	plan     plan       // but for admitted, which is in table
	table    *table
	evicted  uint64
	past     Stats // of tables that were replaced
	closed   bool
	undoOnce sync.Once
	undoErr  error
}

// New checks the config; Open acts.
func New(cfg Config) (*Firewall, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	f := &Firewall{log: cfg.Log, plan: plan{cfg: cfg}, table: newTable(maxAdmitted)}
	f.dial = func() (kernel, error) { return openKernel(f.log) }
	f.batch = newBatcher(f.apply)
	return f, nil
}

// check returns the config in normal form.
func (c Config) check() (Config, error) {
	if len(c.Interfaces) == 0 {
		return c, errors.New("firewall: no public interface")
	}
	if len(c.Addrs) == 0 {
		return c, errors.New("firewall: no public address")
	}
	if c.LinkPort == 0 {
		return c, errors.New("firewall: no link port")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Plain == nil {
		c.Plain = func(netip.AddrPort) Plain { return PlainDrop }
	}
	c.Interfaces = slices.Compact(slices.Sorted(slices.Values(c.Interfaces)))
	addrs := make([]netip.Addr, 0, len(c.Addrs))
	for _, a := range c.Addrs {
		if !a.IsValid() || a.IsUnspecified() {
			return c, fmt.Errorf("firewall: %v is no public address", a)
		}
		addrs = append(addrs, a.Unmap().WithZone(""))
	}
	c.Addrs = uniq(addrs)
	for _, s := range c.Services {
		if !s.IsValid() || s.Port() == 0 || s.Port() == c.LinkPort {
			return c, fmt.Errorf("firewall: service at %v: its port must be set and not the link port %d", s, c.LinkPort)
		}
	}
	allow := make([]netip.Prefix, 0, len(c.Allow))
	for _, p := range c.Allow {
		if !p.IsValid() {
			return c, fmt.Errorf("firewall: allow: invalid prefix %v", p)
		}
		if a := p.Addr(); a.Is4In6() {
			if p.Bits() < 96 {
				return c, fmt.Errorf("firewall: allow: %v mixes IPv4 and IPv6", p)
			}
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		allow = append(allow, p.Masked())
	}
	c.Allow = allow
	return c, nil
}

func uniq(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// Open puts the table in place, replacing one that a killed process left; a hidden edge is dark
// when it returns. undo is Close.
func (f *Firewall) Open() (undo func() error, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.k != nil {
		return nil, fmt.Errorf("open firewall: %w", net.ErrClosed)
	}
	k, err := f.dial()
	if err != nil {
		return nil, fmt.Errorf("open firewall: %w", err)
	}
	if written, err := k.replace(&f.plan); err != nil {
		err = fmt.Errorf("open firewall: %w", err)
		if written {
			err = errors.Join(err, k.remove())
		}
		return nil, errors.Join(err, k.close())
	}
	f.k = k
	f.batch.start()
	return f.Close, nil
}

// Close removes the table. It is idempotent.
func (f *Firewall) Close() error {
	f.undoOnce.Do(func() {
		f.mu.Lock()
		f.closed = true
		f.mu.Unlock()
		f.batch.stop() // its last transaction needs mu
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.k == nil {
			return
		}
		if err := errors.Join(f.k.remove(), f.k.close()); err != nil {
			f.undoErr = fmt.Errorf("close firewall: %w", err)
		}
	})
	return f.undoErr
}

// openLocked says whether the kernel can be spoken to.
func (f *Firewall) openLocked() error {
	if f.closed || f.k == nil {
		return net.ErrClosed
	}
	return nil
}

// Defend lets only allowed, live, admitted and plain traffic to the guarded ports, and little of anything else. The
// flows are let in before anything is dropped.
func (f *Firewall) Defend(flows []Flow) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.setFlowsLocked(flows); err != nil {
		return fmt.Errorf("firewall: defend: %w", err)
	}
	if f.plan.defending {
		return nil
	}
	return f.gateLocked("defend", true)
}

// Relax lets everything in again (at a hidden edge: what else is admitted) and forgets the flows.
func (f *Firewall) Relax() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.gateLocked("relax", false); err != nil {
		return err
	}
	if err := f.setFlowsLocked(nil); err != nil {
		return fmt.Errorf("firewall: relax: %w", err)
	}
	return nil
}

func (f *Firewall) gateLocked(what string, defending bool) error {
	if err := f.openLocked(); err != nil {
		return fmt.Errorf("firewall: %s: %w", what, err)
	}
	p := f.plan
	p.defending = defending
	if err := f.k.gate(&p); err != nil {
		return fmt.Errorf("firewall: %s: %w", what, err)
	}
	f.plan.defending = defending
	return nil
}

// SetFlows replaces the flows that Defend was given.
func (f *Firewall) SetFlows(flows []Flow) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.setFlowsLocked(flows); err != nil {
		return fmt.Errorf("firewall: set flows: %w", err)
	}
	return nil
}

func (f *Firewall) setFlowsLocked(flows []Flow) error {
	if err := f.openLocked(); err != nil {
		return err
	}
	flows = normal(flows)
	if err := f.k.setFlows(f.plan.flows, flows); err != nil {
		// Some may be in the kernel, some not: remember all, so that the next call takes out
		// what it should.
		f.plan.flows = normal(slices.Concat(f.plan.flows, flows))
		return err
	}
	f.plan.flows = flows
	return nil
}

// normal drops duplicates and what is no flow.
func normal(flows []Flow) []Flow {
	seen := make(map[Flow]bool, len(flows))
	out := make([]Flow, 0, len(flows))
	for _, fl := range flows {
		fl.Src, fl.Dst = unmap(fl.Src), unmap(fl.Dst)
		if !fl.Src.IsValid() || !fl.Dst.IsValid() || fl.Src.Addr().Is4() != fl.Dst.Addr().Is4() || seen[fl] {
			continue
		}
		seen[fl] = true
		out = append(out, fl)
	}
	return out
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// Update changes what is guarded (services, peers) in one transaction; the admitted stay.
func (f *Firewall) Update(cfg Config) error {
	cfg, err := cfg.check()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.plan
	p.cfg = cfg
	return f.replaceLocked(p)
}

// guards says whether an interface is one of ours.
func (f *Firewall) guards(ifname string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.plan.cfg.Interfaces, ifname)
}

// Reapply puts everything in place again, for when an interface went and came back. Watch does it
// by itself.
func (f *Firewall) Reapply() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.replaceLocked(f.plan)
}

// repair puts everything in place again if somebody took part of it away.
func (f *Firewall) repair() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.openLocked() != nil {
		return nil // it ends
	}
	ok, err := f.k.intact(&f.plan)
	if err != nil {
		return fmt.Errorf("firewall: look at the rules: %w", err)
	}
	if ok {
		return nil
	}
	if err := f.replaceLocked(f.plan); err != nil {
		return err
	}
	f.log.Warn("another program took away part of the firewall's table: it is in place again; whoever flushes a ruleset should leave the tables named migrationsensor alone")
	return nil
}

func (f *Firewall) replaceLocked(p plan) error {
	if err := f.openLocked(); err != nil {
		return fmt.Errorf("firewall: replace rules: %w", err)
	}
	now, err := f.k.counters()
	if err != nil {
		f.log.Warn("firewall counters lost", "err", err)
	}
	f.plan.cfg = p.cfg // even if it fails: the next Reapply wants it
	p.admitted = f.table.all(time.Now())
	written, err := f.k.replace(&p)
	if written {
		f.past = f.past.add(now)
	}
	if err != nil {
		return fmt.Errorf("firewall: replace rules: %w", err)
	}
	return nil
}

// Stats reads the counters of the rules.
func (f *Firewall) Stats() (Stats, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.openLocked(); err != nil {
		return f.past, fmt.Errorf("firewall: counters: %w", err)
	}
	now, err := f.k.counters()
	if err != nil {
		return f.past, fmt.Errorf("firewall: counters: %w", err)
	}
	s := f.past.add(now)
	s.Evicted, s.Transactions = f.evicted, f.batch.done.Load()
	return s, nil
}

func (s Stats) add(o Stats) Stats {
	s.Dropped += o.Dropped
	s.Knocks += o.Knocks
	s.Allowed += o.Allowed
	s.Flows += o.Flows
	s.Admitted += o.Admitted
	s.Plain += o.Plain
	s.Cookies += o.Cookies
	s.Floods += o.Floods
	s.Own += o.Own
	return s
}
