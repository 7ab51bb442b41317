package memory

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"migrationsensor/agent"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/netstack/memnet"
	"migrationsensor/proxyd"
)

// program is one of ours that runs on a host.
type program struct {
	name   string
	proc   *memnet.Process
	kill   func() // what the process had of its machine is gone
	tell   func() string
	status func(ctx context.Context, into any) error
	forget func(context.Context) error                                                // agents
	move   func(context.Context, proxyd.MoveRequest, func(proxyd.MoveProgress)) error // proxies

	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid after done
}

// start runs a program until Stop, Kill or Close.
func (p *program) start(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan struct{})
	go func() {
		defer close(p.done)
		p.err = run(ctx)
	}()
}

// ended reports whether it has ended, which it should not by itself.
func (p *program) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended by itself: %v", p.name, p.err)
	default:
		return nil
	}
}

// stopLimit is how long a program may take to end when it is asked to.
const stopLimit = 15 * time.Second

func (p *program) stop() error {
	p.proc.Continue()
	p.cancel()
	select {
	case <-p.done:
		p.proc.Kill() // a process that is gone has no sockets
		return p.err
	case <-time.After(stopLimit):
		return fmt.Errorf("%s did not stop within %v", p.name, stopLimit)
	}
}

// proxy makes a node's program.
func (w *World) proxy(name, config string) (*program, error) {
	paths := w.paths(name)
	if err := os.WriteFile(paths.Config, []byte(config), 0o600); err != nil {
		return nil, err
	}
	cfg, err := proxyd.LoadConfig(paths.Config)
	if err != nil {
		return nil, err
	}
	h := w.net.Host(name)
	m := &machine{proc: h.Spawn(), gates: w.gates[name]}
	node, err := proxyd.NewOn(m, cfg, w.log.With("at", name))
	if err != nil {
		return nil, err
	}
	p := &program{name: name, proc: m.proc, kill: m.kill, move: node.Move, tell: node.Describe, status: func(ctx context.Context, into any) error {
		return fleet.Control(ctx, paths.Socket, "GET", "/status", into)
	}}
	p.start(node.Run)
	return p, nil
}

// agent makes an agent's program.
func (w *World) agent(name, probe, token string) (*program, error) {
	paths := w.paths(name)
	if err := os.WriteFile(paths.Config, []byte(w.cfg.AgentText(paths, probe)), 0o600); err != nil {
		return nil, err
	}
	cfg, err := agent.LoadConfig(paths.Config)
	if err != nil {
		return nil, err
	}
	cfg.Token, cfg.Socket = token, "" // read directly
	proc := w.net.Host(name).Spawn()
	a, err := agent.New(cfg, system(proc, w.log.With("at", name)))
	if err != nil {
		return nil, err
	}
	p := &program{name: name, proc: proc, kill: proc.Kill, forget: a.Forget, tell: a.Describe, status: func(_ context.Context, into any) error {
		b, err := json.Marshal(a.Status()) // as its control socket would
		if err != nil {
			return err
		}
		return json.Unmarshal(b, into)
	}}
	p.start(a.Run)
	return p, nil
}

func discard(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
