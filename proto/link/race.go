package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

// Rules of dialling (the first is the protocol's).
const (
	minRedial = 250 * time.Millisecond // between dials, or 1.5 SRTT
	knockLead = 2 * time.Millisecond   // a knock sent together with the SYN loses the race
	muteAfter = time.Second            // of a connection that came with a keyed SYN: perhaps the network eats what follows
)

// step is one dial of a race.
type step struct {
	at    netip.AddrPort
	after time.Duration // since the race began, at the earliest
	keyed bool          // the SYN carries the first flight
}

// steps plans the dials to a proxy. A kernel repeats a lost SYN after a second, and then without data; so a lost one is
// followed by a fresh one sooner. Both IP versions are tried in turn, and both kinds of SYN: first is the kind that is
// likelier to get through, see Networks.
func (d *Dialer) steps(a attempt, keyed, eaten bool) []step {
	at, gap := a.t.Addrs(), d.redial()
	turn := func(i int) netip.AddrPort { return at[i%len(at)] }
	var out []step
	add := func(keyed bool, i, gaps int) { out = append(out, step{turn(i), time.Duration(gaps) * gap, keyed}) }
	switch {
	case a.told: // 0, 1 and 3 gaps, every address each time: it may open its door by any of them
		for n, gaps := range []int{0, 1, 3} {
			first := keyed && (n%2 == 1) == eaten
			add(first, 0, gaps)
			if len(at) > 1 && n > 0 {
				add(keyed && !first, 1, gaps)
			}
		}
	case !keyed:
		for i, gaps := range []int{0, 1, 2, 4} {
			if len(at) > 1 || i != 1 {
				add(false, i, gaps)
			}
		}
	default:
		late := 0
		if eaten {
			late = 1
		}
		for i, gaps := range []int{0, 1, 2, 4} {
			add(true, i, gaps+late)
		}
		for i := range at {
			add(false, i, i+1-late)
		}
		slices.SortStableFunc(out, func(x, y step) int { return int(x.after - y.after) })
	}
	return out
}

// dial is one dial that was begun. It is made by the race and run by its own goroutine.
type dial struct {
	step
	began time.Time
	conn  atomic.Pointer[conn] // set once there is one
	ended bool                 // owned by the race
}

// conn is a TCP connection that may still wait for its SYN-ACK, if it is keyed.
type conn struct {
	net.Conn
	keyed bool
}

// up reports whether the proxy's kernel, or its SYN Checker, has answered the SYN.
func (x *dial) up() bool {
	c := x.conn.Load()
	return c != nil && !x.ended && (!c.keyed || connected(c.Conn))
}

// result is the end of a dial.
type result struct {
	dial  *dial
	link  *Link
	err   error
	heard bool // there was an answer, of whatever kind
}

// race dials a proxy by several steps and takes the first answer.
type race struct {
	// set once
	d       *Dialer
	a       attempt
	began   time.Time
	until   time.Time // when a connection must be there
	results chan result

	// owned by run
	steps   []step // those still to come
	dials   []*dial
	running int
	errs    []error
}

// race returns the first link or sealed answer. The other dials are cancelled and closed; all goroutines have ended when
// it returns.
func (d *Dialer) race(parent context.Context, a attempt) (*Link, error) {
	if len(a.t.Addrs()) == 0 {
		return nil, fmt.Errorf("connect to proxy %s: it has no address", a.t.Node)
	}
	keyed := d.KeyedSYN && d.DialContext == nil && canKey
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	now := time.Now()
	r := &race{
		d: d, a: a, began: now, until: now.Add(d.timeout()), results: make(chan result),
		steps: d.steps(a, keyed, keyed && d.eaten(ctx, a.t.Addrs()[0])),
	}
	r.steps = slices.DeleteFunc(r.steps, func(s step) bool { return s.after > 0 && s.after >= d.timeout() })
	return r.run(ctx, cancel)
}

func (r *race) run(ctx context.Context, cancel context.CancelFunc) (*Link, error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var won *result
	for {
		if won == nil && ctx.Err() == nil {
			r.begin(ctx)
			timer.Reset(r.wait())
		}
		if r.running == 0 && (won != nil || len(r.steps) == 0 || ctx.Err() != nil) {
			break
		}
		select {
		case res := <-r.results:
			r.running--
			res.dial.ended = true
			switch {
			case won == nil && r.decides(res):
				won = &res
				r.learn(res)
				cancel()
			case won == nil:
				r.failed(res)
			case res.link != nil:
				res.link.Abort()
			}
		case <-timer.C:
		case <-idle(ctx, r.running):
		}
	}
	switch {
	case won != nil:
		return won.link, won.err
	case len(r.errs) == 0:
		return nil, fmt.Errorf("connect to proxy %s: %w", r.a.t.Node, ctx.Err())
	}
	return nil, errors.Join(r.errs...)
}

// idle is ctx's end for whoever has no dial to wait for.
func idle(ctx context.Context, running int) <-chan struct{} {
	if running > 0 {
		return nil
	}
	return ctx.Done()
}

// decides reports whether an answer ends the race. What a told target says may change, as its door opens; and a forged
// answer may be followed by a genuine one.
func (r *race) decides(res result) bool {
	_, sealed := errors.AsType[*SealedError](res.err)
	return res.link != nil || sealed || res.heard && !r.a.told && !errors.Is(res.err, ErrGarbage)
}

