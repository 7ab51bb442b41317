package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"migrationsensor/examples/lab/fleet"
)

// ErrNoEngine says that containers can't be had here; what wraps it says why.
var ErrNoEngine = errors.New("no docker engine here")

// Prefix is how every container of the demo is called before its own name.
const Prefix = "ms-"

// Engine speaks to docker and to docker-compose by their commands, and reaches into the demo's containers.
type Engine struct {
	dir     string   // examples/compose
	compose []string // docker-compose, or docker compose
	env     []string
	log     io.Writer // what was called, and what it said

	mu    sync.Mutex
	hands map[string]*hand
	away  map[string]bool // containers that were stopped or killed on purpose
}

// hand is a Hand in a container, as we hold it.
type hand struct {
	*rpc.Client
	cmd *exec.Cmd
}

// NewEngine finds the engine and compose. env is added to compose's environment.
func NewEngine(ctx context.Context, dir string, log io.Writer, env ...string) (*Engine, error) {
	e := &Engine{dir: dir, env: env, log: log, hands: map[string]*hand{}, away: map[string]bool{}}
	if _, err := os.Stat(filepath.Join(dir, "compose.yaml")); err != nil {
		return nil, fmt.Errorf("%w: name the folder examples/compose with --dir, or run it where the project is", err)
	}
	if _, err := exec.LookPath("docker"); err != nil {
		return nil, fmt.Errorf("%w: there is no docker (Debian: apt-get install docker.io docker-compose)", ErrNoEngine)
	}
	if out, err := e.Docker(ctx, "version", "--format", "{{.Server.Version}}"); err != nil {
		return nil, fmt.Errorf("%w: docker does not reach it: %s (start dockerd, or run as a user of the group docker)", ErrNoEngine, strings.TrimSpace(out))
	}
	for _, c := range [][]string{{"docker-compose"}, {"docker", "compose"}} {
		if err := exec.CommandContext(ctx, c[0], append(c[1:len(c):len(c)], "version")...).Run(); err == nil {
			e.compose = c
			return e, nil
		}
	}
	return nil, fmt.Errorf("%w: there is docker, but neither docker-compose nor docker compose (Debian: apt-get install docker-compose)", ErrNoEngine)
}

// Docker runs a docker command and returns what it printed.
func (e *Engine) Docker(ctx context.Context, args ...string) (string, error) {
	return e.run(ctx, exec.CommandContext(ctx, "docker", args...))
}

// Compose runs a command of compose.
func (e *Engine) Compose(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, e.compose[0], append(e.compose[1:len(e.compose):len(e.compose)], args...)...)
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), e.env...)
	return e.run(ctx, cmd)
}

func (e *Engine) run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ownGroup(cmd) // a terminal's Ctrl-C is for us, who end it in order
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	text := out.String()
	e.mu.Lock()
	fmt.Fprintf(e.log, "# %s\n%s", strings.Join(cmd.Args, " "), text)
	e.mu.Unlock()
	if err != nil {
		return text, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), errors.Join(ctx.Err(), err), lastLines(text, 6))
	}
	return text, nil
}

func lastLines(s string, n int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n  ")
}

// Exec runs a program in a container.
func (e *Engine) Exec(ctx context.Context, name string, args ...string) (string, error) {
	return e.Docker(ctx, append([]string{"exec", Prefix + name}, args...)...)
}

// Attach prepares a program in a container, with standard input.
func Attach(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("docker", append([]string{"exec", "-i", Prefix + name}, args...)...)
	ownGroup(cmd)
	return cmd
}

// Kill kills a container: its programs get no word. Stop asks them to end. Start starts it again.
func (e *Engine) Kill(ctx context.Context, name string) error {
	return e.leave(ctx, name, "kill", Prefix+name)
}

// Stop asks a container's programs to end.
func (e *Engine) Stop(ctx context.Context, name string) error {
	return e.leave(ctx, name, "stop", "-t", "5", Prefix+name)
}

func (e *Engine) leave(ctx context.Context, name string, args ...string) error {
	e.mu.Lock()
	e.away[name] = true
	h := e.hands[name]
	delete(e.hands, name)
	e.mu.Unlock()
	_, err := e.Docker(ctx, args...)
	if h != nil {
		h.end()
	}
	return err
}

// Start starts a container that was killed or stopped; of one that runs nothing happens.
func (e *Engine) Start(ctx context.Context, name string) error {
	if _, err := e.Docker(ctx, "start", Prefix+name); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.away, name)
	return nil
}

// errAway says that a container was stopped on purpose.
var errAway = errors.New("it is stopped")

