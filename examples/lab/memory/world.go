package memory

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/netstack/memnet"
	"migrationsensor/proto"
	"migrationsensor/proxyd"
	fleetd "migrationsensor/proxyd/fleet"
)

// Config says what a world is made of.
type Config struct {
	fleet.Config // Bin, Lab and Logs do not apply

	Log *slog.Logger // of all programs; nil discards
}

// World is the lab in memory with our programs in it. It is used like *fleet.Fleet.
type World struct {
	cfg    Config
	log    *slog.Logger
	dir    string
	net    *memnet.Network
	gates  map[string]map[string]*ingress // by host and interface
	origin *origin
	sign   proxyd.Config

	attacker *attacker

	mu       sync.Mutex
	programs []*program
	dead     []*program // killed; they end by themselves
	played   []memnet.Fault
}

// machines are the lab's, as in lab.World.
var (
	clients = map[string][]netip.Addr{
		"client": {lab.Client.V4, lab.Client.V6}, "fresh": {lab.Fresh.V4, lab.Fresh.V6},
		"each": {lab.Each.V4, lab.Each.V6}, "plain": {lab.Plain.V4, lab.Plain.V6},
	}
	outside = map[string][]netip.Addr{
		"attacker": {lab.Attacker.V4, lab.Attacker.V6}, "site": {lab.Site.V4, lab.Site.V6},
	}
	behind = map[string][]netip.Addr{
		"sign": {lab.BackSign.V4, lab.BackSign.V6}, "origin": {lab.BackOrigin.V4, lab.BackOrigin.V6},
	}
)

// The segments.
const (
	internet  = "internet"
	backplane = "backplane"
	back      = "back0" // an interface's name
)

var backRoutes = []netip.Prefix{netip.MustParsePrefix("198.18.80.0/24"), netip.MustParsePrefix("2001:2:0:80::/64")}

// New makes the world, the fleet in it and its proxies, up to the moment when every proxy sees its peers. What it
// returns must be closed, also with an error. say is told of each step.
func New(ctx context.Context, c Config, say func(string, ...any)) (*World, error) {
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	if c.RTT == 0 {
		c.RTT = 15 * time.Millisecond
	}
	w := &World{cfg: c, log: discard(c.Log), gates: map[string]map[string]*ingress{}, net: memnet.New(memnet.Config{Seed: c.Seed})}
	if err := w.cfg.Fill(); err != nil {
		return w, err
	}
	var err error
	if w.dir, err = os.MkdirTemp(tempDir(), "ms"); err != nil { // short: a socket's path has about 100 bytes
		return w, err
	}
	say("making the world in memory: hosts, links of %v round trip, backplane; seed %d", c.RTT, c.Seed)
	if err := w.machines(); err != nil {
		return w, err
	}
	if w.origin, err = serveOrigin(w.net.Host("origin"), w.net.Host("site")); err != nil {
		return w, err
	}
	say("making the fleet")
	if err := w.startSigner(); err != nil {
		return w, err
	}
	for _, n := range w.cfg.Nodes {
		if err := w.join(ctx, n); err != nil {
			return w, err
		}
	}
	return w, w.waitForPeers(ctx)
}

// tempDir is where files are memory too, if there is such a place: thousands of agents that write their state would wait
// for the disk.
func tempDir() string {
	const shm = "/dev/shm"
	if i, err := os.Stat(shm); err == nil && i.IsDir() {
		return shm
	}
	return ""
}

