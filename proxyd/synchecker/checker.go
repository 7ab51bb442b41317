package synchecker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"migrationsensor/proto"
)

// Mode is what the checker does; the parent switches it with the proxy's state.
type Mode int32

const (
	Off    Mode = iota // the kernel answers; nothing is read
	Dark               // a hidden edge: knocks and keyed SYNs admit, nothing is answered
	Defend             // an entry under attack: the checker answers, the kernel is silent
)

func (m Mode) String() string {
	switch m {
	case Off:
		return "off"
	case Dark:
		return "dark"
	case Defend:
		return "defend"
	}
	return fmt.Sprintf("mode %d", int32(m))
}

// batch is how many frames one turn of the loop takes and answers.
const batch = 64

// Client is a newcomer that proved itself.
type Client struct {
	proto.Verified
	From  netip.AddrPort // as seen here
	Local netip.AddrPort // which of our addresses it dialled
}

// Config is what a Checker needs. Verified, Admit and Admitted are called from the loop and must not
// block.
type Config struct {
	Port     Port // closed when Run ends
	Addrs    []netip.Addr
	LinkPort uint16
	Keys     *proto.Keyring
	Node     proto.NodeID
	Nonces   *proto.NonceSet // shared with the link listener

	Budget BudgetConfig // how many ordinary SYNs are answered
	shares *Shares      // tests: these instead

	// Verified decides what a proven client is told; false: nothing. Asked again for a retransmitted
	// preamble, it should say the same, so that the client gets the identical segment.
	Verified func(Client) (proto.Reply, bool)
	// Admit opens the door for an address: a knock, or a keyed SYN at a hidden edge.
	Admit func(v proto.Verified, addr netip.Addr)
	// Stranger is told of those who completed their handshake and proved nothing: why is bad_tag or bad_mac. nil: nobody is.
	// What a packet program drops of them is in Offload.Strangers.
	Stranger func(addr netip.Addr, why string)
	// Admitted says whose packets the firewall lets through to the kernel, so that never both answer.
	// It is asked for each SYN. nil: nobody's.
	Admitted func(addr netip.Addr) bool

	Log  *slog.Logger     // nil: none
	Now  func() time.Time // nil: time.Now
	Rand mathrand.Source  // draws for the shares; nil: a ChaCha8 of its own
}

// Checker is the SYN Checker. SetMode, Stats and Sampling may be called from any goroutine.
type Checker struct {
	cfg  Config
	log  *slog.Logger
	jar  jar
	mode atomic.Int32
	n    counters
	says atomic.Pointer[Sampling] // of what the port reads
	told atomic.Pointer[Sampling] // of what a packet program answers; nil: there is none

	programming sync.Mutex // guards what follows
	programmed  Rules

	// Owned by Run's goroutine.
	budget    Budget
	shares    Shares
	load      Load
	ticked    time.Time
	egress    egress
	repeats   *repeats // nil with Probability
	enrol     bucket
	newcomers *agents // addresses that show a token
	agents    *agents
	seg       segment
	bufs      [batch][maxFrame]byte
	out       [][]byte // frames to send, in bufs
	warned    time.Time
}

// New checks cfg. The checker is Off until SetMode.
func New(cfg Config) (*Checker, error) {
	switch {
	case cfg.Port == nil, cfg.Keys == nil, cfg.Nonces == nil, cfg.Verified == nil, cfg.Admit == nil:
		return nil, errors.New("syn checker: Port, Keys, Nonces, Verified and Admit must be set")
	case len(cfg.Addrs) == 0 || cfg.LinkPort == 0:
		return nil, errors.New("syn checker: no address or no link port")
	}
	budget, err := NewBudget(cfg.Budget)
	if err != nil {
		return nil, fmt.Errorf("syn checker: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		var seed [32]byte
		rand.Read(seed[:]) // never fails (crypto/rand)
		cfg.Rand = mathrand.NewChaCha8(seed)
	}
	if cfg.Stranger == nil {
		cfg.Stranger = func(netip.Addr, string) {}
	}
	if cfg.Admitted == nil {
		cfg.Admitted = func(netip.Addr) bool { return false }
	}
	cfg.Addrs = slices.Clone(cfg.Addrs)
	for i, a := range cfg.Addrs {
		cfg.Addrs[i] = a.Unmap().WithZone("")
	}
	c := &Checker{
		cfg: cfg, log: cfg.Log, agents: new(agents), newcomers: new(agents), jar: newJar(cfg.Now()),
		budget: budget, out: make([][]byte, 0, batch),
	}
	if cfg.Budget.Probability == 0 {
		c.repeats = newRepeats(bloomBits)
	}
	c.advance(cfg.Now())
	return c, nil
}

// SetMode switches what the checker does from the next frame on.
func (c *Checker) SetMode(m Mode) error {
	if err := c.program(true); err != nil {
		return fmt.Errorf("syn checker to mode %v: %w", m, err)
	}
	c.mode.Store(int32(m))
	if err := c.cfg.Port.Arm(m); err != nil {
		return fmt.Errorf("syn checker to mode %v: %w", m, err)
	}
	return nil
}

// program tells a packet program what has changed. At least it needs to know the time of day, and a
// port that was opened again everything: so now and then it is told all the same.
func (c *Checker) program(anyway bool) error {
	o, ok := c.cfg.Port.(Offload)
	if !ok {
		return nil
	}
	c.programming.Lock()
	defer c.programming.Unlock()
	r := c.rules()
	if !anyway && r.equal(c.programmed) {
		return nil
	}
	if err := o.Program(r); err != nil {
		return fmt.Errorf("packet program: %w", err)
	}
	c.programmed = r
	return nil
}

func (c *Checker) rules() Rules {
	return Rules{jar: c.jar, keys: c.cfg.Keys.TagMasters(), Shares: c.Sampling().Shares}
}

// keep keeps a packet program up to date until ctx is done.
// The budget is its own: what the port reads is hardly any of the flood.
func (c *Checker) keep(ctx context.Context, o Offload, budget Budget) {
	const anyway = 100
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.steer(o, &budget)
		if err := c.program(n%anyway == 0); err != nil && ctx.Err() == nil && n%anyway == 0 {
			c.log.Warn("packet program goes by old rules", "err", err)
		}
	}
}

