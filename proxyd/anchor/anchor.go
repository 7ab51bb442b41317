// Package anchor ends the sessions of agents and holds their connections to the origins: the half of
// the paper's proxy (section 4.2) that stands before the server, for clients that come over a link.
//
// Each stream of a session is one application's connection. Its OPEN names a service; the anchor
// checks the agent's groups, dials the origin and says how that went, so that the application's
// connect() tells the truth. Then bytes, half-closes and resets cross both ways; an answer that is cut
// off ends with a reset, never with a clean end.
//
// In this form a session lives as long as its one link. Where it gets its services, and whether this
// node serves at all, its parent decides.
package anchor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
)

// Bounds that are not set (ours but for the streams of a session).
const (
	askTimeout       = 5 * time.Second  // for SESSION, on a new link
	dialTimeout      = 10 * time.Second // for an origin
	defaultStreams   = 4096             // of a session
	defaultAll       = 65536            // streams of all sessions
	defaultSessions  = 65536
	defaultOfAgent   = 1024 // sessions; `probe = "each"` makes one for each connection
	maxFirstWindow   = 4 << 20
	sessionFrameSize = 1 << 10
)

// A Service is an origin that agents may reach.
type Service struct {
	Name          string
	Origin        string   // host:port
	Groups        []string // an agent needs one of them; empty: every agent of the fleet
	ProxyProtocol bool     // tell the origin the agent's address (PROXY protocol, version 2)
	Public        []netip.AddrPort
}

// Config is set once. Zero bounds mean the defaults.
type Config struct {
	Services         func(name string) (Service, bool)
	Dial             func(ctx context.Context, network, address string) (net.Conn, error) // nil: the kernel
	Begin            func(origin string) (Dialing, bool)                                  // tried before Dial; may be nil, or the package's own
	DialTimeout      time.Duration
	MaxStreams       int // of a session
	MaxAllStreams    int
	MaxSessions      int
	MaxSessionsOfOne int // agent
	Log              *slog.Logger
}

// A Session is what is known of a live one, for USERINFO and status.
type Session struct {
	ID       proto.SessionID
	Agent    proto.AgentID
	Addr     netip.AddrPort // the agent's, as seen
	Since    time.Time
	Streams  int
	Services []string // in use now, sorted
}

// Stats count since New.
type Stats struct {
	Sessions    int // now
	Streams     int // now
	Opened      uint64
	Refused     uint64 // by origins
	Unreachable uint64
	TimedOut    uint64
	Denied      uint64
	Busy        uint64
	In, Out     uint64 // bytes from and to agents
}

// Anchor holds sessions. It is safe for concurrent use.
type Anchor struct {
	cfg Config
	log *slog.Logger

	streams                                                       atomic.Int64
	opened, refused, unreachable, timedOut, denied, busy, in, out atomic.Uint64

	mu       sync.Mutex // guards what follows
	sessions map[*attached]struct{}
	ofAgent  map[proto.AgentID]int
}

// attached is a session and who it belongs to.
type attached struct {
	id    proto.SessionID
	agent proto.Identity
	addr  netip.AddrPort
	since time.Time
	sess  *session.Session

	mu    sync.Mutex
	inUse map[string]int // streams by service
}

// ErrFull is that the anchor, or this agent's share of it, has no room for another session.
var ErrFull = errors.New("too many sessions")

// New makes an Anchor.
func New(cfg Config) *Anchor {
	if cfg.Dial == nil {
		d := &net.Dialer{}
		d.SetMultipathTCP(false)
		cfg.Dial = d.DialContext
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = dialTimeout
	}
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&cfg.MaxStreams, defaultStreams)
	def(&cfg.MaxAllStreams, defaultAll)
	def(&cfg.MaxSessions, defaultSessions)
	def(&cfg.MaxSessionsOfOne, defaultOfAgent)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Anchor{cfg: cfg, log: cfg.Log, sessions: map[*attached]struct{}{}, ofAgent: map[proto.AgentID]int{}}
}

