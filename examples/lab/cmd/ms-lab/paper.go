package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"time"

	"migrationsensor/examples/lab/paper"
)

// paperProxyCmd is one role of the paper's proxy, a child of the bench in a namespace of the lab.
type paperProxyCmd struct {
	Role    string   `required:"" enum:"plain,p1,checker,p2" help:"plain, p1 (in peace), checker (P1 under attack) or p2."`
	Forward []string `sep:"none" placeholder:"LISTEN=ORIGIN" help:"plain, p1, p2: both ADDRESS:PORT; may be repeated."`
	Ratify  string   `placeholder:"ADDRESS:PORT" help:"P2's address on the backplane: p2 listens there, checker sends there."`
	For     string   `placeholder:"ADDRESS" help:"checker: P1's address, which this namespace must not own."`
	Ports   []uint16 `help:"checker: P1's ports."`
	P2      string   `name:"p2" placeholder:"ADDRESS" help:"checker: where clients are sent, to the same port."`
	Toward  string   `placeholder:"ADDRESS" default:"198.18.0.1" help:"checker: an address on the way to the clients (default ${default}, the lab's router)."`
	P       float64  `name:"p" default:"1" help:"checker: share of the SYNs that is answered (default ${default})."`
	Filter  float64  `default:"24" help:"checker: SYN/s that the firewall before it lets pass; 0 is no firewall (default ${default})."`
	KeyFile string   `placeholder:"FILE" help:"checker: the key that clients share, 64 hexadecimal digits."`
}

func (c *paperProxyCmd) Run(ctx context.Context) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	counts, err := paper.Run(ctx, cfg, os.Stdout)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(counts)
}

func (c *paperProxyCmd) config() (paper.Config, error) {
	cfg := paper.Config{Role: paper.Role(c.Role), Ports: c.Ports, P: c.P, Assumed: paper.Assume(0)}
	cfg.Assumed.PreFilter = c.Filter
	var err error
	for _, s := range c.Forward {
		f, err := paper.ParseForward(s)
		if err != nil {
			return cfg, fmt.Errorf("--forward: %w", err)
		}
		cfg.Forwards = append(cfg.Forwards, f)
	}
	if c.Ratify != "" {
		if cfg.Ratify, err = netip.ParseAddrPort(c.Ratify); err != nil {
			return cfg, fmt.Errorf("--ratify: %w", err)
		}
	}
	for _, a := range []struct {
		flag, text string
		to         *netip.Addr
	}{{"for", c.For, &cfg.Address}, {"p2", c.P2, &cfg.P2}, {"toward", c.Toward, &cfg.Toward}} {
		if a.text == "" {
			continue // Check says whether it is needed
		}
		if *a.to, err = netip.ParseAddr(a.text); err != nil {
			return cfg, fmt.Errorf("--%s: %w", a.flag, err)
		}
	}
	if cfg.Role == paper.Checker {
		if cfg.Assumed.Key, err = paper.LoadKey(c.KeyFile); err != nil {
			return cfg, fmt.Errorf("--key-file: %w", err)
		}
	}
	return cfg, nil
}

// dialCmd makes a connection and passes it on, for ssh:
//
//	ssh -o ProxyUseFdpass=yes -o ProxyCommand='ms-lab dial %h:%p' …
//
// It does nothing else: its whole run is part of what ssh waits for.
type dialCmd struct {
	To      netip.AddrPort `arg:"" help:"ADDRESS:PORT."`
	Paper   bool           `help:"As the paper's client does."`
	KeyFile string         `placeholder:"FILE" help:"With --paper: the key shared with P1."`
	RTT     time.Duration  `name:"rtt" default:"15ms" help:"With --paper: the round trip, from which the receive timeout follows (default ${default})."`
	Limit   time.Duration  `default:"3s" help:"How long a connect may take (default ${default})."`
}

func (c *dialCmd) Run(ctx context.Context) error {
	fd, err := c.dial(ctx)
	if err != nil {
		return err
	}
	return paper.Hand(fd, os.Stdout) // the end of the program closes ours
}

func (c *dialCmd) dial(ctx context.Context) (fd int, err error) {
	if !c.Paper {
		return paper.DialPlain(ctx, c.To, c.Limit)
	}
	a := paper.Assume(c.RTT)
	a.SecondLimit = c.Limit
	if a.Key, err = paper.LoadKey(c.KeyFile); err != nil {
		return -1, fmt.Errorf("--key-file: %w", err)
	}
	fd, _, err = paper.Dial(ctx, c.To, a)
	return fd, err
}
