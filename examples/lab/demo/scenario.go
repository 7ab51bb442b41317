package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/fleet"
)

// run is one playing of the scenario.
type run struct {
	opts  *Options
	board *board
	where string // the world's name in the figures
	logs  string
	open  func(ctx context.Context, say func(string, ...any)) (world, error)
	more  func() []figures.Figure // the world's own, at the end; may be nil

	world   world // what open returned
	clients map[string]*client
	loops   sync.WaitGroup
	lasting *sessions

	floodStart          time.Time
	before, moved       counts // when the flood began, and when P1 was back
	scans               []scanned
	strays, siteFetches int // TUN packets caused by unprotected traffic
	back                bool
}

// counts are programs' own at one moment.
type counts struct {
	moves, transfers map[string]uint64 // by system
	checked          uint64            // by P1's SYN Checker
}

// play plays the scenario to its end. It returns after everything that it started has ended.
func (r *run) play(ctx context.Context) (err error) {
	r.world, err = r.open(ctx, r.board.say)
	if r.world != nil {
		defer func() { err = errors.Join(err, r.world.Close()) }()
	}
	if err != nil {
		return err
	}
	r.newClients()
	ctx, cancel := context.WithCancel(ctx)
	defer r.loops.Wait()
	defer cancel()
	r.loops.Go(func() { r.watch(ctx) })
	defer func() { err = errors.Join(err, r.endSessions()) }()
	for _, step := range []func(context.Context) error{
		r.prepare, r.begin, r.peace, r.flood, r.comeBack, r.killed, r.orphaned, r.drained, r.home, r.after,
	} {
		if err := step(ctx); err != nil {
			return err
		}
		if err := r.world.Healthy(); err != nil {
			return err
		}
	}
	r.board.enter(phaseEnd, "the end; counts are of the whole run")
	return nil
}

