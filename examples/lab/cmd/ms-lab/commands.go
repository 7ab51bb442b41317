package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/demo"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/kernel"
	"migrationsensor/examples/lab/migrate"
	"migrationsensor/examples/lab/scan"
	"migrationsensor/examples/lab/tables"
)

// worldFlags are what every command that makes a world can be told.
type worldFlags struct {
	Bin  string        `placeholder:"DIR" help:"Where proxyd and ms-agent are (default: beside ms-lab)."`
	Out  string        `default:"out" placeholder:"DIR" help:"Where figures and logs go (default ${default})."`
	RTT  time.Duration `name:"rtt" default:"15ms" help:"Round trip of every client's link (default ${default})."`
	Loss float64       `help:"Share of packets lost on every client's link, 0 to 1."`
	Link float64       `name:"link-mbit" help:"Rate of every client's link in Mbit/s; 0 is no limit."`
	Seed uint64        `help:"Chooses which packets are lost; 0 takes another each time."`
}

func (w worldFlags) options() demo.Options {
	if w.Seed == 0 {
		w.Seed = rand.Uint64()
	}
	return demo.Options{
		Bin: w.Bin, Out: w.Out, RTT: w.RTT, Loss: w.Loss, LinkRate: w.Link * 1e6, Seed: w.Seed,
		Kind: flood.SYN, Rate: 5000, Flood: 15 * time.Second, Attacker: "own",
		Quiet: 5 * time.Second, Suspend: 5 * time.Second,
	}
}

type demoCmd struct {
	worldFlags
	World    string        `default:"auto" enum:"auto,kernel,memory" help:"Where it is played: kernel, memory, or auto, which takes the real kernel where this user may (default ${default})."`
	Kind     string        `default:"syn" enum:"syn,icmp,udp" help:"What the flood consists of: syn, icmp or udp (default ${default})."`
	Rate     int           `default:"5000" help:"The flood's packets per second (default ${default})."`
	Attacker string        `default:"own" enum:"own,hping3" help:"Who floods: own, or hping3 as in the paper, if it is installed."`
	Peace    time.Duration `help:"How long peace lasts before the flood (default 10s, quick 5s)."`
	Flood    time.Duration `help:"How long the flood lasts (default 15s, quick 10s)."`
	After    time.Duration `help:"How long peace lasts afterwards (default 8s, quick 4s)."`
	Quiet    time.Duration `default:"5s" help:"P1's quiet time: the flood is over for it (default ${default})."`
	Move     time.Duration `help:"How long the run waits after a proxy's death and after its drain (default 5s, quick 3s)."`
	Suspend  time.Duration `default:"5s" help:"After this long streams still on the attacked proxy are given up (default ${default})."`
}

func (c *demoCmd) Run(ctx context.Context) error {
	why := "--world memory asks for it"
	if c.World != "memory" {
		err := kernel.Enter()
		switch {
		case err == nil:
			return c.play(func(o demo.Options) error {
				fmt.Println("the lab on the real kernel" + map[bool]string{true: ", since this user may: its namespaces are made"}[c.World == "auto"])
				return demo.Run(ctx, o, os.Stdout)
			})
		case c.World == "kernel":
			return err
		}
		why = err.Error()
	}
	if c.Attacker != "own" {
		return errors.New("--attacker hping3 needs the lab on the real kernel: " + why)
	}
	return c.play(func(o demo.Options) error { return demo.RunMemory(ctx, o, why, os.Stdout) })
}

// play completes the options.
func (c *demoCmd) play(run func(demo.Options) error) error {
	o := c.options()
	o.Kind, o.Rate, o.Attacker, o.Quiet, o.Suspend = flood.Kind(c.Kind), c.Rate, c.Attacker, c.Quiet, c.Suspend
	o.Peace, o.Flood, o.After, o.Command = 10*time.Second, 15*time.Second, 8*time.Second, "make demo"
	o.Move = 5 * time.Second
	if os.Getenv("BENCH") == "quick" {
		o.Peace, o.Flood, o.After, o.Command = 5*time.Second, 10*time.Second, 4*time.Second, "BENCH=quick make demo"
		o.Move = 3 * time.Second
	}
	for _, d := range []struct{ set, given *time.Duration }{{&o.Peace, &c.Peace}, {&o.Flood, &c.Flood}, {&o.After, &c.After}, {&o.Move, &c.Move}} {
		if *d.given > 0 {
			*d.set = *d.given
		}
	}
	return run(o)
}

