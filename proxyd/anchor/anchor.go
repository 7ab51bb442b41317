// Package anchor ends the sessions of agents and holds their connections to the origins: the half of
// the paper's proxy (section 4.2) that stands before the server, for clients that come over a link.
//
// Each stream of a session is one application's connection. Its OPEN names a service; the anchor
// checks the agent's groups, dials the origin and says how that went, so that the application's
// connect() tells the truth. Then bytes, half-closes and resets cross both ways; an answer that is cut
// off ends with a reset, never with a clean end.
//
// A session outlives its links: it waits, for a time of grace, until its agent comes back over another
// one with RESUME. Its connections to the origins belong to it, not to a link. Where it gets its services,
// and whether this node serves at all, its parent decides.
package anchor

import (
	"container/list"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"migrationsensor/proto"
)

// Bounds that are not set (PROTOCOL's: grace, the streams of a session and the detached ones of an agent; else ours).
const (
	dialTimeout     = 10 * time.Second  // for an origin
	defaultGrace    = 120 * time.Second // longer than an agent tries to resume, 90 s
	defaultStreams  = 4096              // of a session
	defaultAll      = 65536             // streams of all sessions
	defaultSessions = 65536
	defaultOfAgent  = 1024 // sessions; `probe = "each"` makes one for each connection
	defaultDetached = 4    // sessions of one agent
	defaultResumes  = 2000 // a second; see bucket
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
	Services      func(name string) (Service, bool)                                    // asked at each OPEN: a change is for new streams
	Dial          func(ctx context.Context, network, address string) (net.Conn, error) // nil: the kernel
	Begin         func(origin string) (Dialing, bool)                                  // tried before Dial; may be nil, or the package's own
	DialTimeout   time.Duration
	Grace         time.Duration // how long a session outlives its last link
	ResumeRate    int           // RESUMEs a second of all agents; as many at once
	Memory        int64         // bytes for streams of all sessions; default a quarter of the machine's, at most 2 GiB
	MaxStreams    int           // of a session
	MaxAllStreams int
	MaxSessions   int
	// of one agent
	MaxSessionsOfOne int
	MaxDetachedOfOne int
	MaxStreamsOfOne  int   // default a quarter of all, and no fewer than a session's
	MemoryOfOne      int64 // default a quarter of the memory, and enough for one session
	Log              *slog.Logger
}

// A Session is what is known of a live one, for USERINFO and status.
type Session struct {
	ID       proto.SessionID
	Agent    proto.AgentID
	Addr     netip.AddrPort // the agent's, as seen
	Since    time.Time
	Links    int // 0: it waits for its agent
	Streams  int
	Services []string // in use now, sorted
}

// Stats count since New.
type Stats struct {
	Sessions     int   // now
	Detached     int   // of these, without a link
	Links        int   // now, whichever way they come
	Streams      int   // now
	Memory       int64 // bytes charged now
	Opened       uint64
	Refused      uint64 // by origins
	Unreachable  uint64
	TimedOut     uint64
	Denied       uint64
	Busy         uint64
	Resumed      uint64 // links taken in with RESUME; one on a link that was there already is not counted
	NotResumed   uint64 // ATTACHes and RESUMEs refused, but for those that were told to come again
	ResumesLater uint64 // told to come again
	Expired      uint64 // sessions whose grace was over, or that made room
	In, Out      uint64 // bytes from and to agents
}

// Anchor holds sessions. It is safe for concurrent use.
type Anchor struct {
	cfg    Config
	log    *slog.Logger
	budget *budget
	wg     sync.WaitGroup // links and streams

	streams                                                       atomic.Int64
	opened, refused, unreachable, timedOut, denied, busy, in, out atomic.Uint64
	resumed, notResumed, later, expired                           atomic.Uint64

	mu       sync.Mutex // guards what follows; never held while a session's methods are called
	stopped  bool
	sessions map[proto.SessionID]*attached
	agents   map[proto.AgentID]*agentSessions
	accounts map[proto.AgentID]*account
	links    map[*dataLink]struct{}
	detached *list.List // of *attached, the oldest first
	gone     ring
	resumes  bucket
}

// New makes an Anchor. Run waits for what it starts.
func New(cfg Config) *Anchor {
	if cfg.Dial == nil {
		d := &net.Dialer{}
		d.SetMultipathTCP(false)
		cfg.Dial = d.DialContext
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = dialTimeout
	}
	if cfg.Grace == 0 {
		cfg.Grace = defaultGrace
	}
	if cfg.Memory == 0 {
		cfg.Memory = defaultMemory()
	}
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&cfg.ResumeRate, defaultResumes)
	def(&cfg.MaxStreams, defaultStreams)
	def(&cfg.MaxAllStreams, defaultAll)
	def(&cfg.MaxSessions, defaultSessions)
	def(&cfg.MaxSessionsOfOne, defaultOfAgent)
	def(&cfg.MaxDetachedOfOne, defaultDetached)
	def(&cfg.MaxStreamsOfOne, max(cfg.MaxAllStreams/shareOfOne, cfg.MaxStreams))
	if cfg.MemoryOfOne == 0 {
		cfg.MemoryOfOne = max(cfg.Memory/shareOfOne, memoryOfOne)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Anchor{
		cfg: cfg, log: cfg.Log, budget: &budget{total: cfg.Memory},
		sessions: map[proto.SessionID]*attached{}, agents: map[proto.AgentID]*agentSessions{},
		accounts: map[proto.AgentID]*account{}, links: map[*dataLink]struct{}{}, detached: list.New(), resumes: newBucket(cfg.ResumeRate),
	}
}

// Run holds the sessions until ctx is done; then it ends them all and returns when every goroutine and every
// connection to an origin has ended.
func (a *Anchor) Run(ctx context.Context) error {
	<-ctx.Done()
	a.mu.Lock()
	a.stopped = true
	for l := range a.links {
		if l.at == nil { // it has not said yet what it wants
			l.cancel(context.Cause(ctx))
		}
	}
	a.mu.Unlock()
	a.CloseAll(context.Cause(ctx))
	a.wg.Wait()
	return nil
}

// Streams is how many connections to origins there are, or are being made.
func (a *Anchor) Streams() int { return int(a.streams.Load()) }

// Stats returns the counts.
func (a *Anchor) Stats() Stats {
	a.mu.Lock()
	sessions, detached, links := len(a.sessions), a.detached.Len(), len(a.links)
	a.mu.Unlock()
	return Stats{
		Sessions: sessions, Detached: detached, Links: links, Streams: a.Streams(), Memory: a.budget.used.Load(),
		Opened: a.opened.Load(), Refused: a.refused.Load(), Unreachable: a.unreachable.Load(), TimedOut: a.timedOut.Load(),
		Denied: a.denied.Load(), Busy: a.busy.Load(), Resumed: a.resumed.Load(), NotResumed: a.notResumed.Load(),
		ResumesLater: a.later.Load(), Expired: a.expired.Load(), In: a.in.Load(), Out: a.out.Load(),
	}
}
