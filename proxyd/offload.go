package proxyd

import (
	"net"
	"net/netip"
	"slices"

	"migrationsensor/detect"
	"migrationsensor/proxyd/firewall"
	"migrationsensor/proxyd/synchecker"
)

// told is what a packet program was told, for the next one.
type told struct {
	rules *synchecker.Rules
	gate  *synchecker.Gate
	admit []synchecker.Admission // the newest: who asks for them may not know of them yet
	past  synchecker.Packets     // that programs before handled
	stats synchecker.Stats       // of programs before
}

// offloadLocked is the port that is armed, if a packet program is in front of it.
func (p *movingPort) offloadLocked() (synchecker.Offload, bool) {
	o, ok := p.armed.(synchecker.Offload)
	return o, ok && !p.failed
}

// Offloads implements synchecker.Offload.
func (p *movingPort) Offloads() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.offloadLocked()
	return ok && !p.closed
}

// Taken is the path of the port that is armed.
func (p *movingPort) Taken() synchecker.Taken {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}

// Program implements synchecker.Offload; without a packet program the rules are kept for one.
func (p *movingPort) Program(r synchecker.Rules) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.told.rules = &r
	if o, ok := p.offloadLocked(); ok {
		return p.blame(o.Program(r))
	}
	return nil
}

// Gate implements synchecker.Offload.
func (p *movingPort) Gate(g synchecker.Gate) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.told.gate = &g
	if o, ok := p.offloadLocked(); ok {
		return p.blame(o.Gate(g))
	}
	return nil
}

// Admit implements synchecker.Offload. Who is admitted is asked for again when the port moves.
func (p *movingPort) Admit(admit []synchecker.Admission, evict []netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.told.admit = append(p.told.admit, admit...)
	p.told.admit = p.told.admit[max(0, len(p.told.admit)-newest):]
	if o, ok := p.offloadLocked(); ok {
		return p.blame(o.Admit(admit, evict))
	}
	return nil
}

// newest is how many admissions are kept for the next program: more than are under way to the firewall at once.
const newest = 256

// Strangers implements synchecker.Offload: of the program that there is now.
func (p *movingPort) Strangers() (map[netip.Prefix]uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o, ok := p.offloadLocked(); ok && !p.closed {
		all, err := o.Strangers()
		return all, p.blame(err)
	}
	return nil, nil
}

// Counts implements synchecker.Offload.
func (p *movingPort) Counts() (synchecker.Packets, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, _, err := p.sumLocked()
	return n, err
}

// Stats implements synchecker.Offload.
func (p *movingPort) Stats() (synchecker.Stats, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, s, err := p.sumLocked()
	return s, err
}

func (p *movingPort) sumLocked() (n synchecker.Packets, s synchecker.Stats, err error) {
	n, s = p.told.past, p.told.stats
	o, ok := p.armed.(synchecker.Offload) // one that failed knows what it did before
	if !ok {
		return n, s, nil
	}
	now, err := o.Counts()
	if err != nil {
		return n, s, p.blame(err)
	}
	stats, err := o.Stats()
	return n.Add(now), s.Add(stats), p.blame(err)
}

// blame takes no offence at a port that is being replaced.
func (p *movingPort) blame(err error) error {
	if p.failed {
		return nil
	}
	return err
}

// tellLocked prepares a port that has just been opened.
func (p *movingPort) tellLocked(port synchecker.Port) error {
	o, ok := port.(synchecker.Offload)
	if !ok {
		return nil
	}
	if p.told.rules != nil {
		if err := o.Program(*p.told.rules); err != nil {
			return err
		}
	}
	if p.told.gate != nil {
		if err := o.Gate(*p.told.gate); err != nil {
			return err
		}
	}
	if p.doors == nil {
		return nil
	}
	return o.Admit(slices.Concat(p.doors(), p.told.admit), nil)
}

// gateOf is what the packet program must let in: what the firewall does.
func gateOf(cfg firewall.Config) synchecker.Gate {
	g := synchecker.Gate{Allow: cfg.Allow, Services: map[netip.AddrPort]synchecker.Plain{}}
	for _, a := range cfg.Services {
		switch cfg.Plain(a) {
		case firewall.PlainDrop:
			g.Services[a] = synchecker.PlainDrop
		case firewall.PlainCookie:
			g.Services[a] = synchecker.PlainCookie
		case firewall.PlainAdmit:
			g.Services[a] = synchecker.PlainAdmit
		}
	}
	return g
}

// count is what arrived at the interface: what the kernel saw, and what the packet program dealt with before it.
func (e *edge) count() (detect.Counts, error) {
	c, err := e.counter.Read()
	n, eaten := e.port.Counts()
	if eaten != nil {
		return c, eaten
	}
	c[detect.All] += n.All
	c[detect.SYN] += n.SYN
	c[detect.ICMP] += n.ICMP
	c[detect.UDP] += n.UDP
	return c, err
}