type composeCmd struct {
	Dir   string        `default:"examples/compose" placeholder:"DIR" help:"Where compose.yaml is (default ${default})."`
	Out   string        `default:"out" placeholder:"DIR" help:"Where figures and logs go (default ${default})."`
	Kind  string        `default:"syn" enum:"syn,icmp,udp" help:"What the flood consists of: syn, icmp or udp (default ${default})."`
	Peace time.Duration `help:"How long peace lasts before the flood (default 8s, quick 4s)."`
	Flood time.Duration `help:"How long the flood lasts (default 15s, quick 8s)."`
	After time.Duration `help:"How long peace lasts afterwards (default 5s, quick 3s)."`
}

func (c *composeCmd) Run(ctx context.Context) error {
	o := demo.Options{
		Out: c.Out, Kind: flood.Kind(c.Kind), Rate: 5000, Attacker: "own", Quiet: 5 * time.Second, Suspend: 5 * time.Second,
		Peace: 8 * time.Second, Flood: 15 * time.Second, After: 5 * time.Second, Move: 4 * time.Second, Command: "make compose-demo",
	}
	if os.Getenv("BENCH") == "quick" {
		o.Peace, o.Flood, o.After, o.Move, o.Command = 4*time.Second, 8*time.Second, 3*time.Second, 2*time.Second, "BENCH=quick make compose-demo"
	}
	o.Peace, o.Flood, o.After = cmp.Or(c.Peace, o.Peace), cmp.Or(c.Flood, o.Flood), cmp.Or(c.After, o.After)
	return demo.RunCompose(ctx, o, c.Dir, os.Stdout)
}

type connectCmd struct {
	worldFlags
	N int `short:"n" help:"Fetches of each system (default 200, quick 20)."`
}

func (c *connectCmd) Run(ctx context.Context) error {
	if err := kernel.Enter(); err != nil {
		return err
	}
	n, o := 200, c.options()
	o.Command = "make bench-connect"
	if os.Getenv("BENCH") == "quick" {
		n, o.Command = 20, "BENCH=quick make bench-connect"
	}
	if c.N > 0 {
		n = c.N
	}
	return demo.Connect(ctx, o, n, os.Stdout)
}

type floodCmd struct {
	Target  string        `arg:"" help:"ADDRESS:PORT to flood; an address of the lab."`
	Kind    string        `default:"syn" enum:"syn,icmp,udp" help:"syn, icmp or udp (default ${default})."`
	Rate    int           `default:"1000" help:"Packets per second (default ${default})."`
	Time    time.Duration `default:"10s" help:"How long (default ${default})."`
	Count   int           `help:"Packets at most; 0 is no limit."`
	Size    int           `help:"Payload bytes of ICMP and UDP."`
	Sources string        `placeholder:"PREFIX" help:"Random sources come from it; one address is a fixed source."`
	Ports   int           `help:"So many source ports; 0 is all."`
	Seed    uint64        `help:"Chooses sources and ports; 0 takes others each time."`
	JSON    bool          `help:"Print the result as JSON."`
}

func (c *floodCmd) Run(ctx context.Context) error {
	target, err := netip.ParseAddrPort(c.Target)
	if err != nil {
		return fmt.Errorf("target %q: %w: write ADDRESS:PORT, such as %s:%d", c.Target, err, lab.P1.V4, lab.WebPort)
	}
	sources := lab.FloodSources4
	if target.Addr().Is6() {
		sources = lab.FloodSources6
	}
	if c.Sources != "" {
		if sources, err = parsePrefix(c.Sources); err != nil {
			return err
		}
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	r, err := flood.Run(ctx, flood.Config{
		Kind: flood.Kind(c.Kind), Target: target, Sources: sources, Rate: c.Rate, Time: c.Time, Count: c.Count, Size: c.Size, Ports: c.Ports, Seed: c.Seed,
	})
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	fmt.Printf("sent %d packets in %.1f s, %.0f/s; %d skipped because the machine was late, %d failed\n", r.Sent, r.Seconds, r.Rate(), r.Skipped, r.Failed)
	return nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("sources: %w: write a prefix such as %s", err, lab.FloodSources4)
	}
	return p, nil
}

