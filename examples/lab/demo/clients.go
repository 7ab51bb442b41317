package demo

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
)

// pause between two fetches of a client, so that four of them leave the machine some air.
func (o *Options) pause() time.Duration {
	if o.light {
		return time.Second
	}
	return 100 * time.Millisecond
}

// client fetches the file over and over on its machine.
type client struct {
	view    *clientView
	machine string
	probe   string // of its agent; empty: it has none
	from    []netip.AddrPort
}

// newClients puts the four clients on the board.
func (r *run) newClients() {
	v4, v6 := lab.P1.Port(lab.WebPort)
	mostly4 := []netip.AddrPort{v4, v4, v4, v6} // agents use both families
	if r.opts.v4 {
		mostly4 = mostly4[:3]
	}
	r.clients = map[string]*client{}
	var views []*clientView
	for _, c := range []client{
		{&clientView{Name: "agent", System: "ms"}, "client", "warm", mostly4},
		{&clientView{Name: "agent (each)", System: "ms-each"}, "each", "each", mostly4},
		{&clientView{Name: "agent (fresh)", System: "ms-fresh"}, "fresh", "warm", mostly4},
		{&clientView{Name: "plain", System: "plain", ServedBy: "p1"}, "plain", "", []netip.AddrPort{v4}},
	} {
		views = append(views, c.view)
		r.clients[c.view.System] = &c
	}
	r.board.mu.Lock()
	defer r.board.mu.Unlock()
	r.board.clients = views
}

func (r *run) probe(machine string) string {
	for _, c := range r.clients {
		if c.machine == machine {
			return c.probe
		}
	}
	return ""
}

// loop has a client fetch until ctx is done. A fetch that the end cuts off does not count.
func (r *run) loop(ctx context.Context, system string) {
	c := r.clients[system]
	r.loops.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			when := r.board.current()
			s := r.world.fetch(ctx, c.machine, c.from[i%len(c.from)])
			if ctx.Err() != nil {
				return
			}
			s.When = when
			if c.probe != "" && !s.OK() {
				r.board.say("%s: a fetch failed: %s", c.view.Name, s.Err)
			}
			r.board.add(c.view, s)
			_ = sleep(ctx, r.opts.pause()) // the loop sees the end
		}
	})
}

// families are the addresses that the world has.
func (r *run) families(v4, v6 netip.AddrPort) []netip.AddrPort {
	if r.opts.v4 {
		return []netip.AddrPort{v4}
	}
	return []netip.AddrPort{v4, v6}
}

// watch reads every status ten times a second and shows it on the board.
func (r *run) watch(ctx context.Context) {
	for sleep(ctx, 100*time.Millisecond) == nil {
		var all sync.WaitGroup
		for _, n := range nodes() {
			all.Go(func() {
				if st, err := r.world.ProxyStatus(ctx, n.Name); err == nil {
					r.board.saw(n.Name, st)
				} else {
					r.board.lost(n.Name)
				}
			})
		}
		for _, c := range r.clients {
			if c.probe == "" {
				continue
			}
			all.Go(func() {
				if st, err := r.world.AgentStatus(ctx, c.machine); err == nil {
					r.board.sawAgent(c.view, st, fleet.NameOf)
				}
			})
		}
		all.Wait()
	}
}

// hidden are scanned, both families of each.
var hidden = []struct {
	name           string
	target, unused netip.Addr
}{
	{"p2", lab.P2.V4, lab.Unused.V4}, {"p2 (IPv6)", lab.P2.V6, lab.Unused.V6},
	{"p3", lab.P3.V4, lab.Unused.V4}, {"p3 (IPv6)", lab.P3.V6, lab.Unused.V6},
}

// scanned is what a scan of all hidden proxies brought.
type scanned struct {
	when                       string
	probes, replies, different int
}

// scan looks for the hidden proxies from the attacker's machine.
func (r *run) scan(ctx context.Context, when string) error {
	all := scanned{when: when}
	for _, h := range hidden {
		if r.opts.v4 && !h.target.Is4() {
			continue
		}
		res, err := r.world.scan(ctx, h.target, h.unused)
		if err != nil {
			return fmt.Errorf("scan %s: %w", h.name, err)
		}
		all.probes += res.Probes
		all.replies += res.Replies()
		if !res.Alike() {
			all.different++
			r.board.say("scan: %s can be told from an unused address: %+v", h.name, res)
		}
	}
	r.scans = append(r.scans, all)
	r.board.say("scan of P2 and P3 (%s): %d probes, %d replies", when, all.probes, all.replies)
	return nil
}
