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

// Limits of a step that needs no time by itself: a machine that is busy with other tests.
const patience = 20 * time.Second

// Flooded is the main job in small: enrol, connect, download in peace; P1 is flooded, says so and moves its client on;
// new connections go on working meanwhile, by another proxy, with the right bytes. A download that began in peace goes on
// to its end if resumes is set.
func Flooded(ctx context.Context, w World, resumes bool) error {
	at, _ := lab.P1.Port(lab.WebPort)
	if err := w.StartAgent("client", "warm"); err != nil {
		return err
	}
	if err := w.WaitForAgent(ctx, "client", patience); err != nil {
		return err
	}
	if s := Fetch(ctx, w, "client", at, "/file", fleet.FetchLimit); !s.OK() {
		return fmt.Errorf("download in peace: %+v", s)
	}
	slow, give := context.WithCancel(ctx)
	defer give()
	long := make(chan fleet.Sample, 1)
	go func() { long <- Fetch(slow, w, "client", at, "/slow", time.Minute) }()
	attack, stop := context.WithCancel(ctx)
	flooded := make(chan error, 1)
	go func() {
		_, err := w.Attack(attack, fleet.Attack{Kind: flood.SYN, Rate: 2000, Time: time.Minute, Target: at})
		flooded <- err
	}()
	err := moved(ctx, w)
	stop()
	err = errors.Join(err, <-flooded)
	if !resumes || err != nil {
		give()
	}
	s := <-long
	if resumes && !s.OK() {
		err = errors.Join(err, fmt.Errorf("download through the flood: %+v", s))
	}
	return err
}

// moved waits until P1 defends and its client is served elsewhere, and connects anew.
func moved(ctx context.Context, w World) error {
	err := w.Wait(ctx, patience, "P1 defends itself", func() (bool, error) {
		st, err := w.ProxyStatus(ctx, "p1")
		return st.State == "defending" || st.State == "suspended", errors.Join(err, fmt.Errorf("it is %q at %v", st.State, st.Rates))
	})
	if err != nil {
		return err
	}
	err = w.Wait(ctx, patience, "the client is served by another proxy", func() (bool, error) {
		st, err := w.AgentStatus(ctx, "client")
		if err != nil || st.Edge == nil {
			return false, err
		}
		by := fleet.NameOf(st.Edge.Addr)
		return by != "p1", fmt.Errorf("it is served by %s", by)
	})
	if err != nil {
		return err
	}
	v4, v6 := lab.P1.Port(lab.WebPort)
	for range 3 {
		if s := Fetch(ctx, w, "client", v4, "/file", fleet.FetchLimit); !s.OK() {
			return fmt.Errorf("download during the flood, IPv4: %+v", s)
		}
		if s := Fetch(ctx, w, "client", v6, "/file", fleet.FetchLimit); !s.OK() {
			return fmt.Errorf("download during the flood, IPv6: %+v", s)
		}
	}
	return nil
}
