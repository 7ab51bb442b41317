package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
)

// Times of a tether. The budget is the protocol's and shorter than the anchor's grace, so that both ends give a stream up
// with a reset; the others are ours.
const (
	resumeBudget  = 90 * time.Second
	waitingRetry  = 2 * time.Second        // longest backoff while streams wait
	raceReset     = 100 * time.Millisecond // or two round trips, a link's connect and handshake, and
	raceSlack     = 50 * time.Millisecond  // this: then another edge is tried beside the one that reset a link
	silentTries   = 3                      // in which an edge that fell silent is asked for no longer than stagger
	lateRetry     = 4 * time.Second        // longest wait after a handshake that came to no end
	maxPatience   = 4                      // how often the time after which another edge is asked too is doubled
	orderRounds   = 3                      // tries of a move that nobody's attack asks for
	orderPatience = 30                     // of them, while it is only asked to come again
	farewell      = 200 * time.Millisecond // for the word to the anchor that the session is over
	drainCheck    = 20 * time.Millisecond  // how soon a retired tether's streams are counted, then
	drainCheckMax = 250 * time.Millisecond // less and less often
)

var (
	errBudget  = errors.New("no proxy could be reached in time")
	errLate    = errors.New("the time for it is over")
	errUnnamed = errors.New("its anchor had not answered yet")
)

// tether is what ties this machine to one anchor: a session, and the links that carry it at the time. The session outlives
// links, and with it the applications' connections; a tether moves from edge to edge.
//
//	live ⇄ moving (RESUME was sent on a new link, or will be when that is warm; the old ones still deliver)
//	  ↘       ↙
//	   waiting (no link; at most resumeBudget, then its streams are reset)  → ended
//
// Its goroutine (run) decides; links and dials are goroutines that report to it and that it waits for.
type tether struct {
	// set once
	*Agent
	anchor proto.NodeID
	sess   *session.Session
	since  time.Time
	single bool          // made for one connection, with which it ends
	wake   chan struct{} // 1-buffered: run should look again
	done   chan struct{} // closed when everything of it has ended
	wg     sync.WaitGroup

	current atomic.Pointer[dataLink] // on which new streams are asked for; nil: none. Written with mu

	begun atomic.Uint32 // streams asked for since the start

	mu       sync.Mutex // guards what follows
	links    []*dataLink
	dialing  *dialJob
	growing  bool   // a dial for one more link is under way
	order    *order // the move that was asked for
	fresh    bool   // a new link is wanted beside one that says nothing
	lost     *loss  // what ended the last link
	gone     gone   // what edges say of the anchor
	retryAt  time.Time
	failures backoff
	hasty    bool      // retryAt is our own backoff: a connection may cut it short
	waiting  time.Time // since when there is no link; zero: there is one
	stalled  time.Time // since when the streams stand still; zero: they don't
	drain    time.Duration
	retired  bool
	closing  bool
	epoch    int
	moves    int
	stall    time.Duration // how long they last stood still
	round    *round        // for those who wait for a link; never nil
	pool     pool
	why      error // of the last failure
}

// loss is how a link ended.
type loss struct {
	cand   candidate
	silent bool
}

// order is a move that the supervisor asks for.
type order struct {
	cands   []candidate
	until   time.Time
	planned bool // given up after orderLimit, too
	rounds  int
	refused int           // edges that answered in this round, but whose link was not taken in
	cold    bool          // a link that was to be warmed has ended
	tried   chan struct{} // closed after the first round
	once    sync.Once

	// set before tried is closed
	edge candidate
	err  error
}

func (o *order) finish(edge candidate, err error) {
	o.once.Do(func() {
		o.edge, o.err = edge, err
		close(o.tried)
	})
}

// newTether makes a session on a link that is up. run has to follow.
func (a *Agent) newTether(l *link.Link, single bool) *tether {
	t := &tether{
		Agent: a, anchor: l.Peer.Node, sess: session.New(session.Config{}), since: a.sys.Now(), single: single,
		wake: make(chan struct{}, 1), done: make(chan struct{}), round: newRound(), drain: drainCheck,
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addLocked(&dataLink{Link: l, cand: a.candidateAt(l.Target), since: a.sys.Now(), share: t.sess.Ask(), role: joining, asks: true})
	return t
}

// run keeps the session on a link until it ends, by itself, with its last stream when it is retired, or with ctx.
func (t *tether) run(parent context.Context) {
	defer close(t.done)
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent)) // links carry the goodbye
	defer t.wg.Wait()
	defer cancel()
	t.startAll(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-t.sess.Done():
			t.shut(t.sess.Err())
			if refused, ok := errors.AsType[*session.RefusedError](t.sess.Err()); ok {
				t.event("session ended", fmt.Sprintf("anchor %s: %s; its streams were reset", t.nodeName(t.anchor), refused.Code))
			}
			return
		case <-parent.Done():
			t.sess.End()
			select {
			case <-t.sess.Done():
			case <-time.After(farewell):
			}
			t.shut(context.Cause(parent))
			return
		case <-t.wake:
		case <-timer.C:
		}
		timer.Reset(t.step(ctx, time.Now()))
	}
}

