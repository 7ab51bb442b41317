package demo

import (
	"context"
	"fmt"
	"net/netip"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/scan"
)

// attack is the options' flood, on P1's web port.
func (o *Options) attack() fleet.Attack {
	at, _ := lab.P1.Port(lab.WebPort)
	return fleet.Attack{Kind: o.Kind, Rate: o.Rate, Time: o.Flood, Target: at, Attacker: o.Attacker}
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
	when            string
	probes, replies int
	alike           bool
}

// scanAll looks for the hidden proxies from the attacker's namespace.
func scanAll(ctx context.Context, f *fleet.Fleet, b *board, when string) (scanned, error) {
	all := scanned{when: when, alike: true}
	for _, h := range hidden {
		var r scan.Result
		err := f.World.Attacker.Block(func() (err error) {
			r, err = scan.Run(ctx, scan.Config{Target: h.target, Unused: h.unused, Link: lab.LinkPort, Rate: 1000})
			return err
		})
		if err != nil {
			return all, fmt.Errorf("scan %s: %w", h.name, err)
		}
		all.probes += r.Probes
		all.replies += r.Replies()
		if !r.Alike() {
			all.alike = false
			b.say("scan: %s can be told from an unused address: %+v", h.name, r)
		}
	}
	b.say("scan of P2 and P3 (%s): %d probes, %d replies", when, all.probes, all.replies)
	return all, nil
}

// unprotected fetches from a site that nobody protects and returns how many packets went through
// the TUN meanwhile. Nothing else may use the client.
func unprotected(ctx context.Context, f *fleet.Fleet, fetch *fetcher) (packets, fetches int, err error) {
	v4, v6 := lab.Site.Port(lab.WebPort)
	before, err := f.QuietTUN(ctx, f.World.Client)
	if err != nil {
		return 0, 0, err
	}
	for range 5 {
		for _, at := range []netip.AddrPort{v4, v6} {
			if s := fetch.fetch(ctx, f.World.Client, at); !s.OK() {
				return 0, fetches, fmt.Errorf("fetch from the unprotected site %s: %s", at, s.Err)
			}
			fetches++
		}
	}
	after, err := f.QuietTUN(ctx, f.World.Client)
	return int(after - before), fetches, err
}
