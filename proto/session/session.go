package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"migrationsensor/proto"
)

// Sizes and times to start from (PROTOCOL, Timers and sizes).
const (
	defaultWindow     = 256 << 10 // an agent's: a page loads without waiting for credit
	serverWindow      = 64 << 10  // an anchor's: most agents send little, and there are many agents
	tightWindow       = 16 << 10  // first window when the session's share of memory is half used
	defaultMaxWindow  = 4 << 20
	defaultMaxSession = 64 << 20 // an agent's
	serverMaxSession  = 16 << 20 // an anchor's
	defaultMaxStreams = 4096
	openRate          = 200 // OPENs a second that one agent may send
	openBurst         = 2000

	ackDelay = 25 * time.Millisecond
	ackBytes = 64 << 10
	rstDelay = 5 * time.Second // how long a reset waits for the bytes before it

	maxControl = 1 << 20 // answers to OPENs that the peer leaves unread before it is thrown out
	maxText    = 200     // of an OPEN_FAIL

	idlePing  = 10 * time.Second
	minSilent = 750 * time.Millisecond // outstanding data and silence: PING
	minDead   = 1500 * time.Millisecond
	idleDead  = 5 * time.Second // an idle link's PING is not urgent

	maxLate     = 250 * time.Millisecond // ours, as the others: called later than that, it was this machine that stood still
	maxSilences = 4                      // each but the first doubles the time after which the next link is dead
	calmAfter   = 15 * time.Second       // after a silence: a frame then, and links are given up as early as at first
)

// Errors of a session.
var (
	ErrProtocol = errors.New("protocol violation")
	ErrClosed   = errors.New("session closed")
	ErrSilent   = errors.New("the link is silent")
	ErrEnded    = errors.New("the agent has ended the session")
)

// OpenError is the other side's answer that there is no connection.
type OpenError struct {
	Code proto.OpenCode
	Text string
}

func (e *OpenError) Error() string {
	if e.Text == "" {
		return "open: " + e.Code.String()
	}
	return fmt.Sprintf("open: %s: %s", e.Code, e.Text)
}

func (e *OpenError) message() *proto.OpenFail { return &proto.OpenFail{Code: e.Code, Text: e.Text} }

// Config is set once, but that an anchor's SESSION_OK replaces PeerWindow and MaxStreams at an agent. Windows are in
// bytes; zero means the default.
type Config struct {
	Server     bool
	ID         proto.SessionID // anchor: what SESSION_OK says; zero: a random one
	Grace      time.Duration   // anchor: what SESSION_OK says; its owner keeps to it
	Window     int             // first window of each stream towards us, while memory lasts
	PeerWindow int             // first window towards the peer where its OPEN or OPEN_OK says none
	MaxWindow  int             // to which a stream's window grows; the most a stream keeps for the peer
	// MaxSession bounds what the peer can make us hold: all windows together (half of it first windows,
	// half what they grew), and all that is kept until it is acknowledged. Beyond it each stream still
	// has 16 KiB each way, so a stream that stands still stops no other.
	MaxSession int
	MaxStreams int
	// Accept takes an OPEN (server). It is called without locks and must not block; it, or a goroutine
	// that it starts, answers with AcceptOK or Fail.
	Accept func(st *Stream, service string)
	Budget Budget // that this session shares with others; nil: MaxSession alone bounds it
	Log    *slog.Logger
}

// Budget is memory that sessions share. It is called with the session's lock held and must not call back.
type Budget interface {
	Take(n int) bool // n bytes, if that leaves enough for streams that have less
	Must(n int)      // n bytes that a stream can't be without: its small window, what it keeps within it
	Give(n int)      // n bytes back
}

// unlimited is the budget of a session that shares none.
type unlimited struct{}

func (unlimited) Take(int) bool { return true }
func (unlimited) Must(int)      {}
func (unlimited) Give(int)      {}

// Session is one end. It is safe for concurrent use.
type Session struct {
	cfg  Config
	done chan struct{} // closed at the end

	mu       sync.Mutex
	id       proto.SessionID // zero at an agent before SESSION_OK
	grace    time.Duration   // agent: what SESSION_OK says
	epoch    uint32          // of the current set of links
	begun    bool            // anchor: SESSION has come
	ending   *Link           // agent: on which END goes; the session closes when it is written
	err      error           // why it ended; nil while it lives
	links    []*Link         // that live, of every set
	streams  map[uint32]*Stream
	dead     int                 // of them, over but for the other end's word that it knows
	orphans  int                 // of them, without a link
	lastID   uint32              // highest stream id opened
	missing  map[uint32]struct{} // lower ones that were not (anchor): their OPENs come on another link
	now      time.Time
	granted  int       // sum of the first windows
	grown    int       // bytes of windows granted beyond the first
	held     int       // bytes in send buffers
	starved  []*Stream // whose writers wait for held to fall
	tokens   float64   // OPENs the peer may send now
	tokensAt time.Time
	resets   []*Stream // resets that wait for the bytes before them
	silences int       // links that ended for silence, one after the other
	silentAt time.Time // when the last did
}