// machines puts up all hosts.
func (w *World) machines() error {
	access := memnet.Conditions{Delay: w.cfg.RTT / 2, Loss: w.cfg.Loss, Rate: w.cfg.LinkRate / 8}
	for name, addrs := range clients {
		p := memnet.Port{Name: lab.Uplink, Segment: internet, Addrs: addrs, Routes: memnet.Everywhere, Out: access, In: access}
		if err := w.add(name, p); err != nil {
			return err
		}
	}
	for name, addrs := range outside {
		if err := w.add(name, memnet.Port{Name: lab.Uplink, Segment: internet, Addrs: addrs, Routes: memnet.Everywhere}); err != nil {
			return err
		}
	}
	w.attacker = newAttacker(w.net.Host("attacker").Interface(lab.Uplink))
	for name, addrs := range behind {
		if err := w.add(name, memnet.Port{Name: back, Segment: backplane, Addrs: addrs, Routes: backRoutes}); err != nil {
			return err
		}
	}
	for _, n := range w.cfg.Nodes {
		public, peers := fleet.AddressesOf(n.Name)
		ports := []memnet.Port{{Name: back, Segment: backplane, Addrs: []netip.Addr{peers.Addr()}, Routes: backRoutes}}
		if n.Kind != fleetd.KindAnchor {
			ports = append(ports, memnet.Port{Name: lab.Uplink, Segment: internet, Addrs: public, Routes: memnet.Everywhere})
		}
		if err := w.add(n.Name, ports...); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) add(name string, ports ...memnet.Port) error {
	h, err := w.net.Add(name, ports...)
	if err != nil {
		return err
	}
	w.gates[name] = map[string]*ingress{}
	for _, p := range ports {
		w.gates[name][p.Name] = watch(h.Interface(p.Name))
	}
	return nil
}

func (w *World) paths(name string) fleet.Paths {
	return fleet.Paths{
		Config: filepath.Join(w.dir, name+".toml"), State: filepath.Join(w.dir, name), Socket: filepath.Join(w.dir, name+".s"),
	}
}

// startSigner makes the fleet and runs the signing node.
func (w *World) startSigner() error {
	paths := w.paths("sign")
	text := w.cfg.SignText(paths)
	var err error
	if w.sign, err = proxyd.ParseConfig(paths.Config, []byte(text)); err != nil {
		return err
	}
	if _, err := fleetd.Init(w.sign.State, w.sign.Declaration(), time.Now()); err != nil {
		return err
	}
	return w.launch(w.proxy("sign", text))
}

func (w *World) launch(p *program, err error) error {
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.programs = append(w.programs, p)
	return nil
}

func (w *World) join(ctx context.Context, n fleet.Node) error {
	name, role := n.Name, proto.RoleEdge
	if n.Kind == fleetd.KindAnchor {
		role = proto.RoleAnchor
	}
	token, err := fleetd.CreateToken(w.sign.State, fleetd.TokenRequest{Role: role, Node: name, Uses: 1, Life: time.Hour}, time.Now())
	if err != nil {
		return err
	}
	m := &machine{proc: w.net.Host(name).Spawn()}
	defer m.proc.Kill()
	err = w.Wait(ctx, 10*time.Second, name+" joins the fleet", func() (bool, error) { // the signing node may still be opening its door
		_, err := fleetd.Join(ctx, fleetd.JoinConfig{Dir: w.paths(name).State, As: name, Token: token, Dial: m.Dial})
		return err == nil, err
	})
	if err != nil {
		return err
	}
	return w.Start(name)
}

// Start runs a node that is not running, as its machine's boot does.
func (w *World) Start(name string) error {
	if err := w.buried(name); err != nil {
		return err
	}
	text := fleet.EdgeText(w.paths(name), w.cfg.Edge)
	for _, n := range w.cfg.Nodes {
		if n.Name == name && n.Kind == fleetd.KindAnchor { // it has none of an edge's settings
			p := w.paths(name)
			text = fmt.Sprintf("state = %q\nsocket = %q\nlog_level = \"debug\"\n", p.State, p.Socket)
		}
	}
	return w.launch(w.proxy(name, text))
}

// StartAgent starts an agent, with a token of its own if it knows no fleet yet; probe is "warm" or "each".
func (w *World) StartAgent(name, probe string) error {
	token := ""
	if _, err := os.Stat(w.paths(name).State); os.IsNotExist(err) {
		t, err := fleetd.CreateToken(w.sign.State, fleetd.TokenRequest{Role: proto.RoleAgent, Uses: 1, Life: time.Hour}, time.Now())
		if err != nil {
			return err
		}
		token = t.String()
	}
	return w.launch(w.agent(name, probe, token))
}

// take takes a program from the list of those that run.
func (w *World) take(name string) *program {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.programs, func(p *program) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	p := w.programs[i]
	w.programs = slices.Delete(w.programs, i, i+1)
	return p
}

// Describe tells where the sessions of every program stand, for a transfer that stands still.
func (w *World) Describe() string {
	w.mu.Lock()
	all := slices.Clone(w.programs)
	w.mu.Unlock()
	var b strings.Builder
	for _, p := range all {
		fmt.Fprintf(&b, "%s:\n%s", p.name, p.tell())
	}
	return b.String()
}

func (w *World) find(name string) (*program, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.programs {
		if p.name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%s does not run", name)
}

// Stop asks a program to end, as SIGTERM does, and waits. It keeps its files.
func (w *World) Stop(name string) error {
	if p := w.take(name); p != nil {
		return p.stop()
	}
	return nil
}

// Kill ends a program as SIGKILL does: its host closes its connections, and answers for it no more. What it keeps on
// disk and its firewall stay.
func (w *World) Kill(name string) error {
	p := w.take(name)
	if p == nil {
		return fmt.Errorf("%s does not run", name)
	}
	p.kill()
	p.cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = append(w.dead, p)
	return nil
}

// buried waits until a killed program of that name has ended: a real one's control socket would be gone at once.
func (w *World) buried(name string) error {
	w.mu.Lock()
	dead := slices.Clone(w.dead)
	w.mu.Unlock()
	for _, p := range dead {
		if p.name != name {
			continue
		}
		select {
		case <-p.done:
		case <-time.After(stopLimit):
			return fmt.Errorf("%s was killed and has not ended within %v", name, stopLimit)
		}
	}
	return nil
}

// Freeze stops a program as SIGSTOP does: its host goes on and acknowledges.
func (w *World) Freeze(name string) error {
	p, err := w.find(name)
	if err == nil {
		p.proc.Stop()
	}
	return err
}

// Thaw ends Freeze.
func (w *World) Thaw(name string) error {
	p, err := w.find(name)
	if err == nil {
		p.proc.Continue()
	}
	return err
}

// ResetLinks cuts all links that end at a machine's link port, and says how many: what an attacker on the way could do.
func (w *World) ResetLinks(name string) (int, error) {
	h := w.net.Host(name)
	if h == nil {
		return 0, fmt.Errorf("there is no machine %s", name)
	}
	return h.Reset(func(local, _ netip.AddrPort) bool { return local.Port() == lab.LinkPort }), nil
}

// Play makes the network worse for a time; faults name the machines: client, p1, origin, attacker and so on. stop ends
// them early.
func (w *World) Play(faults ...memnet.Fault) (stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.played = append(w.played, faults...)
	return w.net.Play(faults...)
}

// Played are the faults there were, for the report of a run that failed.
func (w *World) Played() []memnet.Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.played)
}

