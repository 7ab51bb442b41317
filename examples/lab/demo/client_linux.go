package demo

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
)

// pause between two fetches of a client, so that four of them leave the machine some air.
const pause = 100 * time.Millisecond

// client fetches the file over and over.
type client struct {
	view  *clientView
	ns    *kernel.Namespace
	agent string // the agent's name, empty for the plain client
	from  []netip.AddrPort
}

// newClients puts the four clients on the board.
func newClients(f *fleet.Fleet, b *board) map[string]*client {
	v4, v6 := lab.P1.Port(lab.WebPort)
	mostly4 := []netip.AddrPort{v4, v4, v4, v6} // agents use both families
	all := map[string]*client{}
	for _, c := range []struct {
		name, system, about, agent string
		ns                         *kernel.Namespace
		from                       []netip.AddrPort
	}{
		{"agent", "ms", "warm links", "client", f.World.Client, mostly4},
		{"agent (each)", "ms-each", "a probe for each connection, as in the paper", "each", f.World.Each, mostly4},
		{"agent (fresh)", "ms-fresh", "starts during the flood; P1 has no link of it", "fresh", f.World.Fresh, mostly4},
		{"plain", "plain", "no agent", "", f.World.Plain, []netip.AddrPort{v4}},
	} {
		view := &clientView{Name: c.name, System: c.system, About: c.about}
		if c.agent == "" {
			view.ServedBy = "p1"
		}
		b.clients = append(b.clients, view)
		all[c.system] = &client{view, c.ns, c.agent, c.from}
	}
	return all
}

// run fetches until ctx is done. A fetch that the end cuts off does not count.
func (c *client) run(ctx context.Context, b *board, f *fetcher) {
	for i := 0; ctx.Err() == nil; i++ {
		when := b.current()
		s := f.fetch(ctx, c.ns, c.from[i%len(c.from)])
		if ctx.Err() != nil {
			return
		}
		s.When = when
		if c.agent != "" && !s.OK() {
			b.say("%s: a fetch failed: %s", c.view.Name, s.Err)
		}
		b.add(c.view, s)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// watch reads every status ten times a second and shows it on the board.
func watch(ctx context.Context, f *fleet.Fleet, b *board, clients map[string]*client) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		var all sync.WaitGroup
		for _, n := range f.Nodes() {
			all.Go(func() {
				if st, err := f.ProxyStatus(ctx, n.Name); err == nil {
					b.saw(n.Name, st)
				} else {
					b.lost(n.Name)
				}
			})
		}
		for _, c := range clients {
			if c.agent != "" {
				all.Go(func() {
					if st, err := f.AgentStatus(ctx, c.agent); err == nil {
						b.sawAgent(c.view, st, fleet.NameOf)
					}
				})
			}
		}
		all.Wait()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
