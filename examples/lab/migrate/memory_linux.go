package migrate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"slices"
	"time"

	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/memory"
)

// InMemory moves so many sessions at once in a world in memory: the fleet, the origin and all agents in this process,
// which shares its processors among them. Agents have no TUN.
func InMemory(ctx context.Context, sessions int, say func(string, ...any)) (m Many, err error) {
	cfg := inMemory()
	cfg.Nodes = slices.DeleteFunc(fleet.DefaultNodes(), func(n fleet.Node) bool { return n.Name == "e2" }) // all begin at P1
	w, err := memory.New(ctx, cfg, say)
	defer func() { err = errors.Join(err, w.Close()) }()
	if err != nil {
		return m, err
	}
	sockets, err := w.Crowd(sessions)
	if err != nil {
		return m, err
	}
	c, err := crowdIn(ctx, w, sockets, sessions, inCrowds(sessions))
	if err != nil {
		return m, err
	}
	say("%d agents gather at P1", sessions)
	if err := c.gather(ctx, "p1"); err != nil {
		return m, errors.Join(err, c.close())
	}
	if m.Idle, err = idle(ctx); err != nil {
		return m, errors.Join(err, c.close())
	}
	say("%d use %.2f processors while they wait; now they move at once", sessions, m.Idle)
	v := &mover{crowd: c, say: say, settle: time.Second, used: ownUse, m: Many{World: "memory", Sessions: sessions, Idle: m.Idle}}
	err = v.all(ctx)
	e, eerr := c.end(ctx)
	for _, why := range e.Broken {
		say("a connection broke: %s", why)
	}
	v.m.Lost, v.m.Broken, v.m.Echoed = e.Lost, e.Failed, e.Sent
	return v.m, errors.Join(err, eerr, c.close())
}

// inMemory is the fleet of the bench, in memory.
func inMemory() memory.Config {
	return memory.Config{Config: fleet.Config{RTT: rtts[0], Edge: fleet.Edge{Quiet: 5 * time.Second, Suspend: 30 * time.Second, Rate: ownRate}}}
}

// ownRate is how many links a second an edge in memory takes: what two processors can do for all agents, edges, the
// anchor, the origin and their TCP stacks.
const ownRate = 200

// idle is how many processors this process uses while nothing moves.
func idle(ctx context.Context) (float64, error) {
	before, err := fleet.UsageOf(os.Getpid())
	if err != nil {
		return 0, err
	}
	began := time.Now()
	select {
	case <-time.After(idleFor):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := fleet.UsageOf(os.Getpid())
	return (after.CPU - before.CPU).Seconds() / time.Since(began).Seconds(), err
}

// idleFor is how long idle sessions are watched: as long as agents let pass between two PINGs.
const idleFor = 10 * time.Second

// ownUse is what this process has used so far: everybody.
func ownUse() (map[string]fleet.Usage, error) {
	u, err := fleet.UsageOf(os.Getpid())
	return map[string]fleet.Usage{"all": u}, err
}

// crowdIn starts a crowd in a world in memory.
func crowdIn(ctx context.Context, w *memory.World, sockets app.Net, agents int, how rhythm) (*crowd, error) {
	token, err := w.CrowdToken(ctx)
	if err != nil {
		return nil, err
	}
	s := rpc.NewServer()
	if err := s.RegisterName("Crowd", app.NewCrowdOn(ctx, sockets)); err != nil {
		return nil, fmt.Errorf("the crowd in memory: %w", err)
	}
	near, far := net.Pipe()
	go s.ServeConn(far) // until near is closed
	c := &crowd{site: w, client: rpc.NewClient(near), agents: agents}
	return c, c.join(ctx, app.CrowdConfig{
		Watched: how.watched, Every: how.every, Rarely: how.rarely, Token: token, State: filepath.Join(w.Dir(), "crowd"), Source: memory.Crowd4,
		Limit: time.Minute + time.Duration(agents)*30*time.Millisecond,
	})
}
