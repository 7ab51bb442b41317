package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/kernel"
)

// fleet is the lab's world with our programs in it.
type fleet struct {
	opts     *Options
	dirs     dirs
	world    *lab.World
	origin   *origin
	children []*child
}

// newFleet makes the world, the fleet in it and its proxies, up to the moment when every proxy
// sees its peers. What it returns must be closed, also with an error.
func newFleet(ctx context.Context, o *Options, say func(string, ...any)) (*fleet, error) {
	f := &fleet{opts: o}
	if err := f.prepare(); err != nil {
		return f, err
	}
	say("making the world: namespaces, links of %v round trip, router, backplane", o.RTT)
	var err error
	f.world, err = lab.New(lab.Config{RTT: o.RTT, Loss: o.Loss, Rate: o.LinkRate, Seed: o.Seed})
	if err != nil {
		return f, err
	}
	if f.origin, err = serveOrigin(f.world); err != nil {
		return f, err
	}
	say("making the fleet: signing node, P1 (entry), P2 and P3 (hidden)")
	if err := f.startSigner(ctx); err != nil {
		return f, err
	}
	for _, n := range nodes {
		if err := f.startEdge(ctx, n.name); err != nil {
			return f, err
		}
	}
	return f, f.waitForPeers(ctx)
}

func (f *fleet) prepare() error {
	f.dirs.logs = filepath.Join(f.opts.Out, "demo-logs")
	if err := os.RemoveAll(f.dirs.logs); err != nil {
		return err
	}
	if err := os.MkdirAll(f.dirs.logs, 0o755); err != nil {
		return err
	}
	var err error
	f.dirs.work, err = os.MkdirTemp("/run", "ms-lab-") // the sandbox's own, gone with it
	return err
}

func (f *fleet) proxyd() string { return filepath.Join(f.opts.Bin, "proxyd") }
func (f *fleet) agent() string  { return filepath.Join(f.opts.Bin, "ms-agent") }

func (f *fleet) namespace(name string) *kernel.Namespace {
	return map[string]*kernel.Namespace{
		"sign": f.world.Sign, "p1": f.world.P1, "p2": f.world.P2, "p3": f.world.P3,
		"client": f.world.Client, "each": f.world.Each, "fresh": f.world.Fresh,
	}[name]
}

// startSigner makes the fleet and the edges' tokens and runs the signing node.
func (f *fleet) startSigner(ctx context.Context) error {
	p, ns := f.dirs.of("sign"), f.world.Sign
	if err := os.WriteFile(p.config, []byte(signConfig(p)), 0o600); err != nil {
		return err
	}
	if _, err := runOnce(ctx, ns, p, f.proxyd(), "init", "--config", p.config); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := f.makeToken(ctx, n.name, "--role", "edge", "--node", n.name); err != nil {
			return err
		}
	}
	return f.run("sign", f.proxyd(), "run", "--config", p.config)
}

// makeToken has the signing node make a token of one use in a file.
func (f *fleet) makeToken(ctx context.Context, name string, args ...string) error {
	p := f.dirs.of("sign")
	args = append([]string{"token", "create", "--config", p.config, "--expires", "1h", "--out", f.dirs.token(name)}, args...)
	_, err := runOnce(ctx, f.world.Sign, p, f.proxyd(), args...)
	return err
}

func (f *fleet) startEdge(ctx context.Context, name string) error {
	p := f.dirs.of(name)
	if err := os.WriteFile(p.config, []byte(edgeConfig(p, f.opts)), 0o600); err != nil {
		return err
	}
	join := func() (bool, error) { // the signing node may still be opening its door
		_, err := runOnce(ctx, f.namespace(name), p, f.proxyd(), "join", "--config", p.config, "--as", name, f.dirs.token(name))
		return err == nil, err
	}
	if err := wait(ctx, 10*time.Second, name+" joins the fleet", f.children, join); err != nil {
		return err
	}
	return f.run(name, f.proxyd(), "run", "--config", p.config)
}

// startAgent writes an agent's configuration and starts it with its token.
func (f *fleet) startAgent(name, probe string) error {
	p := f.dirs.of(name)
	if err := os.WriteFile(p.config, []byte(agentConfig(p, probe)), 0o600); err != nil {
		return err
	}
	args := []string{"up", "--config", p.config}
	if _, err := os.Stat(p.state); os.IsNotExist(err) { // it knows the fleet already if it was up before
		args = append(args, "--token", f.dirs.token(name))
	}
	return f.run(name, f.agent(), args...)
}

// stopAgent ends the agent that was started last, which keeps its membership.
func (f *fleet) stopAgent() error {
	last := len(f.children) - 1
	c := f.children[last]
	f.children = f.children[:last]
	return c.stop(10 * time.Second)
}

func (f *fleet) run(name, program string, args ...string) error {
	c, err := start(f.namespace(name), name, f.dirs.of(name), program, args...)
	if err != nil {
		return err
	}
	f.children = append(f.children, c)
	return nil
}

func (f *fleet) waitForPeers(ctx context.Context) error {
	for _, n := range nodes {
		want := "standby"
		if n.kind == "entry" {
			want = "active"
		}
		err := wait(ctx, 15*time.Second, n.name+" is "+want+" and sees its peers", f.children, func() (bool, error) {
			st, err := f.proxyStatus(ctx, n.name)
			if err != nil {
				return false, err
			}
			up := 0
			for _, peer := range st.Peers {
				if peer.Up {
					up++
				}
			}
			return st.State == want && up >= len(nodes)-1, fmt.Errorf("it is %q with %d peers up", st.State, up)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// waitForAgent waits until an agent is connected and its protected addresses are routed.
func (f *fleet) waitForAgent(ctx context.Context, name string, limit time.Duration) error {
	return wait(ctx, limit, "the agent "+name+" connects", f.children, func() (bool, error) {
		st, err := f.agentStatus(ctx, name)
		if err != nil {
			return false, err
		}
		return st.State == "connected" && len(st.Protected) > 0, fmt.Errorf("it is %q (%s), protects %v", st.State, st.Why, st.Protected)
	})
}

func (f *fleet) proxyStatus(ctx context.Context, name string) (st proxyStatus, err error) {
	err = control(ctx, f.dirs.of(name).socket, "GET", "/status", &st)
	return st, err
}

func (f *fleet) agentStatus(ctx context.Context, name string) (st agentStatus, err error) {
	err = control(ctx, f.dirs.of(name).socket, "GET", "/status", &st)
	return st, err
}

// healthy returns an error if any child ended.
func (f *fleet) healthy() error {
	for _, c := range f.children {
		if err := c.ended(); err != nil {
			return err
		}
	}
	return nil
}

// close stops everything, the newest first, and removes the world.
func (f *fleet) close() error {
	var errs []error
	for i := len(f.children) - 1; i >= 0; i-- {
		errs = append(errs, f.children[i].stop(5*time.Second))
	}
	if f.origin != nil {
		errs = append(errs, f.origin.close())
	}
	if f.world != nil {
		errs = append(errs, f.world.Close())
	}
	if f.dirs.work != "" {
		errs = append(errs, os.RemoveAll(f.dirs.work))
	}
	return errors.Join(errs...)
}