// New returns a live session.
func New(cfg Config) *Session {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	if cfg.Server {
		if cfg.ID == (proto.SessionID{}) {
			cfg.ID = proto.NewSessionID()
		}
		def(&cfg.Window, serverWindow)
		def(&cfg.MaxSession, serverMaxSession)
	}
	def(&cfg.Window, defaultWindow)
	def(&cfg.PeerWindow, serverWindow)
	def(&cfg.MaxWindow, defaultMaxWindow)
	def(&cfg.MaxSession, defaultMaxSession)
	def(&cfg.MaxStreams, defaultMaxStreams)
	if cfg.Budget == nil {
		cfg.Budget = unlimited{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Session{
		cfg: cfg, id: cfg.ID, done: make(chan struct{}),
		streams: make(map[uint32]*Stream), tokens: openBurst,
	}
}

// DefaultWindow is what SESSION and SESSION_OK announce. Each OPEN and OPEN_OK says its stream's own.
const DefaultWindow = serverWindow

// Done is closed when the session has ended; Err says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns nil while the session lives.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// ID is the session's name at its anchor; zero at an agent before SESSION_OK.
func (s *Session) ID() proto.SessionID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// Grace is how long the anchor keeps the session without a link, as it said; 0: not known, or not at all.
func (s *Session) Grace() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grace
}

// Epoch counts the sets of links that the session has had.
func (s *Session) Epoch() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

// Streams returns how many streams there are.
func (s *Session) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams) - s.dead
}

// Links is how many links streams are written on; 0: the session waits for one.
func (s *Session) Links() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.links {
		if l.writableLocked() {
			n++
		}
	}
	return n
}

// Held is how many bytes are kept for the peer: written, and not acknowledged.
func (s *Session) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// Heard is when the peer last said anything, on any link.
func (s *Session) Heard() (at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.links {
		if l.heard.After(at) {
			at = l.heard
		}
	}
	return at
}

// SRTT is the smoothed round trip of PINGs on the link that new streams get; zero before the first.
func (s *Session) SRTT() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.pickLocked(); l != nil {
		return l.srtt
	}
	return 0
}

// Ping asks the peer for a sign of life on each link.
func (s *Session) Ping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.links {
		if l.writableLocked() {
			l.wantPing = true
			l.signal()
		}
	}
}

// Close ends the session: every stream is reset, never cleanly ended. A nil err means ErrClosed.
func (s *Session) Close(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked(err)
}

// End ends an agent's session and tells the anchor, which would keep it for its grace else. It does not wait: Done is closed
// when END is written. Where there is no link the session is closed at once.
func (s *Session) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.ending != nil {
		return
	}
	l := s.pickLocked()
	if l == nil || s.cfg.Server {
		s.closeLocked(nil)
		return
	}
	s.endOnLocked(l)
}

// endOnLocked has END written on l; false: there is no link for it.
func (s *Session) endOnLocked(l *Link) bool {
	if l == nil {
		return false
	}
	s.ending = l
	l.control = header(l.control, proto.TypeEnd, 0, 0, 0)
	l.signal()
	return true
}

func (s *Session) closeLocked(err error) {
	if s.err != nil {
		return
	}
	if err == nil {
		err = ErrClosed
	}
	s.err = err
	for _, st := range s.streams {
		st.failLocked(errReset)
		st.removeLocked()
	}
	for _, l := range slices.Clone(s.links) {
		l.endLocked(err)
	}
	s.starved, s.resets = nil, nil
	close(s.done)
}

// Open opens a stream to a service and waits until the origin has accepted it. The error is an
// *OpenError if the anchor said why not, else ctx's or the session's own.
func (s *Session) Open(ctx context.Context, service string) (*Stream, error) {
	st, err := s.Begin(service)
	if err != nil {
		return nil, err
	}
	select {
	case <-st.opened:
	case <-ctx.Done():
		st.Abort()
		return nil, ctx.Err()
	}
	if err := st.Answer(); err != nil {
		return nil, err
	}
	return st, nil
}

// Begin asks for a stream to a service and does not wait: Opened is closed when there is an answer, Answer says which.
// The error is an *OpenError or the session's own.
func (s *Session) Begin(service string) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	if len(s.streams) >= s.cfg.MaxStreams || s.lastID == math.MaxUint32 {
		return nil, &OpenError{Code: proto.OpenBusy, Text: "too many streams in this session"}
	}
	s.lastID++
	st := s.addLocked(s.lastID, service)
	st.moveLocked(s.pickLocked()) // OPEN goes with it
	return st, nil
}

// addLocked makes a stream. Its first window is small when the session's share of memory is used.
func (s *Session) addLocked(id uint32, service string) *Stream {
	first := s.cfg.Window
	if s.granted+first > s.cfg.MaxSession/2 || !s.cfg.Budget.Take(first) {
		first = min(first, tightWindow)
		s.cfg.Budget.Must(first)
	}
	s.granted += first
	st := newStream(s, id, first)
	st.service = service
	s.streams[id] = st
	s.orphans++
	return st
}

// header appends a frame that is only a header.
func header(dst []byte, t proto.FrameType, flags uint8, stream uint32, off uint64) []byte {
	return proto.Header{Type: t, Flags: flags, Stream: stream, Offset: off}.Append(dst)
}

// ack appends an ACK: received offset in the header, credit (the offset up to which the peer may send)
// in the payload.
func appendAck(dst []byte, stream uint32, flags uint8, received, credit uint64) []byte {
	dst = proto.Header{Type: proto.TypeAck, Flags: flags, Length: 8, Stream: stream, Offset: received}.Append(dst)
	return binary.BigEndian.AppendUint64(dst, credit)
}
