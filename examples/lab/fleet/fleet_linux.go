package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/kernel"
)

// Fleet is the lab's world with our programs in it. One goroutine starts and stops them.
type Fleet struct {
	World  *lab.World
	Origin *Origin
	Cable  *lab.Cable // p1's, if Config.Cable opens it

	cfg      Config
	dirs     dirs
	children []*Child
	more     map[string]*kernel.Namespace // the second entry and the anchor, where there are such
}

// New makes the world, the fleet in it and its proxies, up to the moment when every proxy sees its
// peers. It must be called inside kernel.Enter's sandbox. What it returns must be closed, also with
// an error. say is told of each step.
func New(ctx context.Context, c Config, say func(string, ...any)) (*Fleet, error) {
	f := &Fleet{cfg: c}
	if err := f.prepare(); err != nil {
		return f, err
	}
	say("making the world: namespaces, links of %v round trip, router, backplane", c.RTT)
	var err error
	f.World, err = lab.New(lab.Config{RTT: c.RTT, Loss: c.Loss, Rate: c.LinkRate, Seed: c.Seed})
	if err != nil {
		return f, err
	}
	if f.Origin, err = ServeOrigin(f.World); err != nil {
		return f, err
	}
	if err := errors.Join(f.addMachines(), f.serveTransfers()); err != nil {
		return f, err
	}
	if c.Cable != "" {
		if f.Cable, err = f.World.OpenCable(f.World.P1, lab.P1, c.Cable); err != nil {
			return f, err
		}
	}
	say("making the fleet: signing node%s", f.names())
	if err := f.startSigner(ctx); err != nil {
		return f, err
	}
	for _, n := range f.cfg.Nodes {
		if err := f.join(ctx, n); err != nil {
			return f, err
		}
	}
	return f, f.waitForPeers(ctx)
}

// serveTransfers starts the far end of transfers, a program of its own: it is stopped and goes on in tests.
func (f *Fleet) serveTransfers() error {
	if !slices.ContainsFunc(f.cfg.Services, func(s Service) bool { return s.Origin == lab.OriginTransfer }) {
		return nil
	}
	at, _ := lab.BackOrigin.Port(lab.OriginTransfer)
	return f.Run(f.World.Origin, "origin", f.cfg.Lab, "origin", at.String())
}

