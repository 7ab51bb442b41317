package scenario

import (
	"context"
	"fmt"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
)

// Restarted is P1 killed and started again: it has forgotten nothing that matters, and its client comes back by itself.
func Restarted(ctx context.Context, w Mortal) error {
	at, _ := lab.P1.Port(lab.WebPort)
	if err := w.StartAgent("client", "warm"); err != nil {
		return err
	}
	if err := w.WaitForAgent(ctx, "client", patience); err != nil {
		return err
	}
	before, err := w.AgentStatus(ctx, "client")
	if err != nil {
		return err
	}
	if err := w.Kill("p1"); err != nil {
		return err
	}
	if s := Fetch(ctx, w, "plain", at, "/file", fleet.FetchLimit); s.Connected {
		return fmt.Errorf("a killed proxy takes connections: %+v", s)
	}
	if err := w.Start("p1"); err != nil {
		return err
	}
	return comesBack(ctx, w, before.Edge.Since)
}

// Cut is every link of P1 cut by resets: the client makes new ones at once, by itself.
func Cut(ctx context.Context, w Mortal) error {
	if err := w.StartAgent("client", "warm"); err != nil {
		return err
	}
	if err := w.WaitForAgent(ctx, "client", patience); err != nil {
		return err
	}
	before, err := w.AgentStatus(ctx, "client")
	if err != nil {
		return err
	}
	if n, err := w.ResetLinks("p1"); err != nil || n < 2 {
		return fmt.Errorf("cut %d links (%v), want a control link and a data link at least", n, err)
	}
	return comesBack(ctx, w, before.Edge.Since)
}

// Frozen is P1 stopped as by SIGSTOP: its kernel takes connections and acknowledges, and nobody is there. Thawed, it goes on.
func Frozen(ctx context.Context, w Mortal) error {
	at, _ := lab.P1.Port(lab.WebPort)
	if err := w.Freeze("p1"); err != nil {
		return err
	}
	s := Fetch(ctx, w, "plain", at, "/file", 2*time.Second)
	if err := w.Thaw("p1"); err != nil {
		return err
	}
	if !s.Connected || s.Whole {
		return fmt.Errorf("at a stopped proxy connect() succeeds and nothing follows: got %+v", s)
	}
	if s := Fetch(ctx, w, "plain", at, "/file", fleet.FetchLimit); !s.OK() {
		return fmt.Errorf("after SIGCONT: %+v", s)
	}
	return nil
}

// comesBack waits until the client has a younger control link than that, and downloads.
func comesBack(ctx context.Context, w World, since time.Time) error {
	at, _ := lab.P1.Port(lab.WebPort)
	err := w.Wait(ctx, 2*patience, "the client is back", func() (bool, error) {
		st, err := w.AgentStatus(ctx, "client")
		if err != nil {
			return false, err
		}
		return st.State == "connected" && st.Edge != nil && st.Edge.Since.After(since), fmt.Errorf("it is %q: %s", st.State, st.Why)
	})
	if err != nil {
		return err
	}
	if s := Fetch(ctx, w, "client", at, "/file", fleet.FetchLimit); !s.OK() {
		return fmt.Errorf("download after it: %+v", s)
	}
	return nil
}
