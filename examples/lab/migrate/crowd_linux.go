package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// crowd is a process of many agents and how to ask it.
type crowd struct {
	cmd    *exec.Cmd
	client *rpc.Client
	agents int
}

// pipes joins a process's standard output and input.
type pipes struct {
	io.ReadCloser
	in io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.in.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.in.Close(), p.ReadCloser.Close()) }

// newCrowd starts agents in the crowd's namespace and connects each to the echo. first numbers them, so that a later crowd has
// other addresses and keys.
func newCrowd(ctx context.Context, f *fleet.Fleet, ns *kernel.Namespace, agents, watched, first int, limit time.Duration) (*crowd, error) {
	token, err := f.CrowdToken(ctx)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(f.Paths("crowd").Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := &crowd{cmd: exec.Command(f.Lab(), "crowd"), agents: agents}
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
	c.client = rpc.NewClient(pipes{out, in})
	to, _ := lab.P1.Port(lab.EchoPort)
	n := 0
	err = c.call(ctx, "Join", app.CrowdConfig{
		Agents: agents, Watched: watched, Every: every, Rarely: rarely, Token: token, State: filepath.Join(f.Work(), "crowd"),
		Source: lab.Crowd4, First: first, To: to, Limit: limit,
	}, &n)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%d agents join: %w", agents, err), c.close())
	}
	return c, nil
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
func (c *crowd) waitAt(ctx context.Context, f *fleet.Fleet, proxy string, limit time.Duration) error {
	return fleet.Wait(ctx, limit, fmt.Sprintf("%d agents are at %s", c.agents, proxy), f.Children(), func() (bool, error) {
		all, err := c.places(ctx)
		if err != nil {
			return false, err
		}
		controls, datas := at(all, control), at(all, data)
		return controls[proxy] == c.agents && datas[proxy] == c.agents, fmt.Errorf("control links at %v, data links at %v", controls, datas)
	})
}

// gather brings all agents to a proxy, from wherever they are.
func (c *crowd) gather(ctx context.Context, f *fleet.Fleet, proxy string) error {
	return fleet.Wait(ctx, 40*time.Second, fmt.Sprintf("%d agents gather at %s", c.agents, proxy), f.Children(), func() (bool, error) {
		all, err := c.places(ctx)
		if err != nil {
			return false, err
		}
		where := at(all, control)
		var errs []error
		for from := range where {
			if from == proxy || !known(f, from) {
				continue
			}
			if err := f.Migrate(ctx, from, proxy); err != nil {
				errs = append(errs, err)
			}
		}
		if err := c.waitAt(ctx, f, proxy, 4*time.Second); err != nil {
			return false, errors.Join(append(errs, err)...)
		}
		return true, nil
	})
}

func known(f *fleet.Fleet, name string) bool {
	return slices.ContainsFunc(f.Nodes(), func(n fleet.Node) bool { return n.Name == name })
}