// Serve ends a data link: it waits for SESSION, answers, and carries the session until the link or ctx
// ends. It closes the link. It returns when every origin connection of the session has ended.
func (a *Anchor) Serve(ctx context.Context, l net.Conn, id proto.Identity, agentAddr netip.AddrPort) error {
	defer l.Close()
	req, err := ask(l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	at := &attached{id: proto.NewSessionID(), agent: id, addr: agentAddr, since: time.Now(), inUse: map[string]int{}}
	at.sess = session.New(session.Config{
		Server: true, ID: at.id, PeerWindow: int(req.Credit), MaxStreams: a.cfg.MaxStreams, Log: a.log,
		Accept: func(st *session.Stream, service string) { a.open(ctx, &wg, at, st, service) },
	})
	if err := a.attach(at); err != nil {
		return err
	}
	defer a.detach(at)
	share, _ := at.sess.Serve(req, time.Now())
	err = link.Pump(ctx, l, share)
	at.sess.Close(err)
	cancel()
	wg.Wait()
	return err
}

// ask reads SESSION.
func ask(l net.Conn) (*proto.Session, error) {
	l.SetDeadline(time.Now().Add(askTimeout))
	m, err := proto.NewReader(l, sessionFrameSize).Message()
	if err != nil {
		return nil, fmt.Errorf("wait for SESSION: %w", err)
	}
	req, ok := m.(*proto.Session)
	if !ok {
		return nil, fmt.Errorf("wait for SESSION: got type %#x: %w", uint8(m.Type()), proto.ErrMessage)
	}
	if err := l.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("wait for SESSION: %w", err)
	}
	req.Credit = min(req.Credit, maxFirstWindow)
	return req, nil // what is sent is kept until acknowledged: a bound on our memory
}

func (a *Anchor) attach(at *attached) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.sessions) >= a.cfg.MaxSessions || a.ofAgent[at.agent.Agent] >= a.cfg.MaxSessionsOfOne {
		return fmt.Errorf("session of agent %s: %w", at.agent.Agent, ErrFull)
	}
	a.sessions[at] = struct{}{}
	a.ofAgent[at.agent.Agent]++
	return nil
}

func (a *Anchor) detach(at *attached) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sessions, at)
	if a.ofAgent[at.agent.Agent]--; a.ofAgent[at.agent.Agent] == 0 {
		delete(a.ofAgent, at.agent.Agent)
	}
}

// Streams is how many connections to origins there are, or are being made.
func (a *Anchor) Streams() int { return int(a.streams.Load()) }

// Sessions lists the live sessions.
func (a *Anchor) Sessions() []Session {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]Session, 0, len(a.sessions))
	for at := range a.sessions {
		out = append(out, at.info())
	}
	return out
}

func (at *attached) info() Session {
	s := Session{ID: at.id, Agent: at.agent.Agent, Addr: at.addr, Since: at.since}
	at.mu.Lock()
	defer at.mu.Unlock()
	for name, n := range at.inUse {
		s.Services = append(s.Services, name)
		s.Streams += n
	}
	slices.Sort(s.Services)
	return s
}

// CloseAll ends every session: all their streams are reset.
func (a *Anchor) CloseAll(err error) {
	a.closeIf(func(*attached) bool { return true }, err)
}

// Close ends an agent's sessions, as for its revocation.
func (a *Anchor) Close(agent proto.AgentID, err error) {
	a.closeIf(func(at *attached) bool { return at.agent.Agent == agent }, err)
}

func (a *Anchor) closeIf(match func(*attached) bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for at := range a.sessions {
		if match(at) {
			at.sess.Close(err)
		}
	}
}

// Stats returns the counts.
func (a *Anchor) Stats() Stats {
	a.mu.Lock()
	sessions := len(a.sessions)
	a.mu.Unlock()
	return Stats{
		Sessions: sessions, Streams: a.Streams(), Opened: a.opened.Load(), Refused: a.refused.Load(),
		Unreachable: a.unreachable.Load(), TimedOut: a.timedOut.Load(), Denied: a.denied.Load(),
		Busy: a.busy.Load(), In: a.in.Load(), Out: a.out.Load(),
	}
}