// begin starts the dials that are due.
func (r *race) begin(ctx context.Context) {
	for len(r.steps) > 0 && r.wait() <= 0 {
		x := &dial{step: r.steps[0], began: time.Now()}
		r.steps = r.steps[1:]
		r.dials = append(r.dials, x)
		r.running++
		go func() {
			l, heard, err := r.d.dial(ctx, r.a, x, r.until)
			r.results <- result{x, l, err, heard}
		}()
	}
}

// wait is how long until the next dial. None is begun beside a connection that is there: who is late with its answer has
// too much to do, and another dial is more of it.
func (r *race) wait() time.Duration {
	if len(r.steps) == 0 {
		return time.Hour
	}
	due := r.began.Add(r.steps[0].after)
	for _, x := range r.dials {
		switch {
		case !x.up():
		case x.conn.Load().keyed && !r.a.told:
			due = later(due, x.began.Add(max(muteAfter, 3*r.d.srtt())))
		default:
			due = later(due, r.until)
		}
	}
	if !due.Before(r.until) {
		return time.Hour // the dials' own bound comes first
	}
	return time.Until(due)
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// failed leaves out the steps that would fail likewise, and lets the next one begin without waiting. A told target is
// dialled in its time: a refusal may come before its door is open. So is one in whose place somebody else answered.
func (r *race) failed(res result) {
	if !slices.ContainsFunc(r.errs, func(e error) bool { return e.Error() == res.err.Error() }) {
		r.errs = append(r.errs, res.err)
	}
	switch {
	case errors.Is(res.err, ErrGarbage):
		if r.d.Forged != nil {
			r.d.Forged.Add(1)
		}
	case !r.a.told:
		r.steps = slices.DeleteFunc(r.steps, func(s step) bool {
			return s.at == res.dial.at && (s.keyed || !res.dial.keyed)
		})
		if len(r.steps) > 0 && r.running == 0 {
			r.steps[0].after = min(r.steps[0].after, time.Since(r.began))
		}
	case errors.Is(res.err, ErrSilent) && errors.Is(res.err, context.DeadlineExceeded):
		r.steps = nil // its door was open
	}
}

// learn notes what the answer tells of the network: keyed SYNs get through, or an ordinary one did where keyed ones, sent
// before, had no answer. At a told target that may be its door, which had not opened yet.
func (r *race) learn(res result) {
	c := res.dial.conn.Load()
	ate := !r.a.told && slices.ContainsFunc(r.dials, func(x *dial) bool {
		k := x.conn.Load()
		return x != res.dial && k != nil && k.keyed && x.at.Addr().Is4() == res.dial.at.Addr().Is4() && time.Since(x.began) >= minRedial
	})
	if !res.heard || !c.keyed && !ate {
		return
	}
	p := NetworkOf(addrPort(c.LocalAddr()).Addr())
	switch changed := r.d.networks().note(p, !c.keyed, r.d.clock()); {
	case !changed:
	case c.keyed:
		r.d.log().Info("keyed SYNs are answered again", "network", p)
	default:
		r.d.log().Info("keyed SYNs unanswered, ordinary ones go first for a while", "node", r.a.t.Node, "network", p, "for", eatenFor)
	}
}

// dial runs one dial: knock, connect, first flight, answer. The link is the caller's.
func (d *Dialer) dial(ctx context.Context, a attempt, x *dial, until time.Time) (_ *Link, heard bool, err error) {
	cctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	if a.told {
		d.knock(ctx, a.t, x.at)
		if err := sleep(ctx, knockLead); err != nil {
			return nil, false, err
		}
	}
	began := time.Now()
	c, err := d.tcp(cctx, x.at, x.keyed)
	if err != nil {
		return nil, false, fmt.Errorf("connect to proxy %s: %w", a.t.Node, err)
	}
	l := &Link{Kind: a.kind, Target: a.t, Anchor: a.target, raw: c.Conn}
	if !c.keyed { // a new step, with time of its own
		l.connect = time.Since(began)
		cctx, cancel = context.WithTimeout(ctx, d.timeout())
		defer cancel()
	}
	x.conn.Store(c)
	heard, err = d.handshake(cctx, l, a)
	if err == nil {
		return l, true, nil
	}
	came := !c.keyed || connected(c.Conn) || errors.Is(err, syscall.ECONNRESET)
	c.Close()
	switch {
	case heard || ctx.Err() != nil:
	case came:
		err = fmt.Errorf("%w: %w", ErrSilent, err)
	default: // no more than a connect that came to nothing
		return nil, false, fmt.Errorf("connect to proxy %s: keyed SYN to %s: %w", a.t.Node, x.at, err)
	}
	return nil, heard, fmt.Errorf("%s link to proxy %s: %w", a.kind, a.t.Node, err)
}

// eaten reports whether the way to a proxy begins in a network that loses SYNs with data. It asks the kernel for the
// route, by a socket that sends nothing, and only if there is such a network at all.
func (d *Dialer) eaten(ctx context.Context, to netip.AddrPort) bool {
	nets := d.networks()
	if !nets.any() {
		return false
	}
	nd := net.Dialer{Control: d.Control}
	c, err := nd.DialContext(ctx, "udp", to.String())
	if err != nil {
		return false
	}
	defer c.Close()
	u, ok := c.LocalAddr().(*net.UDPAddr)
	return ok && nets.eats(NetworkOf(u.AddrPort().Addr()), d.clock())
}