// addMachines adds the machines of nodes that the paper's world does not have.
func (f *Fleet) addMachines() (err error) {
	f.more = map[string]*kernel.Namespace{}
	for _, n := range f.cfg.Nodes {
		switch n.Name {
		case "a1":
			f.more[n.Name], err = f.World.AddBehind(n.Name, lab.BackA1)
		case "e2":
			f.more[n.Name], err = f.World.AddProxy(lab.Proxy{Name: n.Name, Public: lab.E2, Back: lab.BackE2})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *Fleet) names() (s string) {
	for _, n := range f.cfg.Nodes {
		s += fmt.Sprintf(", %s (%s)", n.Name, n.Kind)
	}
	return s
}

func (f *Fleet) prepare() error {
	if err := f.cfg.fill(); err != nil {
		return err
	}
	f.dirs.logs = f.cfg.Logs
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

func (f *Fleet) proxyd() string { return filepath.Join(f.cfg.Bin, "proxyd") }
func (f *Fleet) agent() string  { return filepath.Join(f.cfg.Bin, "ms-agent") }

// Nodes are the fleet's edges, in their order.
func (f *Fleet) Nodes() []Node { return f.cfg.Nodes }

// Lab is the program that has ms-lab's commands.
func (f *Fleet) Lab() string { return f.cfg.Lab }

// Work is a folder that vanishes with the fleet.
func (f *Fleet) Work() string { return f.dirs.work }

// Paths are where a program of that name has its files.
func (f *Fleet) Paths(name string) Paths { return f.dirs.of(name) }

// Children are the programs that run.
func (f *Fleet) Children() []*Child { return f.children }

// Namespace is where a program of that name lives.
func (f *Fleet) Namespace(name string) *kernel.Namespace {
	w := f.World
	if ns := f.more[name]; ns != nil {
		return ns
	}
	return map[string]*kernel.Namespace{
		"sign": w.Sign, "p1": w.P1, "p2": w.P2, "p3": w.P3, "client": w.Client, "each": w.Each, "fresh": w.Fresh,
	}[name]
}

// startSigner makes the fleet and the edges' tokens and runs the signing node.
func (f *Fleet) startSigner(ctx context.Context) error {
	p, ns := f.dirs.of("sign"), f.World.Sign
	if err := os.WriteFile(p.Config, []byte(signConfig(p, f.cfg)), 0o600); err != nil {
		return err
	}
	if _, err := RunOnce(ctx, ns, p, f.proxyd(), "init", "--config", p.Config); err != nil {
		return err
	}
	for _, n := range f.cfg.Nodes {
		role := "edge"
		if n.Kind == Anchor {
			role = "anchor"
		}
		if err := f.makeToken(ctx, n.Name, "--role", role, "--node", n.Name); err != nil {
			return err
		}
	}
	return f.Run(ns, "sign", f.proxyd(), "run", "--config", p.Config)
}

// makeToken has the signing node make a token of one use in a file.
func (f *Fleet) makeToken(ctx context.Context, name string, args ...string) error {
	p := f.dirs.of("sign")
	args = append([]string{"token", "create", "--config", p.Config, "--expires", "1h", "--out", f.dirs.token(name)}, args...)
	_, err := RunOnce(ctx, f.World.Sign, p, f.proxyd(), args...)
	return err
}

// AgentToken has the signing node make an agent's token.
func (f *Fleet) AgentToken(ctx context.Context, name string) error {
	return f.makeToken(ctx, name, "--role", "agent")
}

func (f *Fleet) join(ctx context.Context, n Node) error {
	p, name := f.dirs.of(n.Name), n.Name
	text := edgeConfig(p, f.cfg.Edge, f.cfg.interfaceOf(n.Name))
	if n.Kind == Anchor {
		text = anchorConfig(p)
	}
	if err := os.WriteFile(p.Config, []byte(text), 0o600); err != nil {
		return err
	}
	join := func() (bool, error) { // the signing node may still be opening its door
		_, err := RunOnce(ctx, f.Namespace(name), p, f.proxyd(), "join", "--config", p.Config, "--as", name, f.dirs.token(name))
		return err == nil, err
	}
	if err := Wait(ctx, 10*time.Second, name+" joins the fleet", f.children, join); err != nil {
		return err
	}
	return f.Revive(name)
}

// Restart starts an edge anew with other settings: it has forgotten whom it admitted and every
// attack, and is back among its peers when Restart returns.
func (f *Fleet) Restart(ctx context.Context, name string, e Edge) error {
	if err := f.Stop(name); err != nil {
		return err
	}
	p := f.dirs.of(name)
	if err := os.WriteFile(p.Config, []byte(edgeConfig(p, e, f.cfg.interfaceOf(name))), 0o600); err != nil {
		return err
	}
	if err := f.Revive(name); err != nil {
		return err
	}
	return f.waitForPeers(ctx)
}

// StartAgent writes an agent's configuration and starts it, with its token if it knows no fleet yet.
func (f *Fleet) StartAgent(name, probe string) error {
	p := f.dirs.of(name)
	if err := os.WriteFile(p.Config, []byte(agentConfig(p, probe, f.cfg.Restless)), 0o600); err != nil {
		return err
	}
	args := []string{"up", "--config", p.Config}
	if _, err := os.Stat(p.State); os.IsNotExist(err) { // it knows the fleet already if it was up before
		args = append(args, "--token", f.dirs.token(name))
	}
	return f.Run(f.Namespace(name), name, f.agent(), args...)
}

// Run starts a program that runs until Stop or Close.
func (f *Fleet) Run(ns *kernel.Namespace, name, program string, args ...string) error {
	return f.run(ns, name, nil, program, args...)
}

func (f *Fleet) run(ns *kernel.Namespace, name string, env []string, program string, args ...string) error {
	c, err := start(ns, name, f.dirs.of(name), env, program, args...)
	if err != nil {
		return err
	}
	f.children = append(f.children, c)
	return nil
}

// Stop ends a program, which keeps its files.
func (f *Fleet) Stop(name string) error {
	c := f.find(name)
	if c == nil {
		return nil
	}
	f.children = slices.DeleteFunc(f.children, func(x *Child) bool { return x == c })
	return c.Stop(10 * time.Second)
}

// waitForPeers waits until every node is at peace and sees its peers. A hidden one may still be
// active for somebody who was sent to it.
func (f *Fleet) waitForPeers(ctx context.Context) error {
	for _, n := range f.cfg.Nodes {
		if err := f.WaitForPeers(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// WaitForPeers waits until a node is at peace and sees all others.
func (f *Fleet) WaitForPeers(ctx context.Context, n Node) error {
	return Wait(ctx, 15*time.Second, n.Name+" is at peace and sees its peers", f.children, func() (bool, error) {
		st, err := f.ProxyStatus(ctx, n.Name)
		if err != nil {
			return false, err
		}
		missing := f.cfg.Missing(n, st)
		peace := st.State == "active" || st.State == "standby" && n.Kind != Entry || n.Kind == Anchor
		return peace && len(missing) == 0, fmt.Errorf("it is %q and does not see %v", st.State, missing)
	})
}

// WaitForAgent waits until an agent is connected and its protected addresses are routed.
func (f *Fleet) WaitForAgent(ctx context.Context, name string, limit time.Duration) error {
	return Wait(ctx, limit, "the agent "+name+" connects", f.children, func() (bool, error) {
		st, err := f.AgentStatus(ctx, name)
		if err != nil {
			return false, err
		}
		return st.State == "connected" && len(st.Protected) > 0, fmt.Errorf("it is %q (%s), protects %v", st.State, st.Why, st.Protected)
	})
}

// QuietTUN waits until a client's TUN has carried nothing for half a second (the kernel announces a
// new interface to IPv6 routers and groups) and returns its count.
func (f *Fleet) QuietTUN(ctx context.Context, ns *kernel.Namespace) (count uint64, err error) {
	var since time.Time
	err = Wait(ctx, 15*time.Second, "the TUN falls silent", f.children, func() (bool, error) {
		t, err := ns.Traffic("ms0")
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

// ProxyStatus reads an edge's control socket.
func (f *Fleet) ProxyStatus(ctx context.Context, name string) (st ProxyStatus, err error) {
	err = Control(ctx, f.dirs.of(name).Socket, "GET", "/status", &st)
	return st, err
}

// AgentStatus reads an agent's control socket.
func (f *Fleet) AgentStatus(ctx context.Context, name string) (st AgentStatus, err error) {
	err = Control(ctx, f.dirs.of(name).Socket, "GET", "/status", &st)
	return st, err
}

// Forget makes an agent forget the proxy that it was told: it starts again at the entries.
func (f *Fleet) Forget(ctx context.Context, name string) error {
	if err := Control(ctx, f.dirs.of(name).Socket, "POST", "/forget", nil); err != nil {
		return fmt.Errorf("make the agent %s forget its proxy: %w (does %s have `ms-agent forget`? build it with `make`)", name, err, f.agent())
	}
	return nil
}

// Healthy returns an error if any child ended.
func (f *Fleet) Healthy() error {
	for _, c := range f.children {
		if err := c.Ended(); err != nil {
			return err
		}
	}
	return nil
}

// Close stops everything, the newest first, and removes the world.
func (f *Fleet) Close() error {
	var errs []error
	for _, c := range slices.Backward(f.children) {
		errs = append(errs, c.Stop(5*time.Second))
	}
	if f.Origin != nil {
		errs = append(errs, f.Origin.Close())
	}
	if f.World != nil {
		errs = append(errs, f.World.Close())
	}
	if f.dirs.work != "" {
		errs = append(errs, os.RemoveAll(f.dirs.work))
	}
	return errors.Join(errs...)
}
