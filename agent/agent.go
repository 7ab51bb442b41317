package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"migrationsensor/agent/connhandler"
	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

// Agent is one running client. Make it with [New], then call [Agent.Run].
type Agent struct {
	// set once
	cfg      Config
	sys      System
	log      *slog.Logger
	handler  *connhandler.Handler
	boot     uint64             // random at each start: tells two machines with one identity
	budget   time.Duration      // how long a session waits for a link before its streams are reset
	warmFrom int                // bytes in half a round trip: a planned move has its link warmed first
	machine  Machine            // nil with NoTUN, and before Run has opened it
	kick     chan struct{}      // to the supervisor: a connection waits for a session; full: it knows
	around   chan struct{}      // to the supervisor: a session came to a link, or ended; full: it knows
	forgets  chan chan struct{} // to the supervisor, which closes what it gets when it has forgotten
	ready    chan struct{}
	isReady  sync.Once

	events                   events
	moved, transfers, forged atomic.Uint64
	wg                       sync.WaitGroup // of spawn
	dialers                  dialers
	networks                 link.Networks // those that eat keyed SYNs
	completeMu               sync.Mutex    // one complete at a time

	// guards what follows. A tether takes it while it holds its own mu; whoever holds this one takes no tether's, and calls
	// nothing of a tether but up, ended and what was set once.
	mu        sync.Mutex
	runCtx    context.Context // nil before Run and after its goroutines were told to end
	state     string
	why       string
	since     time.Time
	enr       *enrolment               // replaced, never changed
	up        *uplink                  // as the supervisor has it
	upSince   time.Time                // when it became the current one: it may have been the second before
	second    *uplink                  // the warm one to another entry, as the supervisor has it
	named     []proto.Target           // of a migration that has not succeeded yet
	standby   []proto.Target           // given ahead by the current edge (rescue = "standby"); in memory only
	warm      map[proto.NodeID]*tether // for new streams, by anchor
	choice    choice
	round     *round // that may bring a session where there is none; never nil
	tethers   map[*tether]struct{}
	services  map[netip.AddrPort]connhandler.Service
	protected []netip.AddrPort
}

// New checks the configuration. It touches nothing.
func New(cfg Config, sys System) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	sys = sys.withDefaults()
	a := &Agent{
		cfg: cfg, sys: sys, log: sys.Log, budget: resumeBudget, warmFrom: warmLeast, boot: rand.Uint64(),
		kick: make(chan struct{}, 1), around: make(chan struct{}, 1), forgets: make(chan chan struct{}), ready: make(chan struct{}),
		state: stateStopped, since: sys.Now(), round: newRound(), tethers: make(map[*tether]struct{}), warm: make(map[proto.NodeID]*tether),
	}
	mode := connhandler.Warm
	if cfg.Probe == ProbeEach {
		mode = connhandler.Each
	}
	a.handler = connhandler.New(connhandler.Config{
		Mode: mode, Ways: ways{a}, Retries: cfg.ProbeRetries, Service: a.service, Direct: a.dialDirect,
		Event: a.event, Log: sys.Log,
	})
	return a, nil
}

// Ready is closed when the addresses are protected and the first try to connect has ended, well or not; Summary says
// how.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Run joins the fleet if it has to, connects, and serves until ctx is done. It returns after every goroutine has ended
// and everything it did to the machine is undone; nil means a stop that was asked for.
func (a *Agent) Run(ctx context.Context) error {
	ctx, down := context.WithCancel(ctx)
	defer down()
	if err := stateDir(a.cfg.State); err != nil {
		return err
	}
	if a.cfg.Socket == "" {
		return a.run(ctx)
	}
	l, err := listenControl(a.cfg.Socket)
	if err != nil {
		return err
	}
	sctx, scancel := context.WithCancel(context.WithoutCancel(ctx)) // the socket goes last
	served := make(chan error, 1)
	go func() { served <- serveControl(sctx, l, a.Status, a.Forget, down) }()
	err = a.run(ctx)
	scancel()
	return errors.Join(err, <-served)
}

func (a *Agent) run(ctx context.Context) (err error) {
	a.setState(stateEnrolling, "")
	defer a.setState(stateStopped, "")
	if !a.cfg.NoTUN { // before the token is spent: a missing right is found first
		m, err := a.sys.Open(a.cfg, a.log)
		if err != nil {
			return err
		}
		a.mu.Lock() // Status reads it from the start
		a.machine = m
		a.mu.Unlock()
		defer func() {
			if cerr := m.Close(); cerr != nil {
				a.log.Error("undo what was done to the machine", "err", cerr)
			}
		}()
	}
	e, err := a.enrolment(ctx)
	if err != nil {
		return err
	}
	a.setEnrolment(e)
	if err := a.protect(e); err != nil {
		return err
	}
	return a.serve(ctx)
}

