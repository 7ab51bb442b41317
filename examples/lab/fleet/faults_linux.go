package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"migrationsensor/examples/lab"
)

// find returns a program that runs, or nil.
func (f *Fleet) find(name string) *Child {
	i := slices.IndexFunc(f.children, func(c *Child) bool { return c.name == name })
	if i < 0 {
		return nil
	}
	return f.children[i]
}

// PID is a running program's, as the sandbox numbers it.
func (f *Fleet) PID(name string) (int, error) {
	c := f.find(name)
	if c == nil {
		return 0, fmt.Errorf("%s does not run", name)
	}
	return c.cmd.Process.Pid, nil
}

// Kill ends a program by SIGKILL: no word to anybody. What it did to its machine's firewall stays.
func (f *Fleet) Kill(name string) error {
	c := f.find(name)
	if c == nil {
		return fmt.Errorf("kill %s: it does not run", name)
	}
	f.children = slices.DeleteFunc(f.children, func(x *Child) bool { return x == c })
	if err := c.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	<-c.done
	return nil
}

// Signal sends a running program a signal: SIGSTOP and SIGCONT, mostly.
func (f *Fleet) Signal(name string, sig syscall.Signal) error {
	c := f.find(name)
	if c == nil {
		return fmt.Errorf("signal %s: it does not run", name)
	}
	if err := c.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("%v to %s: %w", sig, name, err)
	}
	return nil
}

// Revive starts a node's proxyd, which was stopped or killed, with the settings that it had; env is added to its environment.
func (f *Fleet) Revive(name string, env ...string) error {
	return f.run(f.Namespace(name), name, env, f.proxyd(), "run", "--config", f.dirs.of(name).Config)
}

// moveLimit is how long a command of a planned move watches the agents go.
const moveLimit = "25s"

// Drain has an edge send its agents on and take no others, as before maintenance: a planned move. It returns when they have gone.
func (f *Fleet) Drain(ctx context.Context, name string) error {
	return f.order(ctx, name, "drain", "--wait", moveLimit)
}

// Undrain puts an edge back into service.
func (f *Fleet) Undrain(ctx context.Context, name string) error {
	return f.order(ctx, name, "drain", "--undo")
}

// Home has an edge send its agents back to the entries among its neighbours. It returns when they have gone.
func (f *Fleet) Home(ctx context.Context, name string) error {
	return f.order(ctx, name, "home", "--wait", moveLimit)
}

// Migrate has an edge send all its agents to another edge. It returns when they have gone.
func (f *Fleet) Migrate(ctx context.Context, from, to string) error {
	return f.order(ctx, from, "migrate", "--all", "--to", to, "--wait", moveLimit)
}

// order is a command of proxyd to the one that runs, through its control socket.
func (f *Fleet) order(ctx context.Context, name, command string, args ...string) error {
	p := f.dirs.of(name)
	_, err := RunOnce(ctx, f.Namespace(name), p, f.proxyd(), append([]string{command, "--config", p.Config}, args...)...)
	return err
}

// ResetLinks resets every link of an edge: its agents get a RST, as from a middlebox that gave up. It says how many.
func (f *Fleet) ResetLinks(name string) (int, error) {
	n, err := f.Namespace(name).ResetTCP(lab.LinkPort)
	if err == nil && n == 0 {
		err = fmt.Errorf("reset the links of %s: it has none", name)
	}
	return n, err
}

// CrowdToken is the file of a token that any number of agents may use.
func (f *Fleet) CrowdToken(ctx context.Context) (file string, err error) {
	const name = "crowd"
	if _, err := os.Stat(f.dirs.token(name)); err == nil {
		return f.dirs.token(name), nil
	}
	return f.dirs.token(name), f.makeToken(ctx, name, "--role", "agent", "--open")
}

// Usage is what a program has used so far.
type Usage struct {
	RSS int64         // bytes
	CPU time.Duration // user and system
}

// Usage reads it out of /proc, which is the sandbox's own.
func (f *Fleet) Usage(name string) (u Usage, err error) {
	pid, err := f.PID(name)
	if err != nil {
		return u, err
	}
	return UsageOf(pid)
}

// UsageOf is Usage of any process of the sandbox.
func UsageOf(pid int) (u Usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // after the name; utime and stime are fields 14 and 15 of the line
	fields := strings.Fields(rest)
	if len(fields) < 22 {
		return u, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 everywhere
	var errs []error
	number := func(i int) int64 {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		errs = append(errs, err)
		return n
	}
	u.CPU = time.Duration(number(11)+number(12)) * tick
	u.RSS = number(21) * int64(os.Getpagesize())
	return u, errors.Join(errs...)
}

// CutPeers loses what goes between two nodes on the backplane, both ways. undo joins them again.
func (f *Fleet) CutPeers(a, b string) (undo func() error, err error) {
	undos := []func() error{}
	undo = func() error {
		var errs []error
		for _, u := range undos {
			errs = append(errs, u())
		}
		return errors.Join(errs...)
	}
	for _, x := range [][2]string{{a, b}, {b, a}} {
		u, err := f.Namespace(x[0]).Drop(netip.Prefix{}, netip.PrefixFrom(placeOf(x[1]).backplane.Addr(), 32))
		if err != nil {
			return undo, errors.Join(fmt.Errorf("cut %s off from %s: %w", x[0], x[1], err), undo())
		}
		undos = append(undos, u)
	}
	return undo, nil
}
