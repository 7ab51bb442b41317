package edge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
)

// The real agent's link: what it carries must be its own limit and not that of the processor, which it shares with the storm.
var agentLink = kernel.Conditions{Delay: time.Millisecond, Rate: 20e6}

const (
	agentName    = "client"
	agentStreams = 10
)

// sentOn measures a real agent: downloads in peace, then, while its edge is flooded as hard as this machine can and it has been sent
// to the next one, downloads again. Sessions are open all the while.
func (r *run) sentOn(ctx context.Context, path string) (err error) {
	s := r.stage
	r.progress.Enter("%s: a real agent in peace", path)
	if err := s.agentAtP1(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop(agentName)) }()
	m := moved{path: path}
	echo, web := netip.AddrPortFrom(lab.P1.V4, lab.EchoPort), netip.AddrPortFrom(lab.P1.V4, lab.WebPort)
	var open int
	if err := s.user.ask(ctx, "Hold", HoldArgs{To: echo, N: agentStreams}, &open); err != nil {
		return err
	}
	fetch := Fetch{URL: "http://" + web.String() + "/", Time: r.sizes.quiet, Patience: 10 * time.Second}
	first, cold := fetch, Got{} // the agent gets to know the path
	first.Time = time.Second
	if err := s.user.ask(ctx, "Download", first, &cold); err != nil {
		return err
	}
	if err := s.user.ask(ctx, "Download", fetch, &m.peace); err != nil {
		return err
	}
	r.progress.Enter("%s: the agent is sent on", path)
	a, err := s.attack(ctx, s.p1, lab.LinkPort, cell{rate: top, kind: fresh}, nil, r.sizes.warm)
	if err != nil {
		return err
	}
	err = s.leaves(ctx)
	if err == nil {
		err = s.user.ask(ctx, "Download", fetch, &m.flood)
	}
	var held Held
	if err := errors.Join(err, a.end(), s.user.ask(ctx, "Release", struct{}{}, &held)); err != nil {
		return err
	}
	if m.lost, m.sessions = held.Lost, held.Sessions; m.lost > 0 {
		r.progress.Say("%s: %d of %d sessions were lost: %s", path, m.lost, m.sessions, held.Why)
	}
	r.moved = append(r.moved, m)
	r.progress.Did(partMoved)
	return s.Healthy()
}

// agentAtP1 starts the agent and leads it to p1.
func (s *stage) agentAtP1(ctx context.Context) error {
	if err := s.World.ClientLink.Set(agentLink); err != nil {
		return err
	}
	if !s.enrolled {
		if err := s.AgentToken(ctx, agentName); err != nil {
			return err
		}
		s.enrolled = true
	}
	if err := s.StartAgent(agentName, "warm"); err != nil {
		return err
	}
	if err := s.WaitForAgent(ctx, agentName, 20*time.Second); err != nil {
		return err
	}
	// Nobody may be sent to an edge that was attacked a moment ago; who has forgotten everything goes there.
	return fleet.Wait(ctx, 30*time.Second, "the agent is at p1", s.Children(), func() (bool, error) {
		at, err := s.agentAt(ctx)
		if err != nil || at == "p1" || at == "" {
			return at == "p1", err
		}
		if err := s.Forget(ctx, agentName); err != nil {
			return false, err
		}
		return false, errors.Join(fmt.Errorf("it is at %s", at), s.WaitForAgent(ctx, agentName, 5*time.Second))
	})
}

// agentAt is the name of the edge that the agent is at; empty: none.
func (s *stage) agentAt(ctx context.Context) (string, error) {
	st, err := s.AgentStatus(ctx, agentName)
	if at := st.ServedBy(); at != "" {
		return fleet.NameOf(at), err
	}
	return "", err
}

// leaves waits until the agent has been sent on.
func (s *stage) leaves(ctx context.Context) error {
	return fleet.Wait(ctx, 20*time.Second, "the agent is sent on from p1", s.Children(), func() (bool, error) {
		at, err := s.agentAt(ctx)
		return err == nil && at != "" && at != "p1", errors.Join(err, fmt.Errorf("it is at %q", at))
	})
}
