package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/container"
	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/scan"
)

// RunCompose plays the scenario in the containers of examples/compose, which is at dir. It begins them, and when it returns nothing
// of them is left, whatever happened. A goal is that itself.
func RunCompose(ctx context.Context, o Options, dir string, out *os.File) error {
	if err := o.check(); err != nil {
		return err
	}
	if o.Rate != composeRate {
		return fmt.Errorf("--rate %d: the thresholds in examples/compose/etc/edge.toml are for %d", o.Rate, composeRate)
	}
	o.name, o.v4, o.entryDies = "compose", true, true
	logs := filepath.Join(o.Out, "compose-logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(logs, "engine.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	engine, err := container.NewEngine(ctx, dir, log,
		"COMPOSE_PROJECT_NAME=migrationsensor", "COMPOSE_PROFILES=demo", "MS_APP=stay", "MS_DRIVER="+strconv.Itoa(os.Getpid()))
	if err != nil {
		return err
	}
	release, err := lockCompose()
	if err != nil {
		return err
	}
	defer release()
	if err := log.Truncate(0); err != nil { // not before: another one may be writing it
		return err
	}
	r := newRun(&o, "compose", "in containers")
	if err := engine.Clear(ctx, r.board.say); err != nil {
		return err
	}
	r.logs = "logs: " + logs
	w := &composeWorld{Engine: engine, logs: logs, say: r.board.say}
	r.open = func(ctx context.Context, say func(string, ...any)) (world, error) { return w, w.begin(ctx) }
	r.more = w.figures
	return r.show(ctx, out)
}

// composeRate is what edge.toml's thresholds are made for.
const composeRate = 5000

// lockCompose keeps a second one out, on this machine. The lock goes with this process, whatever ends it.
func lockCompose() (release func(), err error) {
	name := filepath.Join(os.TempDir(), "migrationsensor-compose.lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o644)
	if errors.Is(err, fs.ErrPermission) { // another user's, who had one before; to lock it one need not write
		f, err = os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("lock against a second compose demo: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32))
		f.Close()
		return nil, fmt.Errorf("%w: another one runs (process %s); wait for its end or stop it with Ctrl-C", container.ErrBusy, holder)
	}
	if err := f.Truncate(0); err == nil { // in another user's file there is no number
		_, _ = f.WriteString(strconv.Itoa(os.Getpid()))
	}
	return func() { f.Close() }, nil
}

// composeWorld is the demo in containers: every program is in one of its own, and the applications are ms-lab's, started in theirs.
type composeWorld struct {
	*container.Engine
	logs    string
	say     func(string, ...any)
	bridges []string

	restarts, containers int
	closed               bool
	left                 []string
	noRules              string
}

var _ world = (*composeWorld)(nil)

func (w *composeWorld) begin(ctx context.Context) error {
	w.say("building the image")
	if _, err := w.Compose(ctx, "build", "router"); err != nil {
		return fmt.Errorf("%w (are bin/ms-agent, bin/proxyd and bin/ms-lab there? build them with `make`)", err)
	}
	w.say("starting the containers: router, signing node, anchor, origin, P1, P2, P3, E2, clients, attacker")
	if _, err := w.Compose(ctx, "up", "-d", "--no-build"); err != nil {
		return err
	}
	var err error
	if w.bridges, err = w.Bridges(ctx); err != nil {
		return err
	}
	cfg := fleet.Config{Nodes: nodes()}
	for _, n := range cfg.Nodes {
		err := w.Wait(ctx, 30*time.Second, n.Name+" is at peace and sees its peers", func() (bool, error) {
			st, err := w.ProxyStatus(ctx, n.Name)
			if err != nil {
				return false, err
			}
			missing := cfg.Missing(n, st)
			peace := st.State == "active" || st.State == "standby" && n.Kind == fleet.Hidden || n.Kind == fleet.Anchor
			return peace && len(missing) == 0, fmt.Errorf("it is %q and does not see %v", st.State, missing)
		})
		if err != nil {
			return err
		}
	}
	w.say("all containers run; the nodes see their peers")
	return nil
}

// Wait implements world.
func (w *composeWorld) Wait(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error {
	return fleet.Wait(ctx, limit, what, nil, ok)
}

// StartAgent implements world: its settings are in its container.
func (w *composeWorld) StartAgent(name, _ string) error {
	return w.Engine.Start(context.Background(), name)
}

func (w *composeWorld) WaitForAgent(ctx context.Context, name string, limit time.Duration) error {
	return w.Wait(ctx, limit, "the agent "+name+" connects", func() (bool, error) {
		st, err := w.AgentStatus(ctx, name)
		if err != nil {
			return false, err
		}
		return st.State == "connected" && len(st.Protected) > 0, fmt.Errorf("it is %q (%s), protects %v", st.State, st.Why, st.Protected)
	})
}

func (w *composeWorld) Forget(ctx context.Context, name string) error {
	return w.Control(ctx, name, container.AgentSocket, "POST", "/forget", nil)
}

func (w *composeWorld) Stop(name string) error  { return w.Engine.Stop(context.Background(), name) }
func (w *composeWorld) Kill(name string) error  { return w.Engine.Kill(context.Background(), name) }
func (w *composeWorld) Start(name string) error { return w.Engine.Start(context.Background(), name) }

// moveLimit is how long a command of a planned move watches the agents go.
const moveLimit = "25s"

func (w *composeWorld) Drain(ctx context.Context, name string) error {
	return w.order(ctx, name, "drain", "--wait", moveLimit)
}

func (w *composeWorld) Undrain(ctx context.Context, name string) error {
	return w.order(ctx, name, "drain", "--undo")
}

func (w *composeWorld) Home(ctx context.Context, name string) error {
	return w.order(ctx, name, "home", "--wait", moveLimit)
}

func (w *composeWorld) order(ctx context.Context, name string, args ...string) error {
	_, err := w.Exec(ctx, name, append([]string{"proxyd"}, args...)...)
	return err
}

// Healthy implements world.
func (w *composeWorld) Healthy() error { return w.Trouble(context.Background()) }

// flood comes from 4,096 pairs of source address and port, and no more: the host tracks each connection that passes its bridges
// for two minutes.
func (w *composeWorld) flood(ctx context.Context, a fleet.Attack) (string, error) {
	var r flood.Result
	err := w.Call(ctx, "attacker", "Flood", flood.Config{
		Kind: a.Kind, Target: a.Target, Sources: composeSources, Ports: 256, Rate: a.Rate, Time: a.Time, Seed: uint64(time.Now().UnixNano()),
	}, &r)
	return fmt.Sprintf("%d packets, %.0f/s", r.Sent, r.Rate()), err
}

var composeSources = netip.PrefixFrom(lab.FloodSources4.Addr(), 28)

func (w *composeWorld) scan(ctx context.Context, target, unused netip.Addr) (r scan.Result, err error) {
	err = w.Call(ctx, "attacker", "Scan", scanOf(target, unused), &r)
	return r, err
}

// application is the container from which a machine's applications speak.
func application(machine string) string {
	if machine == "client" {
		return "app"
	}
	return machine
}

func (w *composeWorld) fetch(ctx context.Context, machine string, at netip.AddrPort) (s fleet.Sample) {
	if err := w.Call(ctx, application(machine), "Fetch", at, &s); err != nil {
		return fleet.Sample{Start: time.Now(), Err: err.Error()}
	}
	return s
}

func (w *composeWorld) packets(ctx context.Context, machine string) (count uint64, err error) {
	var since time.Time
	err = w.Wait(ctx, 15*time.Second, "the TUN falls silent", func() (bool, error) {
		var n uint64
		if err := w.Call(ctx, machine, "Packets", "ms0", &n); err != nil {
			return false, err
		}
		if n != count || since.IsZero() {
			count, since = n, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond, nil
	})
	return count, err
}

// Close implements world: it keeps the logs, removes everything, and looks whether that is so.
func (w *composeWorld) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	w.say("removing containers, networks, volumes and image")
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	states, err := w.States(ctx)
	errs := []error{err}
	for _, s := range states {
		w.containers++
		w.restarts += s.Restarts
	}
	if len(w.bridges) == 0 {
		w.bridges, err = w.Bridges(ctx)
		errs = append(errs, err)
	}
	errs = append(errs, w.SaveLogs(ctx, w.logs), w.Down(ctx))
	w.left, err = w.Left(ctx)
	host, skipped := container.LeftOnHost(ctx, w.bridges)
	w.left, w.noRules = append(w.left, host...), skipped
	for _, l := range w.left {
		w.say("left behind: %s", l)
	}
	return errors.Join(append(errs, err)...)
}

// figures are of the containers themselves.
func (w *composeWorld) figures() []figures.Figure {
	left := figures.Count("left.behind", "ms", phaseEnd, len(w.left), w.containers).AtMost(0)
	if w.noRules != "" {
		left = left.Label("host", w.noRules)
	}
	return []figures.Figure{
		figures.Count("containers.restarted", "ms", phaseEnd, w.restarts, w.containers).AtMost(0), left,
	}
}