// prepare enrols the agents and looks at what must not be seen.
func (r *run) prepare(ctx context.Context) error {
	r.board.say("the agents join, each with its own token")
	for _, name := range []string{"client", "each", "fresh"} {
		if err := r.world.StartAgent(name, r.probe(name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"client", "each", "fresh"} {
		if err := r.atP1(ctx, name); err != nil {
			return err
		}
	}
	if err := r.world.Stop("fresh"); err != nil {
		return err
	}
	return r.unprotected(ctx)
}

// atP1 has an agent begin at P1, the first entry. It takes the next one only if P1 says nothing for a second, which may be on a
// machine that has much to do; then it begins again.
func (r *run) atP1(ctx context.Context, name string) error {
	at := ""
	for range 5 {
		if err := r.world.WaitForAgent(ctx, name, 30*time.Second); err != nil {
			return err
		}
		st, err := r.world.AgentStatus(ctx, name)
		if err != nil {
			return err
		}
		if at = fleet.NameOf(st.ServedBy()); at == "p1" {
			return nil
		}
		r.board.say("P1 was slow to answer the agent %q, which is at %s: it begins again", name, at)
		if err := r.world.Forget(ctx, name); err != nil {
			return err
		}
	}
	return fmt.Errorf("the agent %q began five times and is at %s, not at the first entry", name, at)
}

// unprotected fetches from a site that nobody protects and counts the packets that went through the TUN meanwhile. Nothing
// else uses the client yet.
func (r *run) unprotected(ctx context.Context) error {
	v4, v6 := lab.Site.Port(lab.WebPort)
	before, err := r.world.packets(ctx, "client")
	if err != nil {
		return err
	}
	for range 5 {
		for _, at := range r.families(v4, v6) {
			if s := r.world.fetch(ctx, "client", at); !s.OK() {
				return fmt.Errorf("fetch from the unprotected site %s: %s", at, s.Err)
			}
			r.siteFetches++
		}
	}
	after, err := r.world.packets(ctx, "client")
	r.strays = int(after - before)
	r.board.say("%d fetches from an unprotected site: %d packets in the TUN", r.siteFetches, r.strays)
	return err
}

// begin begins what lives through the whole run.
func (r *run) begin(ctx context.Context) (err error) {
	r.board.say("an interactive ssh session and a download begin, through P1's address")
	if r.lasting, err = r.world.sessions(ctx); err != nil {
		return err
	}
	views := []*lastingView{{"download", fleet.StreamEvery, &r.lasting.reader.Trace}}
	if r.lasting.typist != nil {
		views = append([]*lastingView{{"ssh", typing, &r.lasting.typist.Trace}}, views...)
	} else {
		r.board.say("no ssh session: %s", r.lasting.noSSH)
	}
	r.board.mu.Lock()
	r.board.lasting = views
	r.board.mu.Unlock()
	return r.world.Wait(ctx, 15*time.Second, "ssh and the download begin", r.lasting.begun)
}

func (r *run) endSessions() error {
	if r.lasting == nil {
		return nil
	}
	return r.lasting.finish()
}

func (r *run) peace(ctx context.Context) error {
	r.board.open(phasePeace, "peace: everybody is served by P1")
	until := time.Now().Add(r.opts.Peace)
	for _, system := range []string{"ms", "ms-each", "plain"} {
		r.loop(ctx, system)
	}
	if err := r.scan(ctx, phasePeace); err != nil {
		return err
	}
	err := sleep(ctx, time.Until(until))
	r.board.close(phasePeace)
	return err
}

// flood floods P1; when P1 has noticed, a fresh agent comes, and the hidden proxies are scanned.
func (r *run) flood(ctx context.Context) error {
	r.before = r.board.counts()
	r.floodStart = r.board.open(phaseFlood, fmt.Sprintf("flood: %d %s packets/s on P1", r.opts.Rate, r.opts.Kind))
	ended := make(chan error, 1)
	go func() {
		told, err := r.world.flood(ctx, r.opts.attack())
		if err == nil {
			r.board.say("the flood is over: %s", told)
		}
		ended <- err
	}()
	during := r.duringFlood(ctx)
	err := <-ended
	return errors.Join(err, during)
}

// noticed says when P1 noticed the flood. With few clients all have moved so soon that it may be
// seen suspended first.
func (r *run) noticed() (time.Time, bool) {
	return r.board.reached("p1", r.floodStart.Add(-time.Second), "defending", "suspended") // the detector's interval may have begun before
}

func (r *run) duringFlood(ctx context.Context) error {
	err := r.world.Wait(ctx, r.opts.Flood, "P1 notices the flood", func() (bool, error) {
		_, ok := r.noticed()
		return ok, fmt.Errorf("it is %q", r.board.state("p1"))
	})
	if err != nil {
		return err
	}
	r.board.say("a fresh agent starts; all it knows is P1, which has not seen it since it was well")
	if err := r.world.StartAgent("fresh", r.probe("fresh")); err != nil {
		return err
	}
	var both sync.WaitGroup
	var scanErr, freshErr error
	both.Go(func() { scanErr = r.scan(ctx, phaseFlood) })
	both.Go(func() {
		if freshErr = r.world.WaitForAgent(ctx, "fresh", 30*time.Second); freshErr == nil {
			r.loop(ctx, "ms-fresh")
		}
	})
	both.Wait()
	return errors.Join(scanErr, freshErr)
}

// comeBack waits until P1 has seen enough quiet.
func (r *run) comeBack(ctx context.Context) error {
	r.board.enter(phaseReturn, "the flood is over: P1 waits for quiet; the moved stay where they are")
	err := r.world.Wait(ctx, r.opts.Quiet+r.opts.Suspend+10*time.Second, "P1 comes back", func() (bool, error) {
		state := r.board.state("p1")
		return state == "active", fmt.Errorf("it is %q", state)
	})
	r.back = err == nil
	r.board.close(phaseFlood)
	r.moved = r.board.counts()
	return err
}

func (r *run) after(ctx context.Context) error {
	r.board.enter(phaseAfter, "peace again, as in the beginning")
	until := time.Now().Add(r.opts.After)
	if err := r.scan(ctx, phaseAfter); err != nil {
		return err
	}
	return sleep(ctx, time.Until(until))
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
