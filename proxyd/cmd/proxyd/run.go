package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"migrationsensor/proxyd"
	"migrationsensor/proxyd/fleet"
	"migrationsensor/proxyd/synchecker"
)

type runCmd struct {
	As       string        `help:"With --token: which declared node this machine is." placeholder:"NODE"`
	Token    string        `help:"Join first, with the token in this file, if this machine is in no fleet yet." placeholder:"FILE"`
	JoinWait time.Duration `help:"With --token: how long joining is tried again while the signing node does not answer." default:"30s" placeholder:"TIME"`
}

func (runCmd) Example() string {
	return "  proxyd run\n  proxyd run --config p1.toml\n  proxyd run --as p1 --token p1.token      joins the first time, as in a container\n"
}

// Run serves until a signal or proxyd down.
func (c *runCmd) Run(e *env) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	if err := c.join(e, cfg); err != nil {
		return err
	}
	if _, err := ready(cfg); err != nil {
		return err
	}
	if _, err := proxyd.ControlStatus(e.ctx, cfg.Socket); err == nil { // before anything is written to the state
		return fmt.Errorf("another proxyd runs and answers at %s; stop it with proxyd down, or set another socket and state for this one", cfg.Socket)
	}
	p, err := proxyd.New(cfg, logger(e.stderr, cfg.LogLevel))
	if err != nil {
		return err
	}
	defer hurry(p)()
	return p.Run(e.ctx)
}

// joinAgain is the pause between two tries to join. Ours.
const joinAgain = 500 * time.Millisecond

// join joins a machine that is in no fleet yet. A signing node that starts at the same time may not answer at once.
func (c *runCmd) join(e *env, cfg proxyd.Config) error {
	switch {
	case c.Token == "" && c.As == "":
		return nil
	case c.Token == "" || c.As == "":
		return errors.New("--token FILE says with what to join, --as NODE as whom: give both, or none on a machine that has joined")
	case c.JoinWait < 0:
		return fmt.Errorf("--join-wait %v: it can't be less than nothing", c.JoinWait)
	}
	if st, err := fleet.OpenState(cfg.State, nil); !errors.Is(err, fleet.ErrNotJoined) {
		if err == nil && st.Node().Name != c.As {
			return fmt.Errorf("--as %s, but this machine has joined as %q (state in %s): name that one, or another state", c.As, st.Node().Name, cfg.State)
		}
		return nil // ready tells what else is wrong
	}
	log, until := logger(e.stderr, cfg.LogLevel), time.Now().Add(c.JoinWait)
	for first := true; ; first = false {
		err := (&joinCmd{As: c.As, Token: c.Token}).Run(&env{e.ctx, e.stdin, io.Discard, e.stderr, e.cli})
		if err == nil {
			log.Info("joined", "node", c.As)
			return nil
		}
		if network := (*net.OpError)(nil); !errors.As(err, &network) || !time.Now().Before(until) {
			return err
		}
		if first {
			log.Warn("the signing node does not answer yet; trying again", "wait", c.JoinWait, "err", err)
		}
		select {
		case <-e.ctx.Done():
			return err
		case <-time.After(joinAgain):
		}
	}
}

// hurry makes a second signal stop p at once, but in order: what is on the host is undone. A third kills.
func hurry(p interface{ Stop() }) (done func()) {
	signals, ended := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 2 { // the first one ended the context
			select {
			case <-signals:
			case <-ended:
				return
			}
		}
		p.Stop()
		signal.Stop(signals)
	})
	return func() { close(ended); wg.Wait(); signal.Stop(signals) }
}

// ready says, in one sentence with the remedy, what keeps this machine from running, and else who
// it is.
func ready(cfg proxyd.Config) (fleet.Node, error) {
	st, err := fleet.OpenState(cfg.State, nil)
	switch {
	case errors.Is(err, fleet.ErrNotJoined) && cfg.Signing():
		return fleet.Node{}, fmt.Errorf("fleet %q is declared but not made yet; run proxyd init", cfg.Fleet)
	case errors.Is(err, fleet.ErrNotJoined):
		return fleet.Node{}, fmt.Errorf("%w; on the signing node run: proxyd token create --role edge --node NAME --out FILE; then here: proxyd join --as NAME FILE", err)
	case err != nil:
		return fleet.Node{}, err
	}
	n := st.Node()
	if n.Kind == fleet.KindSigner && !cfg.Signing() {
		return n, fmt.Errorf("this is the signing node of fleet %q, but %s declares no fleet; name its configuration with --config", n.Fleet, where(cfg))
	}
	if n.Kind != fleet.KindSigner && cfg.Signing() {
		return n, fmt.Errorf("this machine is node %q of fleet %q, but %s declares a fleet as if it were the signing node; remove fleet, [[service]] and [[node]]", n.Name, n.Fleet, where(cfg))
	}
	if n.Kind == fleet.KindEntry || n.Kind == fleet.KindHidden {
		return n, capable()
	}
	return n, nil
}

