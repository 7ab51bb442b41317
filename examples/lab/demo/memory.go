package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/term"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/memory"
	"migrationsensor/examples/lab/scenario"
)

// memoryRun is one playing of the scenario in the lab in memory. Its applications are goroutines instead of curl.
type memoryRun struct {
	opts    *Options
	board   *board
	world   *memory.World
	clients []*memoryClient
	loops   sync.WaitGroup

	floodStart          time.Time
	sent                flood.Result
	strays, siteFetches int
	scans               []memoryScan
	back                bool
}

// memoryScan is what a scan of all hidden proxies brought.
type memoryScan struct {
	when                       string
	probes, replies, different int
}

// memoryClient fetches the file over and over on its machine.
type memoryClient struct {
	view    *clientView
	machine string
	probe   string // of its agent; empty: it has none
}

// RunMemory plays the scenario in memory: on a terminal with a live screen, elsewhere with a line a second. It writes
// out/demo.json and prints the table; nil means PASS. why is told: the reason for this world.
func RunMemory(ctx context.Context, o Options, why string, out *os.File) error {
	if err := o.check(); err != nil {
		return err
	}
	r := &memoryRun{opts: &o, board: newBoard()}
	r.board.where = "in memory"
	r.board.say("the lab in memory: %s", why)
	for _, n := range fleet.DefaultNodes() {
		r.board.proxies = append(r.board.proxies, &proxyView{Name: n.Name, Kind: n.Kind})
	}
	for _, c := range []memoryClient{
		{&clientView{Name: "agent", System: "ms", About: "warm links"}, "client", "warm"},
		{&clientView{Name: "agent (each)", System: "ms-each", About: "a probe for each connection, as in the paper"}, "each", "each"},
		{&clientView{Name: "agent (fresh)", System: "ms-fresh", About: "starts during the flood; P1 has no link of it"}, "fresh", "warm"},
		{&clientView{Name: "plain", System: "plain", About: "no agent", ServedBy: "p1"}, "plain", ""},
	} {
		r.board.clients = append(r.board.clients, c.view)
		r.clients = append(r.clients, &c)
	}
	show := lines
	if term.IsTerminal(int(out.Fd())) {
		show = screen
	}
	return r.conclude(out, show(ctx, out, r.board, r.play))
}

// conclude writes the figures, also of a run that did not come to its end.
func (r *memoryRun) conclude(out io.Writer, played error) error {
	file := r.report()
	pass := file.Decide(played == nil)
	name := filepath.Join(r.opts.Out, "demo.json")
	if err := file.Write(name); err != nil {
		return errors.Join(played, err)
	}
	fmt.Fprintln(out)
	if err := table(out, file, r.board.clients); err != nil {
		return errors.Join(played, err)
	}
	fmt.Fprintf(out, "\n%s (in memory: times say little about a real machine; the links' faults come from --seed %d)\nfigures: %s   log: %s\n",
		summary(file, played), r.opts.Seed, name, r.logFile())
	switch {
	case played != nil:
		return fmt.Errorf("the demo stopped: %w", played)
	case !pass:
		return ErrFailed
	}
	return nil
}

func (r *memoryRun) logFile() string { return filepath.Join(r.opts.Out, "demo-logs", "memory.log") }

