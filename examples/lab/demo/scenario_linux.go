package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"migrationsensor/examples/lab/fleet"
)

// run is one playing of the scenario.
type run struct {
	opts    *Options
	board   *board
	fleet   *fleet.Fleet
	clients map[string]*client
	fetch   *fetcher
	loops   sync.WaitGroup
	lasting *sessions
	marks   map[string]*mark // by kind

	floodStart, floodEnd time.Time
	freshReady           time.Duration
	scans                []scanned
	strays, siteFetches  int // TUN packets caused by unprotected traffic
	back                 bool
}

// play plays the scenario to its end. It returns after everything that it started has ended.
func (r *run) play(ctx context.Context) (err error) {
	r.fleet, err = fleet.New(ctx, r.opts.fleet(), r.board.say)
	defer func() { err = errors.Join(err, r.fleet.Close()) }()
	if err != nil {
		return err
	}
	if r.fetch, err = newFetcher(r.fleet.Origin.Digest); err != nil {
		return err
	}
	r.clients = newClients(r.fleet, r.board)
	ctx, cancel := context.WithCancel(ctx)
	defer r.loops.Wait()
	defer cancel()
	r.loops.Go(func() { watch(ctx, r.fleet, r.board, r.clients) })
	defer func() { err = errors.Join(err, r.endSessions()) }()
	for _, step := range []func(context.Context) error{r.prepare, r.sessions, r.peace, r.flood, r.comeBack, r.killed, r.drained, r.after} {
		if err := step(ctx); err != nil {
			return err
		}
		if err := r.fleet.Healthy(); err != nil {
			return err
		}
	}
	r.board.enter(phaseEnd, "the end; counts are of the whole run")
	return nil
}

// sessions begins what lives through the whole run.
func (r *run) sessions(ctx context.Context) (err error) {
	r.board.say("an interactive ssh session and a download begin, through P1's address")
	if r.lasting, err = newSessions(ctx, r.fleet); err != nil {
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
	return r.lasting.begun(ctx, r.fleet)
}

func (r *run) endSessions() error {
	if r.lasting == nil {
		return nil
	}
	return r.lasting.finish()
}

// prepare enrols the agents and looks at what must not be seen.
func (r *run) prepare(ctx context.Context) error {
	f := r.fleet
	for _, name := range []string{"client", "each", "fresh"} {
		if err := f.AgentToken(ctx, name); err != nil {
			return err
		}
	}
	r.board.say("the agents join, each with its own token")
	if err := errors.Join(f.StartAgent("client", "warm"), f.StartAgent("each", "each")); err != nil {
		return err
	}
	for _, name := range []string{"client", "each"} {
		if err := f.WaitForAgent(ctx, name, 20*time.Second); err != nil {
			return err
		}
	}
	if err := f.StartAgent("fresh", "warm"); err != nil {
		return err
	}
	if err := f.WaitForAgent(ctx, "fresh", 20*time.Second); err != nil {
		return err
	}
	if err := f.Stop("fresh"); err != nil {
		return err
	}
	var err error
	if r.strays, r.siteFetches, err = unprotected(ctx, f, r.fetch); err != nil {
		return err
	}
	r.board.say("%d fetches from an unprotected site: %d packets in the TUN", r.siteFetches, r.strays)
	return nil
}

func (r *run) loop(ctx context.Context, system string) {
	c := r.clients[system]
	r.loops.Go(func() { c.run(ctx, r.board, r.fetch) })
}

func (r *run) peace(ctx context.Context) error {
	r.board.enter(phasePeace, "peace: everybody is served by P1")
	until := time.Now().Add(r.opts.Peace)
	for _, system := range []string{"ms", "ms-each", "plain"} {
		r.loop(ctx, system)
	}
	if err := r.scan(ctx, phasePeace); err != nil {
		return err
	}
	return sleep(ctx, time.Until(until))
}

// flood floods P1; when P1 has noticed, a fresh agent comes, and the hidden proxies are scanned.
func (r *run) flood(ctx context.Context) error {
	r.begin(phaseFlood, fmt.Sprintf("flood: %d %s packets/s on P1", r.opts.Rate, r.opts.Kind))
	r.floodStart = r.marks[phaseFlood].from
	ended := make(chan error, 1)
	go func() {
		told, err := r.fleet.Attack(ctx, r.opts.attack())
		r.floodEnd = time.Now()
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
	f := r.fleet
	err := fleet.Wait(ctx, r.opts.Flood, "P1 notices the flood", f.Children(), func() (bool, error) {
		_, ok := r.noticed()
		return ok, fmt.Errorf("it is %q", r.board.state("p1"))
	})
	if err != nil {
		return err
	}
	began := time.Now()
	r.board.say("a fresh agent starts; all it knows is P1, which has not seen it since it was well")
	if err := f.StartAgent("fresh", "warm"); err != nil {
		return err
	}
	var both sync.WaitGroup
	var scanErr, freshErr error
	both.Go(func() { scanErr = r.scan(ctx, phaseFlood) })
	both.Go(func() {
		if freshErr = f.WaitForAgent(ctx, "fresh", 30*time.Second); freshErr == nil {
			r.freshReady = time.Since(began)
			r.loop(ctx, "ms-fresh")
		}
	})
	both.Wait()
	return errors.Join(scanErr, freshErr)
}

// comeBack waits until P1 has seen enough quiet.
func (r *run) comeBack(ctx context.Context) error {
	r.board.enter(phaseReturn, "the flood is over: P1 waits for quiet")
	err := fleet.Wait(ctx, r.opts.Quiet+r.opts.Suspend+10*time.Second, "P1 comes back", r.fleet.Children(), func() (bool, error) {
		state := r.board.state("p1")
		return state == "active", fmt.Errorf("it is %q", state)
	})
	r.back = err == nil
	r.stop(phaseFlood)
	return err
}

func (r *run) after(ctx context.Context) error {
	r.board.enter(phaseAfter, "peace again: P1 serves newcomers, the moved stay where they are")
	until := time.Now().Add(r.opts.After)
	if err := r.scan(ctx, phaseAfter); err != nil {
		return err
	}
	return sleep(ctx, time.Until(until))
}

func (r *run) scan(ctx context.Context, when string) error {
	s, err := scanAll(ctx, r.fleet, r.board, when)
	if err == nil {
		r.scans = append(r.scans, s)
	}
	return err
}