type checkCmd struct{}

func (checkCmd) Example() string { return "  proxyd check --config p1.toml\n" }

// Help lists what a configuration can say.
func (checkCmd) Help() string {
	return "Keys of proxyd.toml, everywhere: state, socket, log_level. " +
		"Signing node: fleet; [[service]] name, public, origin, groups, plain, proxy_protocol, anchors; " +
		"[[node]] name, kind, public, link_port, backplane, relay_ports, neighbours. " +
		"Edge: interface; [detector] interval; [detector.threshold] all, syn, icmp, udp; " +
		"[attack] quiet, suspend_after; [syn_checker] path, probability, answers, processor; [firewall] allow; [admission] rate, burst; stop_wait."
}

// Run checks configuration, membership and rights, and starts nothing.
func (c *checkCmd) Run(e *env) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "configuration: %s is good\n", where(cfg))
	for _, w := range warnings(cfg) {
		fmt.Fprintln(e.stdout, "warning:", w)
	}
	n, err := ready(cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "machine: node %q (%s) of fleet %q, can run\n", n.Name, n.Kind, n.Fleet)
	if n.Kind == fleet.KindEntry || n.Kind == fleet.KindHidden {
		c.path(e, cfg)
	}
	return nil
}

// path says by which way packets reach the SYN Checker: of the proxyd that runs here, else what this machine has the rights for.
func (c *checkCmd) path(e *env, cfg proxyd.Config) {
	if st, err := proxyd.ControlStatus(e.ctx, cfg.Socket); err == nil && st.Path != "" {
		fmt.Fprintf(e.stdout, "data path: %s (as it runs)\n", st.Path)
		for _, why := range st.PathWhy {
			fmt.Fprintln(e.stdout, "data path: not", why)
		}
		return
	}
	if err := synchecker.CanOffload(); err != nil {
		fmt.Fprintf(e.stdout, "data path: %s; XDP is not to be had: %v\n", synchecker.PathPacket, err)
		return
	}
	fmt.Fprintf(e.stdout, "data path: %s; run takes %s if the interface's driver can, else %s\n", cfg.SYNChecker.Path, synchecker.PathNative, synchecker.PathGeneric)
}

type planCmd struct {
	Defending bool `help:"As it is while the node defends, and not as in peace."`
}

func (planCmd) Example() string {
	return "  proxyd firewall plan\n  proxyd firewall plan --defending\n"
}

// Run prints the packet filter and changes nothing.
func (c *planCmd) Run(e *env) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	if _, err := ready(cfg); err != nil {
		return err
	}
	p, err := proxyd.New(cfg, logger(e.stderr, cfg.LogLevel))
	if err != nil {
		return err
	}
	text, err := p.FirewallText(c.Defending)
	if err != nil {
		return err
	}
	_, err = io.WriteString(e.stdout, text)
	return err
}

// public reports whether the address is one of the internet's.
func public(a netip.Addr) bool {
	shared := netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	return a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a.Unmap())
}

// warnings are things that work and should be known.
func warnings(cfg proxyd.Config) []string {
	var out []string
	entries, anchors := 0, 0
	for _, n := range cfg.Nodes {
		if n.Kind == fleet.KindEntry {
			entries++
		}
		if n.Kind == fleet.KindAnchor {
			anchors++
			if public(n.Backplane.Addr()) {
				out = append(out, fmt.Sprintf("the anchor %q has the public address %s: nobody but edges needs to reach it, and it can be attacked there; give it a private one", n.Name, n.Backplane.Addr()))
			}
		}
		for _, a := range n.Public {
			if n.Backplane.Addr() == a {
				out = append(out, fmt.Sprintf("the backplane of %q is its public address %s: a flood of it reaches the peer links too; give it a private one", n.Name, a))
			}
		}
	}
	if cfg.Signing() && entries == 1 {
		out = append(out, "one entry only: agents that lose it without a word have nowhere to ask; declare a second")
	}
	if cfg.Signing() && anchors == 0 {
		out = append(out, "no node of kind \"anchor\": sessions are held by edges, and end with the edge that holds them; declare one beside the origin")
	}
	if cfg.Signing() && entries == 0 {
		out = append(out, "no entry: no agent can come in; declare a [[node]] of kind \"entry\"")
	}
	return out
}