// Call calls a method of the Hand in a container.
func (e *Engine) Call(ctx context.Context, name, method string, args, out any) error {
	h, err := e.hand(name)
	if err != nil {
		return err
	}
	call := h.Go("Hand."+method, args, out, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if err = call.Error; errors.Is(err, rpc.ErrShutdown) || errors.Is(err, io.ErrUnexpectedEOF) {
			e.drop(name, h)
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *Engine) hand(name string) (*hand, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.away[name] {
		return nil, errAway
	}
	if h := e.hands[name]; h != nil {
		return h, nil
	}
	cmd := Attach(name, "ms-lab", "container", "hand")
	in, ierr := cmd.StdinPipe()
	out, oerr := cmd.StdoutPipe()
	cmd.Stderr = e.log
	if err := errors.Join(ierr, oerr); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h := &hand{rpc.NewClient(pipes{out, in}), cmd}
	e.hands[name] = h
	return h, nil
}

type pipes struct {
	io.Reader
	io.WriteCloser
}

// end closes standard input, which ends the Hand and what it does.
func (h *hand) end() {
	_ = h.Close() // it may be gone
	timer := time.AfterFunc(5*time.Second, func() { _ = h.cmd.Process.Kill() })
	defer timer.Stop()
	_ = h.cmd.Wait() // its status is nobody's
}

func (e *Engine) drop(name string, h *hand) {
	e.mu.Lock()
	mine := e.hands[name] == h
	if mine {
		delete(e.hands, name)
	}
	e.mu.Unlock()
	if mine {
		h.end()
	}
}

// EndHands ends what we do in every container.
func (e *Engine) EndHands() {
	e.mu.Lock()
	hands := e.hands
	e.hands = map[string]*hand{}
	e.mu.Unlock()
	var all sync.WaitGroup
	for _, h := range hands {
		all.Go(h.end)
	}
	all.Wait()
}

// Control asks on the control socket of the program in a container.
func (e *Engine) Control(ctx context.Context, name, socket, method, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var raw []byte
	if err := e.Call(ctx, name, "Control", Ask{socket, method, path}, &raw); err != nil || into == nil {
		return err
	}
	return decode(raw, into)
}

// ProxyStatus is a proxyd's.
func (e *Engine) ProxyStatus(ctx context.Context, name string) (st fleet.ProxyStatus, err error) {
	err = e.Control(ctx, name, ProxydSocket, "GET", "/status", &st)
	return st, err
}

// AgentStatus is an agent's.
func (e *Engine) AgentStatus(ctx context.Context, name string) (st fleet.AgentStatus, err error) {
	err = e.Control(ctx, name, AgentSocket, "GET", "/status", &st)
	return st, err
}

// Trouble returns an error if a container has ended that should run.
func (e *Engine) Trouble(ctx context.Context) error {
	states, err := e.States(ctx)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range states {
		name := strings.TrimPrefix(s.Name, Prefix)
		if s.Running || e.away[name] || s.Exit == 0 && once[name] {
			continue
		}
		return fmt.Errorf("the container %s has ended by itself with status %d", s.Name, s.Exit)
	}
	return nil
}

// once are the containers that do one thing and end.
var once = map[string]bool{"operator": true, "tokens": true}

// State is a container's.
type State struct {
	Name     string
	Running  bool
	Exit     int
	Restarts int
}

// States lists the demo's containers.
func (e *Engine) States(ctx context.Context) (all []State, err error) {
	ids, err := e.list(ctx, "ps", "-aq", "--filter", projectFilter)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	out, err := e.Docker(ctx, append([]string{"inspect", "--format", "{{.Name}} {{.State.Running}} {{.State.ExitCode}} {{.RestartCount}}"}, ids...)...)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		var s State
		if _, err := fmt.Sscan(line, &s.Name, &s.Running, &s.Exit, &s.Restarts); err != nil {
			return nil, fmt.Errorf("docker inspect says %q: %w", line, err)
		}
		s.Name = strings.TrimPrefix(s.Name, "/")
		all = append(all, s)
	}
	return all, nil
}

func (e *Engine) list(ctx context.Context, args ...string) ([]string, error) {
	out, err := e.Docker(ctx, args...)
	return strings.Fields(out), err
}

// SaveLogs writes each container's log to a file.
func (e *Engine) SaveLogs(ctx context.Context, dir string) error {
	states, err := e.States(ctx)
	errs := []error{err}
	for _, s := range states {
		out, err := exec.CommandContext(ctx, "docker", "logs", s.Name).CombinedOutput()
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, strings.TrimPrefix(s.Name, Prefix)+".log"), out, 0o644))
	}
	return errors.Join(errs...)
}