// shut ends what there is; after it nothing starts.
func (t *tether) shut(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closing = true
	t.sess.Close(err)
	for _, d := range t.links {
		d.Abort()
	}
	if t.dialing != nil {
		t.dialing.cancel()
	}
	if t.order != nil {
		t.order.finish(candidate{}, err)
	}
	t.endRoundLocked(err)
}

// look has run look again.
func (t *tether) look() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// step does what is due and says when to look again.
func (t *tether) step(ctx context.Context, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.poolLocked(ctx, now)
	if t.retired {
		if t.sess.Streams() == 0 {
			t.sess.End()
			return farewell
		}
		next = min(next, t.drain)
		t.drain = min(2*t.drain, drainCheckMax)
	}
	if !t.waiting.IsZero() {
		left := t.budget - now.Sub(t.waiting)
		if left <= 0 {
			t.giveUpLocked()
			return 0
		}
		next = min(next, left)
	}
	if o := t.order; o != nil {
		answers := t.joiningLocked() != nil && t.joiningLocked().order == o // soon, or it is silent soon
		if left := o.until.Sub(now); left > 0 {
			next = min(next, left)
		} else if !answers {
			t.dropOrderLocked()
		}
	}
	carried := t.firstLocked() != nil
	unnamed := t.sess.ID() == (proto.SessionID{}) // there is nothing to resume on another link until the first is answered, or silent
	switch {
	case t.dialing != nil, t.joiningLocked() != nil, carried && (unnamed || t.order == nil && !t.fresh):
		return next
	case t.retryAt.After(now):
		return min(next, t.retryAt.Sub(now))
	case !carried && t.parkedLocked() != nil:
		t.resumeOnLocked(t.parkedLocked())
	default:
		t.dialLocked(ctx)
	}
	return next
}

// giveUpLocked resets the streams: nobody brings them on any more, and their ends must learn it.
func (t *tether) giveUpLocked() {
	if n := t.sess.Streams(); n > 0 {
		why := ""
		if t.why != nil {
			why = ": " + explainConnect(t.why).Error()
		}
		t.event("streams ended", fmt.Sprintf("%d streams were reset, no proxy could be reached for %v%s", n, t.budget, why))
	}
	t.sess.Close(errBudget)
}

// dropOrderLocked gives a move up. A dial for it goes on only if the streams need it.
func (t *tether) dropOrderLocked() {
	err := t.order.err
	if err == nil {
		err = errLate
	}
	t.order.finish(candidate{}, err)
	if t.dialing != nil && t.dialing.order == t.order && t.carrierLocked() != nil {
		t.dialing.cancel()
		t.dialing = nil
	}
	t.event("not moved", fmt.Sprintf("the session at anchor %s stays where it is: %v", t.nodeName(t.anchor), explainConnect(err)))
	t.order = nil
}

// moveTo asks for a move to the first of cands that answers. The order's tried is closed when it has succeeded, or
// failed for the first time; it goes on until a time, a planned one for orderLimit.
func (t *tether) moveTo(p plan) *order {
	o := &order{cands: slices.Clone(p.cands), until: p.until, planned: p.planned, tried: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing {
		o.finish(candidate{}, session.ErrClosed)
		return o
	}
	if t.order != nil {
		t.order.finish(candidate{}, errReplaced)
	}
	t.chillLocked()
	t.order, t.retryAt = o, time.Time{}
	if t.dialing != nil {
		t.dialing.cancel()
		t.dialing = nil // what it still brings is dropped
	}
	t.look()
	return o
}

var errReplaced = errors.New("another move was asked for")

// freshen has a new link made beside one that says nothing, or hurries the one that is waited for. It returns when there
// is one, or with the reason why not; nil too when the tether has ended.
func (t *tether) freshen(ctx context.Context) error {
	t.mu.Lock()
	if t.closing {
		t.mu.Unlock()
		return nil
	}
	r := t.round
	if d := t.firstLocked(); d != nil && t.joiningLocked() == nil {
		t.fresh = true
		t.suspect(d.cand) // the control link is on the same path: a dead one is missed by nobody
	}
	if t.hasty {
		t.retryAt = time.Time{}
	}
	t.mu.Unlock()
	t.look()
	select {
	case <-r.done:
		return r.err
	case <-t.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *tether) endRoundLocked(err error) {
	t.round.err = err
	close(t.round.done)
	t.round = newRound()
}

// setRetired lets the tether end with its last stream, or not.
func (t *tether) setRetired(yes bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retired, t.drain = yes, drainCheck
	t.look()
}

// up reports whether streams can be asked for now.
func (t *tether) up() bool { return t.current.Load() != nil }

func (t *tether) ended() bool { return t.sess.Err() != nil }

// edge is where its streams go through, and whether they do.
func (t *tether) edge() (candidate, bool) {
	if d := t.current.Load(); d != nil {
		return d.cand, true
	}
	return candidate{}, false
}

// state is where it stands, in a word.
func (t *tether) state() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stateLocked()
}

func (t *tether) stateLocked() string {
	switch {
	case t.closing:
		return "ended"
	case !t.waiting.IsZero():
		return "waiting"
	case t.order != nil, t.joiningLocked() != nil:
		return "moving"
	}
	return "live"
}