// enrolment uses the token if there is one that was not used yet, else what an earlier start has kept.
func (a *Agent) enrolment(ctx context.Context) (*enrolment, error) {
	kept, err := load(a.cfg.State, a.sys.Now())
	if a.cfg.Token == "" {
		return kept, err
	}
	if err == nil {
		if tok, terr := proto.ParseToken(a.cfg.Token); terr == nil && tok.ID == kept.Token {
			a.log.Info("joined with this token before, it is not used again", "fleet", kept.id.Fleet)
			return kept, nil
		}
	}
	return a.enrolPatiently(ctx, a.cfg.Token)
}

// enrolAgain is the pause between two tries. Ours.
const enrolAgain = time.Second

// enrolPatiently enrols, and tries again for JoinWait while nobody has decided: a fleet that starts together with this
// machine may not be there yet.
func (a *Agent) enrolPatiently(ctx context.Context, token string) (*enrolment, error) {
	until := a.sys.Now().Add(a.cfg.JoinWait)
	for first := true; ; first = false {
		e, err := a.enrol(ctx, token)
		if err == nil || !undecided(err) || !a.sys.Now().Before(until) {
			return e, err
		}
		if first {
			a.log.Warn("not joined yet; trying again", "wait", a.cfg.JoinWait, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(enrolAgain):
		}
	}
}

// serve runs the parts until ctx is done or the machine fails, and waits for all of them.
func (a *Agent) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.mu.Lock()
	a.runCtx = ctx
	a.mu.Unlock()
	a.setState(stateConnecting, "")
	var err error
	var parts sync.WaitGroup
	parts.Go(func() { a.supervise(ctx) })
	if a.machine != nil {
		parts.Go(func() {
			defer cancel()
			if rerr := a.machine.Run(ctx, a.handler.Arrive, func(f connhandler.Flow) { a.handler.Handle(ctx, f) }); rerr != nil {
				err = fmt.Errorf("serve the TUN: %w", rerr)
			}
		})
	}
	parts.Wait()
	cancel()
	a.mu.Lock()
	a.runCtx = nil // spawn starts nothing from here
	a.mu.Unlock()
	a.wg.Wait()
	return err
}

// spawn runs f in a goroutine that Run waits for. It reports false, and does nothing, when the agent is not running.
func (a *Agent) spawn(f func(context.Context)) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.runCtx == nil {
		return false
	}
	ctx := a.runCtx
	a.wg.Go(func() { f(ctx) })
	return true
}

// Forget lets go of the current proxy and of the memory of where proxies have sent this agent, and begins again at the
// entries: the way back when a fleet was rebuilt, and what makes an agent new to an attack in the paper's experiments.
// It returns when new connections no longer use the old proxy; those that run finish there.
func (a *Agent) Forget(ctx context.Context) error {
	a.mu.Lock()
	running := a.runCtx
	a.mu.Unlock()
	if running == nil {
		return errors.New("the agent is not connected to its fleet yet: try again when `ms-agent status` shows it")
	}
	done := make(chan struct{})
	select {
	case a.forgets <- done:
	case <-running.Done():
		return errors.New("the agent is stopping")
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done // the supervisor never leaves it open
	return nil
}

// DialContext opens a connection to a protected address, as an application's connect() through the TUN would: its
// errors are those of the origin (errors.Is finds syscall.ECONNREFUSED). Network is tcp, tcp4 or tcp6.
func (a *Agent) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	dst, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fail(fmt.Errorf("%w (a protected address is IP:port)", err))
	}
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return fail(net.UnknownNetworkError(network))
	}
	c, err := a.handler.Dial(ctx, dst)
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// dialDirect is the way around all proxies, by one of the agent's own sockets.
func (a *Agent) dialDirect(ctx context.Context, dst netip.AddrPort) (connhandler.Conn, error) {
	d := net.Dialer{}
	d.SetMultipathTCP(false)
	if a.machine != nil {
		d.Control = a.machine.Control
	}
	c, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return nil, err
	}
	return directConn{c.(*net.TCPConn)}, nil
}

func (a *Agent) service(dst netip.AddrPort) (connhandler.Service, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.services[netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())]
	return s, ok
}

func (a *Agent) enrolled() *enrolment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.enr
}

func (a *Agent) setEnrolment(e *enrolment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.enr = e
}
