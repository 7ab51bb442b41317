package proxyd

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proxyd/informer"
	"migrationsensor/proxyd/synchecker"
)

const (
	admitFor  = 30 * time.Second
	doorQueue = 4096
	retryIn   = 2 * time.Second
	// refreshEvery and refreshFor keep the door open for addresses with a live link, and 30 s longer.
	refreshEvery = 5 * time.Second
	refreshFor   = refreshEvery + admitFor
	maxKnown     = 1 << 16
)

// door decides who gets in (PROTOCOL, Which door is open) and tells the firewall. The packet path asks
// it without waiting for the kernel: a queue stands between.
type door struct {
	e      *edge
	nonces *proto.NonceSet
	allow  []netip.Prefix
	queue  chan admission // dropped when full: the client knocks again

	mu        sync.Mutex
	known     map[netip.Addr]time.Time // admitted until
	refreshed time.Time
	admits    uint64
	dropped   uint64
}

type admission struct {
	addr netip.Addr
	ttl  time.Duration
}

func newDoor(e *edge, allow []netip.Prefix) *door {
	return &door{e: e, allow: allow, queue: make(chan admission, doorQueue), known: map[netip.Addr]time.Time{}}
}

// run tells the firewall whom to admit until ctx is done.
func (d *door) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range 8 { // the firewall joins what comes within its batch into one transaction
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case a := <-d.queue:
					if err := d.e.port.Admit([]synchecker.Admission{{Addr: a.addr, Until: time.Now().Add(a.ttl)}}, nil); err != nil {
						d.e.log.Warn("address not admitted by the packet program", "addr", a.addr, "err", err)
					}
					if err := d.e.firewall.Admit(a.addr, a.ttl); err != nil {
						d.e.log.Warn("address not admitted", "addr", a.addr, "err", err)
						continue
					}
					d.note(a)
				}
			}
		})
	}
	<-ctx.Done()
	return nil
}

// all is who is admitted now.
func (d *door) all() []synchecker.Admission {
	now := d.e.host.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]synchecker.Admission, 0, len(d.known))
	for addr, until := range d.known {
		if until.After(now) {
			out = append(out, synchecker.Admission{Addr: addr, Until: until})
		}
	}
	return out
}

func (d *door) note(a admission) {
	now := d.e.host.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) >= maxKnown {
		for addr, until := range d.known {
			if until.Before(now) {
				delete(d.known, addr)
			}
		}
	}
	if until := now.Add(a.ttl); until.After(d.known[a.addr]) && len(d.known) < maxKnown {
		d.known[a.addr] = until
	}
	d.admits++
}

// evicted is told by the firewall whose doors it closed, as too many were open.
func (d *door) evicted(addrs []netip.Addr) {
	if err := d.e.port.Admit(nil, addrs); err != nil {
		d.e.log.Warn("addresses still admitted by the packet program", "count", len(addrs), "err", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range addrs {
		delete(d.known, a)
	}
}

// open queues an admission; it never blocks.
func (d *door) open(addr netip.Addr, ttl time.Duration) {
	select {
	case d.queue <- admission{addr.Unmap(), ttl}:
	default:
		d.mu.Lock()
		d.dropped++
		d.mu.Unlock()
	}
}

// welcome opens the door to a client that will come, or came: the first one wakes a standby.
func (d *door) welcome(addr netip.Addr, ttl time.Duration) {
	d.open(addr, ttl)
	d.e.transition(func(m *machine, now time.Time) []action { m.admitted(now); return nil })
	d.e.poke()
}

// admitted says whose packets the firewall passes: the SYN Checker leaves them to the kernel.
func (d *door) admitted(addr netip.Addr) bool {
	addr = addr.Unmap()
	for _, p := range d.allow {
		if p.Contains(addr) {
			return true
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	until, ok := d.known[addr]
	return ok && d.e.host.Now().Before(until)
}

// knocked is called by the SYN Checker for a valid knock, or keyed SYN at a hidden edge.
func (d *door) knocked(_ proto.Verified, addr netip.Addr) { d.welcome(addr, admitFor) }

// verified is called by the SYN Checker for a client that completed its handshake: what to answer.
func (d *door) verified(c synchecker.Client) (proto.Reply, bool) {
	if c.Kind != proto.KindEnrol { // a token's holder is told no hidden edge
		if r, ok := d.e.informer.Transfer(c.Verified, c.From); ok {
			return r, true
		}
		if d.e.is(Suspended) || d.e.stopping.Load() {
			return proto.Reply{Kind: proto.ReplyRetry, After: retryIn, Client: c.From}, true
		}
	}
	d.open(c.From.Addr(), admitFor)
	return informer.Self(d.e.target(c.Verified), d.e.informer.Round(), c.From), true
}

// refresh keeps the door open for who has a live link.
func (d *door) refresh() {
	now := d.e.host.Now()
	d.mu.Lock()
	due := now.Sub(d.refreshed) >= refreshEvery
	if due {
		d.refreshed = now
	}
	d.mu.Unlock()
	if !due || !d.e.hidden && !d.e.is(Defending) && !d.e.is(Suspended) {
		return
	}
	for _, l := range d.e.acceptor.Links() {
		if l.Kind != proto.KindEnrol {
			d.open(l.Addr.Addr(), refreshFor)
		}
	}
}

// target is this edge itself as a target for the client, under the key it already used.
func (e *edge) target(v proto.Verified) proto.Target {
	t := proto.Target{Port: e.self.LinkPort, Node: e.self.ID, Key: v.Key, Keys: v.Keys}
	for _, a := range e.self.Public {
		if a.Is4() {
			t.Addr4 = a
		} else {
			t.Addr6 = a
		}
	}
	return t
}
