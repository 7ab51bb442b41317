package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"migrationsensor/agent"
)

// CrowdConfig says who is in a crowd.
type CrowdConfig struct {
	Agents  int
	Watched int           // of them, whose connection has the rhythm; the others write now and then
	Every   time.Duration // the rhythm
	Rarely  time.Duration // of the others
	Token   string        // a file
	State   string        // a folder
	Source  netip.Prefix  // each agent has an address of its own out of it
	First   int           // number of the first agent
	To      netip.AddrPort
	Limit   time.Duration // for all to be there
}

// Crowd is many agents in one process, without a TUN, each with one connection to an echo. Its methods are called from another
// process (net/rpc). Its agents send no keyed SYN, as those of most systems.
type Crowd struct {
	net    Net
	ctx    context.Context // of the agents
	cancel context.CancelFunc
	rhythm context.Context // of the connections, which end before
	still  context.CancelFunc

	mu      sync.Mutex
	cfg     CrowdConfig
	members []*member
	idle    []net.Conn
}

// endLimit is how long a connection may take to end: what an agent may need to come back, and a little more. What is not
// back by then is lost.
const endLimit = 100 * time.Second

// The signing node enrols 100 a second and 8 at once; a session's beginning is more work than that.
const (
	joinEvery  = 11 * time.Millisecond
	joinBurst  = 100
	joinAtOnce = 8
)

type member struct {
	agent *agent.Agent
	paced *Paced
	ran   chan error // the agent's
	echo  chan error // the connection's
}

// Net makes the sockets of a crowd's agents, each from the agent's own address.
type Net interface {
	Dial(ctx context.Context, source netip.Addr, to netip.AddrPort) (net.Conn, error)
	Knock(ctx context.Context, source netip.Addr, to netip.AddrPort, b []byte) error
}

// NewCrowd returns one on the kernel's network that nobody has joined.
func NewCrowd(ctx context.Context) *Crowd { return NewCrowdOn(ctx, system{}) }

// NewCrowdOn returns one on another network.
func NewCrowdOn(ctx context.Context, n Net) *Crowd {
	c := &Crowd{net: n}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.rhythm, c.still = context.WithCancel(c.ctx)
	return c
}

// Join starts all agents and connects them.
func (c *Crowd) Join(cfg CrowdConfig, joined *int) error {
	token, err := os.ReadFile(cfg.Token)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx, cfg.Limit)
	defer cancel()
	members := make([]*member, cfg.Agents)
	errs := make([]error, cfg.Agents)
	var all sync.WaitGroup
	few := make(chan struct{}, joinAtOnce)
	next := time.NewTicker(joinEvery)
	defer next.Stop()
	for i := range members {
		if i >= joinBurst && ctx.Err() == nil {
			<-next.C
		}
		all.Go(func() {
			few <- struct{}{}
			defer func() { <-few }()
			if members[i], errs[i] = c.member(ctx, cfg, i, string(token)); errs[i] != nil {
				cancel() // one cause is enough
			}
		})
	}
	all.Wait()
	if err := errors.Join(firstOf(errs)); err != nil {
		return err
	}
	c.begin(cfg, members)
	*joined = len(members)
	return nil
}

func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