// play plays the scenario to its end. It returns after everything that it started has ended.
func (r *memoryRun) play(ctx context.Context) (err error) {
	if err := os.MkdirAll(filepath.Dir(r.logFile()), 0o755); err != nil {
		return err
	}
	log, err := os.Create(r.logFile())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	w, err := memory.New(ctx, memory.Config{
		Config: r.opts.fleet(), Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, r.board.say)
	defer func() { err = errors.Join(err, w.Close()) }()
	if err != nil {
		return err
	}
	r.world = w
	ctx, cancel := context.WithCancel(ctx)
	defer r.loops.Wait()
	defer cancel()
	r.loops.Go(func() { r.watch(ctx) })
	for _, step := range []func(context.Context) error{r.prepare, r.peace, r.flood, r.comeBack, r.after} {
		if err := step(ctx); err != nil {
			return err
		}
		if err := w.Healthy(); err != nil {
			return err
		}
	}
	r.board.enter(phaseEnd, "the end; counts are of the whole run")
	return nil
}

// prepare enrols the agents, and looks at what must not enter a TUN.
func (r *memoryRun) prepare(ctx context.Context) error {
	r.board.say("the agents join, each with its own token")
	for _, c := range r.clients {
		if c.probe == "" {
			continue
		}
		if err := r.begin(ctx, c); err != nil {
			return err
		}
	}
	if err := r.world.Stop("fresh"); err != nil {
		return err
	}
	before, err := r.world.AgentStatus(ctx, "client")
	if err != nil {
		return err
	}
	v4, v6 := lab.Site.Port(lab.WebPort)
	for _, at := range []netip.AddrPort{v4, v6} {
		if s := scenario.Fetch(ctx, r.world, "client", at, "/file", fleet.FetchLimit); !s.OK() {
			return fmt.Errorf("fetch from the unprotected site %s: %s", at, s.Err)
		}
		r.siteFetches++
	}
	after, err := r.world.AgentStatus(ctx, "client")
	r.strays = int(after.Counts.TUNPackets - before.Counts.TUNPackets)
	r.board.say("%d fetches from an unprotected site: %d packets in the TUN", r.siteFetches, r.strays)
	return err
}

func (r *memoryRun) begin(ctx context.Context, c *memoryClient) error {
	if err := r.world.StartAgent(c.machine, c.probe); err != nil {
		return err
	}
	return r.world.WaitForAgent(ctx, c.machine, 30*time.Second)
}

// loop has a client fetch until ctx is done. A fetch that the end cuts off does not count.
func (r *memoryRun) loop(ctx context.Context, system string) {
	v4, v6 := lab.P1.Port(lab.WebPort)
	from := []netip.AddrPort{v4, v4, v4, v6}
	for _, c := range r.clients {
		if c.view.System != system {
			continue
		}
		if c.probe == "" {
			from = []netip.AddrPort{v4}
		}
		r.loops.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				when := r.board.current()
				s := scenario.Fetch(ctx, r.world, c.machine, from[i%len(from)], "/file", fleet.FetchLimit)
				if ctx.Err() != nil {
					return
				}
				s.When = when
				if c.probe != "" && !s.OK() {
					r.board.say("%s: a fetch failed: %s", c.view.Name, s.Err)
				}
				r.board.add(c.view, s)
				_ = sleep(ctx, memoryPause) // the loop sees the end
			}
		})
	}
}

// memoryPause between two fetches leaves the machine some air.
const memoryPause = 100 * time.Millisecond

func (r *memoryRun) peace(ctx context.Context) error {
	r.board.enter(phasePeace, "peace: everybody is served by P1")
	for _, system := range []string{"ms", "ms-each", "plain"} {
		r.loop(ctx, system)
	}
	until := time.Now().Add(r.opts.Peace)
	if err := r.scan(ctx, phasePeace); err != nil {
		return err
	}
	return sleep(ctx, time.Until(until))
}

// scan looks for the hidden proxies from the attacker's machine.
func (r *memoryRun) scan(ctx context.Context, when string) error {
	all := memoryScan{when: when}
	for _, h := range []struct{ target, unused netip.Addr }{
		{lab.P2.V4, lab.Unused.V4}, {lab.P2.V6, lab.Unused.V6}, {lab.P3.V4, lab.Unused.V4}, {lab.P3.V6, lab.Unused.V6},
	} {
		res, err := r.world.Scan(ctx, h.target, h.unused)
		if err != nil {
			return fmt.Errorf("scan %s: %w", h.target, err)
		}
		all.probes += res.Probes
		all.replies += res.Replies()
		if !res.Alike() {
			all.different++
			r.board.say("scan: %s can be told from an unused address: %+v", h.target, res)
		}
	}
	r.scans = append(r.scans, all)
	r.board.say("scan of P2 and P3 (%s): %d probes, %d replies", when, all.probes, all.replies)
	return nil
}

// flood floods P1; when P1 has noticed, a fresh agent comes.
func (r *memoryRun) flood(ctx context.Context) error {
	r.floodStart = r.board.enter(phaseFlood, fmt.Sprintf("flood: %d %s packets/s on P1", r.opts.Rate, r.opts.Kind))
	at, _ := lab.P1.Port(lab.WebPort)
	ended := make(chan error, 1)
	go func() {
		var err error
		r.sent, err = r.world.Attack(ctx, fleet.Attack{Kind: r.opts.Kind, Rate: r.opts.Rate, Time: r.opts.Flood, Target: at})
		r.board.say("the flood is over: %d packets, %.0f/s", r.sent.Sent, r.sent.Rate())
		ended <- err
	}()
	err := r.newcomer(ctx)
	return errors.Join(err, <-ended)
}

