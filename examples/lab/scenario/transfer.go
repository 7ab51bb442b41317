package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
)

// Transferred is a newcomer in the middle of a flood: it knows only P1, whose SYN Checker proves it real and sends it on;
// it knocks at the next proxy, which was dark until then.
func Transferred(ctx context.Context, w World) error {
	at, _ := lab.P1.Port(lab.WebPort)
	link, _ := lab.P1.Port(lab.LinkPort)
	if err := w.StartAgent("fresh", "warm"); err != nil {
		return err
	}
	if err := w.WaitForAgent(ctx, "fresh", patience); err != nil {
		return err
	}
	if err := w.Stop("fresh"); err != nil {
		return err
	}
	attack, stop := context.WithCancel(ctx)
	flooded := make(chan error, 1)
	go func() {
		_, err := w.Attack(attack, fleet.Attack{Kind: flood.SYN, Rate: 2000, Time: time.Minute, Target: link})
		flooded <- err
	}()
	err := transferred(ctx, w)
	stop()
	err = errors.Join(err, <-flooded)
	if err != nil {
		return err
	}
	if s := Fetch(ctx, w, "fresh", at, "/file", fleet.FetchLimit); !s.OK() {
		return fmt.Errorf("download after the transfer: %+v", s)
	}
	return nil
}

func transferred(ctx context.Context, w World) error {
	err := w.Wait(ctx, patience, "P1 defends itself", func() (bool, error) {
		st, err := w.ProxyStatus(ctx, "p1")
		return st.State == "defending" || st.State == "suspended", errors.Join(err, fmt.Errorf("it is %q at %v", st.State, st.Rates))
	})
	if err != nil {
		return err
	}
	if err := w.StartAgent("fresh", "warm"); err != nil {
		return err
	}
	if err := w.WaitForAgent(ctx, "fresh", patience); err != nil {
		return err
	}
	st, err := w.AgentStatus(ctx, "fresh")
	if err != nil {
		return err
	}
	p1, err := w.ProxyStatus(ctx, "p1")
	if err != nil {
		return err
	}
	if st.Edge == nil || fleet.NameOf(st.Edge.Addr) == "p1" || st.Counts.Transfers == 0 || p1.Counts["transfers"] == 0 {
		return fmt.Errorf("the newcomer is at %+v after %d transfers; P1's SYN Checker sent %d", st.Edge, st.Counts.Transfers, p1.Counts["transfers"])
	}
	return nil
}