// Network is the world's, for what has no method here.
func (w *World) Network() *memnet.Network { return w.net }

// Seed is what faults are drawn from.
func (w *World) Seed() uint64 { return w.cfg.Seed }

// Digest is the file's that the origin serves.
func (w *World) Digest() [sha256.Size]byte { return w.origin.digest }

// Nodes are the fleet's edges, in their order.
func (w *World) Nodes() []fleet.Node { return w.cfg.Nodes }

// Dial connects as an application on a machine would, through its agent where one runs and has protected the address.
func (w *World) Dial(ctx context.Context, machine string, to netip.AddrPort) (net.Conn, error) {
	h := w.net.Host(machine)
	if h == nil {
		return nil, fmt.Errorf("there is no machine %s", machine)
	}
	c, err := h.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// ProxyStatus reads a proxy's control socket.
func (w *World) ProxyStatus(ctx context.Context, name string) (st fleet.ProxyStatus, err error) {
	err = w.status(ctx, name, &st)
	return st, err
}

// AgentStatus reads an agent's status.
func (w *World) AgentStatus(ctx context.Context, name string) (st fleet.AgentStatus, err error) {
	err = w.status(ctx, name, &st)
	return st, err
}

func (w *World) status(ctx context.Context, name string, into any) error {
	p, err := w.find(name)
	if err != nil {
		return err
	}
	return p.status(ctx, into)
}

// Forget makes an agent forget the proxy that it was told: it starts again at the entries.
func (w *World) Forget(ctx context.Context, name string) error {
	p, err := w.find(name)
	if err != nil {
		return err
	}
	return p.forget(ctx)
}

// Wait waits until ok, at most for limit; what runs must live meanwhile. The error that ok returns with false is told
// if the time runs out.
func (w *World) Wait(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %v", limit))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		yes, err := ok()
		if yes {
			return nil
		}
		if ended := w.Healthy(); ended != nil {
			return fmt.Errorf("%s: %w", what, ended)
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: %w", what, context.Cause(ctx)), err)
		case <-tick.C:
		}
	}
}

// WaitForAgent waits until an agent is connected and its protected addresses are routed.
func (w *World) WaitForAgent(ctx context.Context, name string, limit time.Duration) error {
	return w.Wait(ctx, limit, "the agent "+name+" connects", func() (bool, error) {
		st, err := w.AgentStatus(ctx, name)
		if err != nil {
			return false, err
		}
		return st.State == "connected" && len(st.Protected) > 0, fmt.Errorf("it is %q (%s), protects %v", st.State, st.Why, st.Protected)
	})
}

// waitForPeers waits until every edge is at peace and sees all others.
func (w *World) waitForPeers(ctx context.Context) error {
	for _, n := range w.cfg.Nodes {
		err := w.Wait(ctx, 15*time.Second, n.Name+" is at peace and sees its peers", func() (bool, error) {
			st, err := w.ProxyStatus(ctx, n.Name)
			if err != nil {
				return false, err
			}
			missing := w.cfg.Missing(n, st)
			peace := st.State == "active" || n.Kind != fleetd.KindEntry && st.State == "standby" || n.Kind == fleetd.KindAnchor
			return peace && len(missing) == 0, fmt.Errorf("it is %q and does not see %v", st.State, missing)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Healthy returns an error if a program ended by itself.
func (w *World) Healthy() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.programs {
		if err := p.ended(); err != nil {
			return err
		}
	}
	return nil
}

// Close stops everything, the newest first, and removes the world. It returns when every goroutine has ended.
func (w *World) Close() error {
	w.mu.Lock()
	running, dead := w.programs, w.dead
	w.programs, w.dead = nil, nil
	w.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(running) {
		errs = append(errs, p.stop())
	}
	for _, p := range dead {
		p.proc.Continue()
		<-p.done // how a killed process ends does not matter
	}
	if w.origin != nil {
		errs = append(errs, w.origin.Close())
	}
	w.net.Close()
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}
