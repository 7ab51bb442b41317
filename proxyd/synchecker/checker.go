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

	P float64 // share of ordinary SYNs to answer, 0 to 1: the paper's p

	// SYNLimit is the most ordinary SYNs a second to look at; 0: no limit. The paper had a firewall
	// rule for it in front of its SYN Checker. It sits here because a packet socket sees packets
	// before the netdev ingress hook does; and so it can spare the keyed ones.
	SYNLimit float64

	// Verified decides what a proven client is told; false: nothing. Asked again for a retransmitted
	// preamble, it should say the same, so that the client gets the identical segment.
	Verified func(Client) (proto.Reply, bool)
	// Admit opens the door for an address: a knock, or a keyed SYN at a hidden edge.
	Admit func(v proto.Verified, addr netip.Addr)
	// Admitted says whose packets the firewall lets through to the kernel, so that never both answer.
	// It is asked for each SYN. nil: nobody's.
	Admitted func(addr netip.Addr) bool

	Log  *slog.Logger     // nil: none
	Now  func() time.Time // nil: time.Now
	Rand mathrand.Source  // draws for P; nil: a ChaCha8 of its own
}

// Checker is the SYN Checker. SetMode and Stats may be called from any goroutine.
type Checker struct {
	cfg    Config
	log    *slog.Logger
	jar    jar
	mode   atomic.Int32
	shares atomic.Pointer[Shares]
	n      counters

	programming sync.Mutex // guards what follows
	programmed  Rules

	// Owned by Run's goroutine.
	limit  bucket
	enrol  bucket
	agents *agents
	seg    segment
	bufs   [batch][maxFrame]byte
	out    [][]byte // frames to send, in bufs
	warned time.Time
}

// New checks cfg. The checker is Off until SetMode.
func New(cfg Config) (*Checker, error) {
	switch {
	case cfg.Port == nil, cfg.Keys == nil, cfg.Nonces == nil, cfg.Verified == nil, cfg.Admit == nil:
		return nil, errors.New("syn checker: Port, Keys, Nonces, Verified and Admit must be set")
	case len(cfg.Addrs) == 0 || cfg.LinkPort == 0:
		return nil, errors.New("syn checker: no address or no link port")
	case !(cfg.P >= 0 && cfg.P <= 1):
		return nil, fmt.Errorf("syn checker: p = %v, want 0 to 1", cfg.P)
	case !(cfg.SYNLimit >= 0):
		return nil, fmt.Errorf("syn checker: syn_limit = %v, want 0 (none) or more", cfg.SYNLimit)
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
	if cfg.Admitted == nil {
		cfg.Admitted = func(netip.Addr) bool { return false }
	}
	cfg.Addrs = slices.Clone(cfg.Addrs)
	for i, a := range cfg.Addrs {
		cfg.Addrs[i] = a.Unmap().WithZone("")
	}
	c := &Checker{
		cfg: cfg, log: cfg.Log, agents: new(agents), jar: newJar(cfg.Now()), out: make([][]byte, 0, batch),
	}
	c.shares.Store(&Shares{Fresh: cfg.P, Again: cfg.P})
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

// SetShares changes how many of the ordinary SYNs are answered, from the next one on. It begins with
// Config.P for both kinds and no limit.
func (c *Checker) SetShares(s Shares) error {
	if err := s.check(); err != nil {
		return fmt.Errorf("syn checker: %w", err)
	}
	c.shares.Store(&s)
	return c.program(false)
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
	return Rules{jar: c.jar, keys: c.cfg.Keys.TagMasters(), Shares: *c.shares.Load(), SYNLimit: c.cfg.SYNLimit}
}

// keep keeps a packet program up to date until ctx is done.
func (c *Checker) keep(ctx context.Context) {
	const tick, anyway = time.Second, 10
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := c.program(n%anyway == 0); err != nil && ctx.Err() == nil && n%anyway == 0 {
			c.log.Warn("packet program goes by old rules", "err", err)
		}
	}
}

// Stats reads the counters.
func (c *Checker) Stats() Stats {
	s := c.n.stats()
	if o, ok := c.cfg.Port.(Offload); ok {
		if program, err := o.Stats(); err == nil {
			s.add(program)
		}
	}
	s.RingLost = c.cfg.Port.Lost()
	return s
}

// Run reads and answers until ctx is done or the port fails, and closes the port. nil means a stop
// that was asked for.
func (c *Checker) Run(ctx context.Context) error {
	defer c.cfg.Port.Close()
	if _, ok := c.cfg.Port.(Offload); ok {
		keeping, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { c.keep(keeping) })
		defer wg.Wait()
		defer cancel()
	}
	defer context.AfterFunc(ctx, func() { c.cfg.Port.Close() })()
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
