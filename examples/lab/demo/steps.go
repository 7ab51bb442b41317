package demo

import (
	"context"
	"fmt"
	"time"

	"migrationsensor/examples/lab/fleet"
)

// apart keeps what happens from being felt in the time of what happened before.
const apart = 500 * time.Millisecond

// killed kills the proxy that serves the client, as a machine dies that nobody has warned, and starts it again.
func (r *run) killed(ctx context.Context) error { return r.kill(ctx, phaseKilled) }

func (r *run) kill(ctx context.Context, phase string) error {
	return r.away(ctx, phase, "death: %s, which serves the ssh session, is killed", func(name string) error {
		return r.world.Kill(name)
	}, func(name string) error {
		r.board.say("%s is started again", name)
		if err := r.world.Start(name); err != nil {
			return err
		}
		return r.peers(ctx)
	})
}

// orphaned kills the next one too, which is the first entry, if the run wants that: its agents have nobody left to be told by, but
// the other entry.
func (r *run) orphaned(ctx context.Context) error {
	if !r.opts.entryDies {
		return nil
	}
	return r.kill(ctx, phaseOrphan)
}

// drained drains the proxy that serves the client, as before maintenance, and puts it back into service.
func (r *run) drained(ctx context.Context) error {
	return r.away(ctx, phaseDrained, "maintenance: %s, which serves the ssh session, is drained", func(name string) error {
		return r.world.Drain(ctx, name)
	}, func(name string) error {
		r.board.say("%s is back in service", name)
		return r.world.Undrain(ctx, name)
	})
}

// home has the proxy that serves the client send everybody back to the entries.
func (r *run) home(ctx context.Context) error {
	return r.away(ctx, phaseHome, "home: %s sends its clients back to the entries", func(name string) error {
		return r.world.Home(ctx, name)
	}, nil)
}

// away has something happen to the proxy that serves the client, waits until another one does, and lets some time pass; undo,
// if there is one, comes last.
func (r *run) away(ctx context.Context, phase, title string, happen, undo func(name string) error) error {
	name, err := r.serving(ctx, "")
	if err != nil {
		return err
	}
	if err := sleep(ctx, apart); err != nil {
		return err
	}
	r.board.open(phase, fmt.Sprintf(title, name))
	if err := happen(name); err != nil {
		return err
	}
	if _, err := r.serving(ctx, name); err != nil {
		return err
	}
	if err := sleep(ctx, r.opts.Move); err != nil {
		return err
	}
	r.board.close(phase)
	if undo == nil {
		return nil
	}
	return undo(name)
}

// serving is the proxy that serves the client, another one than not.
func (r *run) serving(ctx context.Context, not string) (name string, err error) {
	what := "the client is served"
	if not != "" {
		what += " by another proxy than " + not
	}
	err = r.world.Wait(ctx, 30*time.Second, what, func() (bool, error) {
		st, err := r.world.AgentStatus(ctx, "client")
		if err != nil {
			return false, err
		}
		name = fleet.NameOf(st.ServedBy())
		return st.State == "connected" && name != "" && name != not, fmt.Errorf("it is %q at %s", st.State, name)
	})
	return name, err
}

// peers waits until every node sees its peers again.
func (r *run) peers(ctx context.Context) error {
	cfg := r.opts.fleet()
	for _, n := range cfg.Nodes {
		err := r.world.Wait(ctx, 15*time.Second, n.Name+" sees its peers", func() (bool, error) {
			st, err := r.world.ProxyStatus(ctx, n.Name)
			if err != nil {
				return false, err
			}
			missing := cfg.Missing(n, st)
			return len(missing) == 0, fmt.Errorf("it does not see %v", missing)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