// begin starts the rhythm.
func (c *Crowd) begin(cfg CrowdConfig, members []*member) {
	watched := min(cfg.Watched, len(members))
	ticks := append(pace(c.rhythm, watched, cfg.Every), pace(c.rhythm, len(members)-watched, cfg.Rarely)...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg, c.members = cfg, members
	for i, m := range members {
		m.echo = make(chan error, 1)
		go func() { m.echo <- m.paced.Run(context.Background(), ticks[i], endLimit) }()
	}
}

func (c *Crowd) member(ctx context.Context, cfg CrowdConfig, i int, token string) (*member, error) {
	source := nth(cfg.Source, cfg.First+i)
	a := agent.DefaultConfig()
	a.State, a.Socket, a.NoTUN, a.Token = filepath.Join(cfg.State, strconv.Itoa(cfg.First+i)), "", true, token
	a.Dwell, a.MaxMoves = 0, 0
	made, err := agent.New(a, agent.System{
		Own: func() []netip.Addr { return nil },
		Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			return c.net.Dial(ctx, source, to)
		},
		Knock: func(ctx context.Context, to netip.AddrPort, b []byte) error { return c.net.Knock(ctx, source, to, b) },
	})
	if err != nil {
		return nil, err
	}
	m := &member{agent: made, ran: make(chan error, 1)}
	go func() { m.ran <- made.Run(c.ctx) }()
	conn, err := m.connect(ctx, cfg.To)
	if err != nil {
		return nil, fmt.Errorf("agent %d: %w (%s)", cfg.First+i, err, made.Summary())
	}
	if m.paced, err = NewPaced(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return m, nil
}

// connect opens a connection as soon as the agent is there.
func (m *member) connect(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	select {
	case <-m.agent.Ready():
	case err := <-m.ran:
		m.ran <- err
		return nil, fmt.Errorf("it ended: %w", err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for {
		conn, err := m.agent.DialContext(ctx, "tcp", to.String())
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
		select {
		case <-time.After(100 * time.Millisecond): // it goes on trying to connect by itself
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// nth is an address of a prefix; the first one is left out.
func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Masked().Addr().As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += uint32(n) + 1
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// system is the kernel's network.
type system struct{}

// Dial dials IPv4 from an address.
func (system) Dial(ctx context.Context, source netip.Addr, to netip.AddrPort) (net.Conn, error) {
	return dialFrom(ctx, source, "tcp", to.String())
}

// Knock sends a datagram.
func (system) Knock(ctx context.Context, source netip.Addr, to netip.AddrPort, b []byte) error {
	u, err := dialFrom(ctx, source, "udp", to.String())
	if err != nil {
		return err
	}
	defer u.Close()
	_, err = u.Write(b)
	return err
}

func dialFrom(ctx context.Context, source netip.Addr, network, addr string) (net.Conn, error) {
	d := net.Dialer{Control: firstFlight}
	d.SetMultipathTCP(false)
	if d.LocalAddr = net.Addr(net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))); network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	return d.DialContext(ctx, network, addr)
}

// Window is a time.
type Window struct{ From, To time.Time }

// Stalls is what the watched connections felt in a window.
type Stalls struct {
	Longest []time.Duration // wait of each watched connection, less the rhythm
	Open    int             // connections that still wait
}

// Stalls tells.
func (c *Crowd) Stalls(w Window, s *Stalls) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members[:min(c.cfg.Watched, len(c.members))] {
		longest, open := m.paced.Longest(w.From, w.To)
		s.Longest = append(s.Longest, Stall(longest, c.cfg.Every))
		if open {
			s.Open++
		}
	}
	return nil
}

// Place is where an agent is: the address that its control link leads to, and that of the data link for new streams.
type Place struct {
	Control, Data string
	Since         time.Time // when the anchor took the data link in
	ControlSince  time.Time
	Moves         uint64
}

// Places tells where all are.
func (c *Crowd) Places(_ struct{}, all *[]Place) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		st := m.agent.Status()
		p := Place{Moves: st.Counts.Moves}
		if st.Edge != nil {
			p.Control, p.ControlSince = st.Edge.Addr, st.Edge.Since
		}
		for _, l := range st.Links {
			if l.Kind == "data" && l.Confirmed.After(p.Since) {
				p.Data, p.Since = l.Addr, l.Confirmed
			}
		}
		*all = append(*all, p)
	}
	return nil
}

// Open opens n more connections from each agent and leaves them idle.
func (c *Crowd) Open(n int, opened *int) error {
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	c.mu.Lock()
	members, to := c.members, c.cfg.To
	c.mu.Unlock()
	var all sync.WaitGroup
	errs := make([]error, len(members))
	for i, m := range members {
		all.Go(func() {
			for range n {
				conn, err := m.agent.DialContext(ctx, "tcp", to.String())
				if err != nil {
					errs[i] = err
					return
				}
				c.mu.Lock()
				c.idle = append(c.idle, conn)
				c.mu.Unlock()
			}
		})
	}
	all.Wait()
	c.mu.Lock()
	*opened = len(c.idle)
	c.mu.Unlock()
	return firstOf(errs)
}

// Memory is the process's.
type Memory struct{ Heap, Stacks int64 }

// Memory tells, after a collection.
func (c *Crowd) Memory(_ struct{}, m *Memory) error {
	debug.FreeOSMemory() // collects
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	m.Heap, m.Stacks = int64(s.HeapAlloc), int64(s.StackInuse)
	return nil
}

// Ended is what came of all connections.
type Ended struct {
	Sent, Lost int64
	Broken     []string // the first few of those that did not end cleanly
	Failed     int
}

// End ends every connection cleanly, waits for what was sent to come back, and lets the agents go.
func (c *Crowd) End(_ struct{}, e *Ended) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.idle {
		_ = conn.Close()
	}
	c.still()
	for _, m := range c.members {
		if err := <-m.echo; err != nil {
			e.Failed++
			if len(e.Broken) < 5 {
				e.Broken = append(e.Broken, err.Error())
			}
		}
		e.Sent += m.paced.Sent()
		e.Lost += m.paced.Lost()
	}
	c.cancel()
	for _, m := range c.members {
		if err := <-m.ran; err != nil && len(e.Broken) < 5 {
			e.Broken = append(e.Broken, "agent: "+err.Error())
		}
	}
	c.members = nil
	return nil
}
