package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/scan"
)

// attack floods P1's web port from the attacker's namespace for the options' time, by a program of
// its own so that it shares nothing with what is measured.
func (f *fleet) attack(ctx context.Context) (told string, err error) {
	o := f.opts
	p := f.dirs.of("attacker")
	at, _ := lab.P1.Port(lab.WebPort)
	if o.Attacker == "hping3" {
		return f.hping3(ctx, p, at)
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Flood+10*time.Second)
	defer cancel()
	out, err := f.world.Attacker.Output(ctx, self, "flood", "--kind", string(o.Kind), "--rate", strconv.Itoa(o.Rate),
		"--time", o.Flood.String(), "--sources", lab.FloodSources4.String(), "--json", at.String())
	_ = os.WriteFile(p.log, []byte(out), 0o644)
	if err != nil {
		return "", fmt.Errorf("the flood: %w: %s", err, out)
	}
	var r flood.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return "", fmt.Errorf("the flood's result: %w: %s", err, out)
	}
	return fmt.Sprintf("%d packets, %.0f/s", r.Sent, r.Rate()), nil
}

// hping3 is the paper's own launcher: -S, random sources, one SYN each 1,000,000/rate µs.
func (f *fleet) hping3(ctx context.Context, p paths, at netip.AddrPort) (string, error) {
	program, err := exec.LookPath("hping3")
	if err != nil {
		return "", fmt.Errorf("%w: install it (apt install hping3), or use --attacker own", err)
	}
	kind := map[flood.Kind]string{flood.SYN: "-S", flood.ICMP: "-1", flood.UDP: "-2"}[f.opts.Kind]
	every := max(1, 1_000_000/f.opts.Rate)
	c, err := start(f.world.Attacker, "hping3", p, program, kind, "-q", "-p", strconv.Itoa(int(at.Port())),
		"-i", "u"+strconv.Itoa(every), "--rand-source", at.Addr().String())
	if err != nil {
		return "", err
	}
	select {
	case <-c.done:
		return "", c.ended()
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), c.stop(time.Second))
	case <-time.After(f.opts.Flood):
	}
	_ = c.cmd.Process.Signal(syscall.SIGINT) // makes it print its count
	return fmt.Sprintf("hping3, one packet each %d µs", every), c.stop(2 * time.Second)
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

// scan looks for the hidden proxies from the attacker's namespace.
func (f *fleet) scan(ctx context.Context, b *board, when string) (scanned, error) {
	all := scanned{when: when, alike: true}
	for _, h := range hidden {
		var r scan.Result
		err := f.world.Attacker.Block(func() (err error) {
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
func (f *fleet) unprotected(ctx context.Context, fetch *fetcher) (packets, fetches int, err error) {
	v4, v6 := lab.Site.Port(lab.WebPort)
	before, err := f.quietTUN(ctx)
	if err != nil {
		return 0, 0, err
	}
	for range 5 {
		for _, at := range []netip.AddrPort{v4, v6} {
			if s := fetch.fetch(ctx, f.world.Client, at); !s.ok() {
				return 0, fetches, fmt.Errorf("fetch from the unprotected site %s: %s", at, s.Err)
			}
			fetches++
		}
	}
	after, err := f.quietTUN(ctx)
	return int(after - before), fetches, err
}

// quietTUN waits until the TUN has carried nothing for half a second (the kernel announces a new
// interface to IPv6 routers and groups) and returns its count.
func (f *fleet) quietTUN(ctx context.Context) (count uint64, err error) {
	var since time.Time
	err = wait(ctx, 15*time.Second, "the TUN falls silent", f.children, func() (bool, error) {
		t, err := f.world.Client.Traffic("ms0")
		if err != nil {
			return false, err
		}
		if n := t.RxPackets + t.TxPackets; n != count || since.IsZero() {
			count, since = n, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond, nil
	})
	return count, err
}
