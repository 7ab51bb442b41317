package demo

import (
	"context"
	"fmt"
	"time"

	"migrationsensor/examples/lab/fleet"
)

// apart keeps what happens from being felt in the time of what happened before.
const apart = 500 * time.Millisecond

// killed kills the proxy that serves the client, as a machine dies that nobody has warned.
func (r *run) killed(ctx context.Context) error {
	name, err := r.serving(ctx)
	if err != nil {
		return err
	}
	if err := sleep(ctx, apart); err != nil {
		return err
	}
	r.begin(phaseKilled, fmt.Sprintf("death: %s, which serves the ssh session, is killed", name))
	if err := r.fleet.Kill(name); err != nil {
		return err
	}
	if err := r.elsewhere(ctx, name); err != nil {
		return err
	}
	if err := sleep(ctx, r.opts.Move); err != nil {
		return err
	}
	r.stop(phaseKilled)
	r.board.say("%s is started again", name)
	if err := r.fleet.Revive(name); err != nil {
		return err
	}
	for _, n := range r.fleet.Nodes() {
		if err := r.fleet.WaitForPeers(ctx, n); n.Name == name && err != nil {
			return err
		}
	}
	return nil
}

// drained drains the proxy that serves the client, as before maintenance.
func (r *run) drained(ctx context.Context) error {
	name, err := r.serving(ctx)
	if err != nil {
		return err
	}
	if err := sleep(ctx, apart); err != nil {
		return err
	}
	r.begin(phaseDrained, fmt.Sprintf("maintenance: %s, which serves the ssh session, is drained", name))
	if err := r.fleet.Drain(ctx, name); err != nil {
		return err
	}
	if err := r.elsewhere(ctx, name); err != nil {
		return err
	}
	if err := sleep(ctx, r.opts.Move); err != nil {
		return err
	}
	r.stop(phaseDrained)
	return nil
}

// serving is the proxy that serves the client.
func (r *run) serving(ctx context.Context) (name string, err error) {
	err = fleet.Wait(ctx, 10*time.Second, "the client is served", r.fleet.Children(), func() (bool, error) {
		st, err := r.fleet.AgentStatus(ctx, "client")
		if err != nil || st.Edge == nil {
			return false, err
		}
		name = fleet.NameOf(st.Edge.Addr)
		return st.State == "connected", fmt.Errorf("it is %q at %s", st.State, name)
	})
	return name, err
}

// elsewhere waits until the client is served by another proxy.
func (r *run) elsewhere(ctx context.Context, name string) error {
	return fleet.Wait(ctx, 30*time.Second, "the client is served by another proxy than "+name, r.fleet.Children(), func() (bool, error) {
		st, err := r.fleet.AgentStatus(ctx, "client")
		if err != nil || st.Edge == nil {
			return false, err
		}
		now := fleet.NameOf(st.Edge.Addr)
		return st.State == "connected" && now != name, fmt.Errorf("it is %q at %s", st.State, now)
	})
}

// begin and stop say when something happened to the sessions.
func (r *run) begin(kind, title string) { r.marks[kind] = &mark{from: r.board.enter(kind, title)} }

func (r *run) stop(kind string) { r.marks[kind].to = time.Now() }