// steer sets the program's shares by what it has seen. Nobody measures its processor time, of which it takes a fifteenth of the
// kernel's for the same: Answers is its limit.
func (c *Checker) steer(o Offload, b *Budget) {
	if !o.Offloads() {
		c.told.Store(nil)
		return
	}
	n, err := o.Stats()
	if err != nil {
		return // it is being replaced, or closed
	}
	s := Sampling{BudgetConfig: c.cfg.Budget}
	s.Shares, s.Intake = b.Advance(c.cfg.Now(), n.Load())
	if c.cfg.shares != nil {
		s.Shares = *c.cfg.shares
	}
	c.told.Store(&s)
}

// Stats reads the counters.
func (c *Checker) Stats() Stats {
	s := c.n.stats()
	if o, ok := c.cfg.Port.(Offload); ok {
		if program, err := o.Stats(); err == nil {
			s = s.Add(program)
		}
	}
	s.RingLost = c.cfg.Port.Lost()
	return s
}

// Sampling is how SYNs are chosen now.
type Sampling struct {
	BudgetConfig
	Shares
	Intake float64 // share of plain SYNs that is looked at: below 1 where more come than can be read
}

// Sampling tells how SYNs are chosen now.
func (c *Checker) Sampling() Sampling {
	if s := c.told.Load(); s != nil {
		return *s
	}
	return *c.says.Load()
}

// advance sets the shares by what came since it was last called.
func (c *Checker) advance(now time.Time) {
	c.ticked = now
	c.load.Lost, c.load.Busy = c.cfg.Port.Lost(), threadTime()
	s := Sampling{BudgetConfig: c.cfg.Budget}
	s.Shares, s.Intake = c.budget.Advance(now, c.load)
	if c.cfg.shares != nil {
		s.Shares, s.Intake = *c.cfg.shares, 1
	}
	if p, ok := c.cfg.Port.(Sampler); ok {
		if err := p.Sample(s.Intake); err != nil && !errors.Is(err, net.ErrClosed) {
			c.log.Warn("SYNs not sampled", "err", err)
		}
	}
	c.shares = s.Shares
	c.says.Store(&s)
}

// Run reads and answers until ctx is done or the port fails, and closes the port. nil means a stop
// that was asked for.
func (c *Checker) Run(ctx context.Context) error {
	runtime.LockOSThread() // whose processor time is measured
	defer runtime.UnlockOSThread()
	defer c.cfg.Port.Close()
	if o, ok := c.cfg.Port.(Offload); ok {
		keeping, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		budget := c.budget
		wg.Go(func() { c.keep(keeping, o, budget) })
		defer wg.Wait()
		defer cancel()
	}
	defer context.AfterFunc(ctx, func() { c.cfg.Port.Close() })()
	c.budget.at = time.Time{} // the time of another thread says nothing
	c.advance(c.cfg.Now())
	frames := make([]Frame, batch)
	for {
		n, err := c.cfg.Port.Read(frames)
		switch {
		case ctx.Err() != nil && (err == nil || errors.Is(err, net.ErrClosed)):
			return nil
		case err != nil:
			return fmt.Errorf("syn checker: %w", err)
		}
		c.turn(frames[:n], c.cfg.Now())
	}
}

// turn handles one batch of frames and sends the answers.
func (c *Checker) turn(frames []Frame, now time.Time) {
	if c.load.Read += uint64(len(frames)); now.Sub(c.ticked) >= tick || now.Before(c.ticked) {
		c.advance(now)
	}
	c.out = c.out[:0]
	for i := range frames {
		c.handle(&frames[i], now)
	}
	if len(c.out) == 0 {
		return
	}
	sent, err := c.cfg.Port.Write(c.out)
	if sent == len(c.out) {
		return
	}
	c.n.sendLost.Add(uint64(len(c.out) - sent))
	if now.Sub(c.warned) >= time.Second {
		c.warned = now
		c.log.Warn("answers lost", "count", len(c.out)-sent, "err", err)
	}
}
