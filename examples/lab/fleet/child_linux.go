package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"migrationsensor/examples/lab/kernel"
)

// Child is a program of ours that runs in a namespace until the run ends. Its output goes to a
// log file that stays.
type Child struct {
	name  string
	paths Paths
	cmd   *exec.Cmd
	done  chan struct{} // closed when it ended
	err   error         // valid after done
}

// Start starts a program; it is an error later if it ends before Stop.
func Start(ns *kernel.Namespace, name string, p Paths, program string, args ...string) (*Child, error) {
	return start(ns, name, p, nil, program, args...)
}

func start(ns *kernel.Namespace, name string, p Paths, env []string, program string, args ...string) (*Child, error) {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	fmt.Fprintf(log, "# %s %s\n", filepath.Base(program), strings.Join(args, " "))
	c := &Child{name: name, paths: p, cmd: exec.Command(program, args...), done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if len(env) > 0 {
		c.cmd.Env = append(os.Environ(), env...)
	}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for us, who stop it in order
	if err := ns.Start(c.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// Ended reports whether the program has ended, which it should not by itself.
func (c *Child) Ended() error {
	select {
	case <-c.done:
		return fmt.Errorf("%s ended by itself (%v); the end of %s:\n%s", c.name, c.err, c.paths.Log, tail(c.paths.Log, 12))
	default:
		return nil
	}
}

// Stop asks the program to end and kills it after limit.
func (c *Child) Stop(limit time.Duration) error {
	if c.Ended() != nil {
		return nil
	}
	_ = c.cmd.Process.Signal(syscall.SIGCONT) // a stopped one would not hear
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-time.After(limit):
		_ = c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("%s did not stop within %v and was killed", c.name, limit)
	}
}

// RunOnce runs a program to its end and returns what it printed; its failure carries that too.
func RunOnce(ctx context.Context, ns *kernel.Namespace, p Paths, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := ns.Output(ctx, program, args...)
	line := fmt.Sprintf("# %s %s\n%s\n", filepath.Base(program), strings.Join(args, " "), out)
	if log, openErr := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); openErr == nil {
		_, _ = log.WriteString(line)
		log.Close()
	}
	if err != nil {
		return out, fmt.Errorf("%s %s in %s: %w: %s", filepath.Base(program), args[0], ns.Name, err, strings.TrimSpace(out))
	}
	return out, nil
}

// tail is the end of a log.
func tail(file string, lines int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return "  " + string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n  ")))
}

// Wait waits until ok, at most for limit; living must live meanwhile. The error that ok returns with
// false is told if the time runs out.
func Wait(ctx context.Context, limit time.Duration, what string, living []*Child, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %v", limit))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		yes, err := ok()
		if yes {
			return nil
		}
		last = err
		for _, c := range living {
			if err := c.Ended(); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: %w", what, context.Cause(ctx)), last)
		case <-tick.C:
		}
	}
}

// Pipes joins a program's standard output and input, to speak net/rpc with it.
type Pipes struct {
	io.ReadCloser
	In io.WriteCloser
}

func (p Pipes) Write(b []byte) (int, error) { return p.In.Write(b) }

// Close ends both.
func (p Pipes) Close() error { return errors.Join(p.In.Close(), p.ReadCloser.Close()) }