type scanCmd struct {
	Target string   `arg:"" help:"Address of a hidden proxy."`
	Unused string   `arg:"" help:"Address of the same range that nobody has."`
	Ports  []uint16 `help:"Ports to ask, instead of the common ones."`
	Link   uint16   `default:"7443" help:"The link port (default ${default})."`
	Rate   int      `default:"500" help:"Probes per second (default ${default})."`
	JSON   bool     `help:"Print the result as JSON."`
}

func (c *scanCmd) Run(ctx context.Context) error {
	target, err := netip.ParseAddr(c.Target)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	unused, err := netip.ParseAddr(c.Unused)
	if err != nil {
		return fmt.Errorf("unused address: %w", err)
	}
	r, err := scan.Run(ctx, scan.Config{Target: target, Unused: unused, Ports: c.Ports, Link: c.Link, Rate: c.Rate})
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	fmt.Printf("%d probes to each: %d replies from %s, %d from %s\n", r.Probes, r.Target.Replies, target, r.Unused.Replies, unused)
	if !r.Alike() {
		return errors.New("the two addresses can be told apart")
	}
	return nil
}

type fetchCmd struct {
	URL     string `arg:""`
	Endless bool   `help:"A download that takes as long as the server likes."`
}

func (c *fetchCmd) Run(ctx context.Context) error {
	if c.Endless {
		return endless(ctx, c.URL)
	}
	times, err := demo.Fetch(ctx, c.URL, func(b []byte) error {
		_, err := os.Stdout.Write(b)
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	fmt.Fprint(os.Stderr, times)
	if err != nil {
		os.Exit(7) // curl's number for a connection that failed
	}
	return nil
}

// endless copies a reply to standard output as it comes; one that is cut off is an error.
func endless(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(os.Stdout, res.Body)
	return err
}

type paperCmd struct {
	worldFlags
	N int `short:"n" help:"Rounds of each table; the paper's number is 1000 (default: what ends within ten minutes)."`
}

func (c *paperCmd) Run(ctx context.Context) error {
	if err := kernel.Enter(); err != nil {
		return err
	}
	o := c.options()
	t := tables.Options{
		Bin: o.Bin, Out: o.Out, RTT: o.RTT, Loss: o.Loss, LinkRate: o.LinkRate, Seed: o.Seed, N: c.N, Command: "make bench-paper",
	}
	if c.N > 0 {
		t.Command = fmt.Sprintf("N=%d make bench-paper", c.N)
	}
	if os.Getenv("BENCH") == "quick" {
		t.Quick, t.Command = true, "BENCH=quick "+t.Command
	}
	if len(os.Args) > 2 && c.N == 0 { // other flags than make's: how it was started, word by word
		t.Command = strings.Join(append([]string{"ms-lab"}, os.Args[1:]...), " ")
	}
	return tables.Run(ctx, t, os.Stdout)
}

type migrateCmd struct {
	Bin string `placeholder:"DIR" help:"Where proxyd and ms-agent are (default: beside ms-lab)."`
	Out string `default:"out" placeholder:"DIR" help:"Where figures and logs go (default ${default})."`
}

func (c *migrateCmd) Run(ctx context.Context) error {
	if err := kernel.Enter(); err != nil {
		return err
	}
	o := migrate.Options{Bin: c.Bin, Out: c.Out, Command: "make bench-migrate"}
	if os.Getenv("BENCH") == "quick" {
		o.Quick, o.Command = true, "BENCH=quick "+o.Command
	}
	return migrate.Run(ctx, o, os.Stdout)
}
