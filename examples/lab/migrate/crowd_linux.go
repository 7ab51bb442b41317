package migrate

import (
	"context"
	"errors"
	"fmt"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
)

// site is where a crowd moves about: the fleet on the real kernel, or the world in memory.
type site interface {
	Nodes() []fleet.Node
	Migrate(ctx context.Context, from, to string) error
	Wait(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error
}

// onKernel is a fleet as a site.
type onKernel struct{ *fleet.Fleet }

func (f onKernel) Wait(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error {
	return fleet.Wait(ctx, limit, what, f.Children(), ok)
}

// crowd is a process of many agents and how to ask it.
type crowd struct {
	site   site
	cmd    *exec.Cmd // nil: it is in this process
	client *rpc.Client
	agents int
}

// newCrowd starts agents in the crowd's namespace and connects each to the echo. first numbers them, so that a later crowd has
// other addresses and keys.
func newCrowd(ctx context.Context, f *fleet.Fleet, ns *kernel.Namespace, agents, first int, how rhythm, limit time.Duration) (*crowd, error) {
	token, err := f.CrowdToken(ctx)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(f.Paths("crowd").Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := &crowd{site: onKernel{f}, cmd: exec.Command(f.Lab(), "crowd"), agents: agents}
	c.cmd.Stderr = log
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := ns.Start(c.cmd); err != nil {
		return nil, fmt.Errorf("start the crowd: %w", err)
	}
	c.client = rpc.NewClient(fleet.Pipes{ReadCloser: out, In: in})
	return c, c.join(ctx, app.CrowdConfig{
		Watched: how.watched, Every: how.every, Rarely: how.rarely, Token: token, State: filepath.Join(f.Work(), "crowd"), Source: lab.Crowd4, First: first, Limit: limit,
	})
}

// join starts the agents, each with a connection to the echo.
func (c *crowd) join(ctx context.Context, cfg app.CrowdConfig) error {
	cfg.Agents = c.agents
	cfg.To, _ = lab.P1.Port(lab.EchoPort)
	n := 0
	if err := c.call(ctx, "Join", cfg, &n); err != nil {
		return errors.Join(fmt.Errorf("%d agents join: %w", c.agents, err), c.close())
	}
	return nil
}

// call asks the process and waits, ctx at most.
func (c *crowd) call(ctx context.Context, method string, args, reply any) error {
	done := c.client.Go("Crowd."+method, args, reply, make(chan *rpc.Call, 1)).Done
	select {
	case call := <-done:
		return call.Error
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *crowd) places(ctx context.Context) (all []app.Place, err error) {
	err = c.call(ctx, "Places", struct{}{}, &all)
	return all, err
}

// end ends every connection cleanly.
func (c *crowd) end(ctx context.Context) (e app.Ended, err error) {
	err = c.call(ctx, "End", struct{}{}, &e)
	return e, err
}

// close ends the process.
func (c *crowd) close() error {
	err := c.client.Close()
	if c.cmd == nil {
		return err
	}
	_ = c.cmd.Process.Kill() // mostly it has seen the end of its input
	_ = c.cmd.Wait()         // and was killed or not: all the same
	if errors.Is(err, rpc.ErrShutdown) {
		return nil
	}
	return err
}

// at counts agents by the proxy to which a link of theirs leads.
func at(all []app.Place, link func(app.Place) string) map[string]int {
	n := map[string]int{}
	for _, p := range all {
		n[fleet.NameOf(link(p))]++
	}
	return n
}

func control(p app.Place) string { return p.Control }
func data(p app.Place) string    { return p.Data }

// waitAt waits until all agents have both links at a proxy.
func (c *crowd) waitAt(ctx context.Context, proxy string, limit time.Duration) error {
	return c.site.Wait(ctx, limit, fmt.Sprintf("%d agents are at %s", c.agents, proxy), seldom(func() (bool, error) {
		all, err := c.places(ctx)
		if err != nil {
			return false, err
		}
		controls, datas := at(all, control), at(all, data)
		return controls[proxy] == c.agents && datas[proxy] == c.agents, fmt.Errorf("control links at %v, data links at %v", controls, datas)
	}))
}

// seldom asks so seldom that asking takes no twentieth of the time: it would be what is measured.
func seldom(ask func() (bool, error)) func() (bool, error) {
	var next time.Time
	var last error
	return func() (ok bool, _ error) {
		began := time.Now()
		if began.Before(next) {
			return false, last
		}
		ok, last = ask()
		next = time.Now().Add(20 * time.Since(began))
		return ok, last
	}
}

// gather brings all agents to a proxy, from wherever they are.
func (c *crowd) gather(ctx context.Context, proxy string) error {
	limit := 40*time.Second + time.Duration(c.agents)*10*time.Millisecond
	return c.site.Wait(ctx, limit, fmt.Sprintf("%d agents gather at %s", c.agents, proxy), func() (bool, error) {
		all, err := c.places(ctx)
		if err != nil {
			return false, err
		}
		where := at(all, control)
		var errs []error
		for from := range where {
			if from == proxy || !known(c.site, from) {
				continue
			}
			if err := c.site.Migrate(ctx, from, proxy); err != nil {
				errs = append(errs, err)
			}
		}
		if err := c.waitAt(ctx, proxy, 4*time.Second+time.Duration(c.agents)*5*time.Millisecond); err != nil {
			return false, errors.Join(append(errs, err)...)
		}
		return true, nil
	})
}

func known(f site, name string) bool {
	return slices.ContainsFunc(f.Nodes(), func(n fleet.Node) bool { return n.Name == name })
}
