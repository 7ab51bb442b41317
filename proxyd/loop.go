package proxyd

import (
	"context"
	"errors"
	"net"
	"time"

	"migrationsensor/detect"
	"migrationsensor/proto"
	"migrationsensor/proxyd/firewall"
	"migrationsensor/proxyd/synchecker"
)

const loopEvery = 200 * time.Millisecond

// detect feeds the DDoS Detector and tells the machine what it finds.
func (e *edge) detect(ctx context.Context) error {
	defer e.counter.Close()
	tick := time.NewTicker(e.detector.Step())
	defer tick.Stop()
	gone := false
	for {
		c, err := e.count()
		switch {
		case errors.Is(err, detect.ErrGone):
			if !gone {
				e.log.Warn("interface gone: nothing is counted until it is back", "interface", e.line(), "err", err)
			}
		case err != nil:
			return err
		default:
			if gone {
				e.log.Info("interface back: packets are counted again", "interface", e.line())
			}
			e.observe(e.detector.Observe(e.host.Now(), c))
		}
		gone = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// observe logs the rate as it is at the alarm, just over the threshold, and at the end the highest one.
func (e *edge) observe(v detect.Verdict) {
	e.verdict.Store(&v)
	if !v.Changed {
		return
	}
	if v.Attack {
		e.log.Warn("attack detected", "kind", v.Kind.String(), "rate", v.Rate, "threshold", v.Threshold)
	} else {
		e.log.Info("attack over", "kind", v.Kind.String(), "rate", v.Rate)
	}
	select {
	case e.alarm <- struct{}{}:
	default:
	}
	e.poke()
}

// loop owns the changes of state: it looks at verdict and load, and carries out what the machine says.
func (e *edge) loop(ctx context.Context) error {
	tick := time.NewTicker(loopEvery)
	defer tick.Stop()
	was := false
	for {
		began := time.Now()
		attacked := false
		if v := e.verdict.Load(); v != nil {
			attacked = v.Attack
		}
		acts := e.step(attacked, was)
		err := e.actAll(ctx, acts)
		switch {
		case ctx.Err() != nil && errors.Is(err, net.ErrClosed): // the SYN Checker stopped first
			return nil
		case err != nil:
			return err
		}
		if len(acts) > 0 {
			e.announce()
		}
		was = attacked
		e.door.refresh()
		switch e.state() {
		case Defending, Suspended: // suspended: those whose link was being made meanwhile
			e.informer.Migrate(ctx, e.p.cfg.Attack.SuspendAfter.Duration)
		case Draining: // there is no hurry
			e.informer.Migrate(ctx, 0)
		case Standby, Active:
		}
		e.rest(ctx, time.Since(began))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-e.wake:
		case <-e.changed:
			e.follow()
		}
	}
}

// maxRest bounds a rest: the loop was not busy where it waited for other nodes.
const maxRest = time.Second

// rest lets others have the processor after a busy time: links that end one by one, ten thousand of them, wake the loop as
// often. An alarm ends it.
func (e *edge) rest(ctx context.Context, busy time.Duration) {
	timer := time.NewTimer(min(4*busy, maxRest))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-e.alarm:
	}
}

// step advances the machine by what happened since the last one.
func (e *edge) step(attacked, was bool) (acts []action) {
	l := e.load()
	return e.transition(func(m *machine, now time.Time) (acts []action) {
		switch {
		case attacked && (!was || m.state == Active || m.state == Draining):
			acts = m.alarm(now, e.verdict.Load().Why())
		case !attacked && was:
			m.over(now)
		}
		if len(acts) == 0 { // the load is of before a round that just began
			acts = m.advance(now, l)
		}
		return acts
	})
}

// transition gives the machine an event, and logs what changes.
func (e *edge) transition(event func(m *machine, now time.Time) []action) []action {
	now := e.host.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.machine.state
	acts := event(e.machine, now)
	if e.machine.state != before {
		e.log.Info("state changed", "from", before, "to", e.machine.state, "why", e.machine.why)
	}
	return acts
}

// load is what the edge carries now.
func (e *edge) load() load {
	connected, unmoved := e.informer.Members()
	return load{
		clients: connected, unmoved: unmoved,
		carried:  e.acceptor.DataLinks() + e.packets.Stats().Ending,
		admitted: e.firewall.Admitted(), replacement: e.informer.Replacement(),
	}
}

func (e *edge) state() State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.machine.state
}

func (e *edge) is(s State) bool { return e.state() == s }

func (e *edge) actAll(ctx context.Context, acts []action) error {
	for _, a := range acts {
		if err := e.act(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func (e *edge) act(ctx context.Context, a action) error {
	switch a {
	case actDefend:
		return e.defend(ctx)
	case actSuspend:
		e.mu.Lock()
		e.counts.suspensions++
		e.mu.Unlock()
		e.packets.SetForwarding(false)
		e.acceptor.CloseData() // the links, not the sessions: those go on over another edge
	case actRelax:
		e.packets.SetForwarding(true)
		mode := synchecker.Off
		if e.hidden {
			mode = synchecker.Dark
		}
		return errors.Join(e.checker.SetMode(mode), e.firewall.Relax())
	case actDrain:
		e.mu.Lock()
		to := e.drainTo
		e.mu.Unlock()
		e.informer.Prefer(to)
		e.begin()
	case actStay:
		e.informer.Prefer(proto.NodeID{})
		e.begin()
	case actForward:
		e.packets.SetForwarding(true)
	case actAlone:
		e.log.Error("attacked, and no replacement: no neighbour is free; verified agents are admitted here. Add hidden edges or neighbours on the signing node")
	}
	return nil
}

// defend closes the door to strangers and sends the clients on. What is live is let in before
// anything is dropped, so the kernel never resets what the SYN Checker answers.
func (e *edge) defend(ctx context.Context) error {
	var flows []firewall.Flow
	for _, l := range e.acceptor.Links() {
		flows = append(flows, firewall.Flow{Src: l.Addr, Dst: l.Local})
		if l.Kind != proto.KindEnrol {
			e.door.open(l.Addr.Addr(), admitFor)
		}
	}
	for _, f := range e.packets.Flows() {
		flows = append(flows, firewall.Flow(f))
	}
	if err := e.firewall.Defend(flows); err != nil {
		return err
	}
	if !e.hidden {
		if err := e.checker.SetMode(synchecker.Defend); err != nil {
			return err
		}
	}
	e.informer.Prefer(proto.NodeID{}) // what was asked for in peace
	e.log.Info("defending", "round", e.begin(), "live", len(flows))
	return nil
}

// begin starts a round: nobody has been told anything yet.
func (e *edge) begin() (round uint64) {
	round = uint64(e.host.Now().UnixMilli())
	e.informer.Begin(round)
	return round
}