func (r *memoryRun) newcomer(ctx context.Context) error {
	err := r.world.Wait(ctx, r.opts.Flood, "P1 notices the flood", func() (bool, error) {
		_, ok := r.noticed()
		return ok, fmt.Errorf("it is %q", r.board.state("p1"))
	})
	if err != nil {
		return err
	}
	r.board.say("a fresh agent starts; all it knows is P1, which has not seen it since it was well")
	for _, c := range r.clients {
		if c.view.System == "ms-fresh" {
			if err := r.begin(ctx, c); err != nil {
				return err
			}
		}
	}
	r.loop(ctx, "ms-fresh")
	return r.scan(ctx, phaseFlood)
}

func (r *memoryRun) noticed() (time.Time, bool) {
	return r.board.reached("p1", r.floodStart.Add(-time.Second), "defending", "suspended") // the detector's interval may have begun before
}

// comeBack waits until P1 has seen enough quiet.
func (r *memoryRun) comeBack(ctx context.Context) error {
	r.board.enter(phaseReturn, "the flood is over: P1 waits for quiet")
	err := r.world.Wait(ctx, r.opts.Quiet+r.opts.Suspend+10*time.Second, "P1 comes back", func() (bool, error) {
		state := r.board.state("p1")
		return state == "active", fmt.Errorf("it is %q", state)
	})
	r.back = err == nil
	return err
}

func (r *memoryRun) after(ctx context.Context) error {
	r.board.enter(phaseAfter, "peace again: P1 serves newcomers, the moved stay where they are")
	return sleep(ctx, r.opts.After)
}

// watch reads every status ten times a second and shows it on the board.
func (r *memoryRun) watch(ctx context.Context) {
	for sleep(ctx, 100*time.Millisecond) == nil {
		for _, n := range r.world.Nodes() {
			if st, err := r.world.ProxyStatus(ctx, n.Name); err == nil {
				r.board.saw(n.Name, st)
			}
		}
		for _, c := range r.clients {
			if c.probe == "" {
				continue
			}
			if st, err := r.world.AgentStatus(ctx, c.machine); err == nil {
				r.board.sawAgent(c.view, st, fleet.NameOf)
			}
		}
	}
}

// report turns what happened into figures, by the names of the kernel's.
func (r *memoryRun) report() *figures.File {
	file := figures.New(r.opts.Command, "memory")
	rtt := strconv.FormatFloat(float64(r.opts.RTT)/float64(time.Millisecond), 'f', -1, 64)
	add := func(f figures.Figure) { file.Add(f.Label("rtt_ms", rtt)) }
	wrong, fetches := 0, 0
	for _, c := range r.clients {
		for _, when := range measured {
			samples := r.board.samplesOf(c.view, when)
			if len(samples) == 0 && !expected(c.view.System, when) {
				continue
			}
			for _, f := range clientFigures(c.view.System, when, samples) {
				add(f)
			}
			for _, s := range samples {
				fetches++
				if s.Wrong {
					wrong++
				}
			}
		}
	}
	add(figures.Count("digest.mismatch", "", "", wrong, fetches).AtMost(0))
	r.moves(add)
	add(figures.Count("tun.unprotected", "ms", phasePeace, r.strays, r.siteFetches).AtMost(0))
	for _, x := range r.scans {
		add(figures.Count("standby.replies", "ms", x.when, x.replies, x.probes).AtMost(0))
		add(figures.Count("standby.different", "ms", x.when, x.different, x.probes).AtMost(0))
	}
	add(figures.Skip("stall", "ms", phaseFlood, "no long download runs in this demo yet"))
	return file
}

// moves are P1's way through its states, and the clients' to another proxy.
func (r *memoryRun) moves(add func(figures.Figure)) {
	detect := figures.Times("detect.delay", "ms", phaseFlood, nil)
	if at, ok := r.noticed(); ok {
		detect = figures.Times("detect.delay", "ms", phaseFlood, []time.Duration{max(0, at.Sub(r.floodStart))})
	}
	add(detect.Label("kind", string(r.opts.Kind)).AtMost(3000))
	_, suspended := r.board.reached("p1", r.floodStart, "suspended")
	add(flag("p1.suspended", suspended))
	add(flag("p1.back", r.back))
	r.board.mu.Lock()
	defer r.board.mu.Unlock()
	for _, c := range r.clients {
		switch c.view.System {
		case "ms":
			add(figures.Count("moves", "ms", phaseFlood, int(c.view.Moves), 1).AtLeast(1))
		case "ms-fresh":
			add(figures.Count("transfers", "ms-fresh", phaseFlood, int(c.view.Transfers), 1).AtLeast(1))
		}
	}
	checked := int(r.board.proxyLocked("p1").Counts["transfers"])
	add(figures.Count("transfers.checker", "ms-fresh", phaseFlood, checked, 1).AtLeast(1))
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
