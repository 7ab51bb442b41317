package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

// moveWait bounds how long the control link waits for the data links to have tried to move. Ours, as the other.
const (
	moveWait      = 15 * time.Second
	controlWait   = 15 * time.Second // and for others' data links
	completeWait  = time.Second      // how long the new edge's control link waits for what new streams need
	completeRetry = 4 * time.Second
)

// plannedWait is how long a move that has no deadline is tried, after the spread that it came with. Ours.
const plannedWait = 60 * time.Second

// plan is what an attempt is for.
type plan struct {
	cands   []candidate
	moves   bool         // the sessions move
	from    proto.NodeID // of a move: the edge that they leave
	until   time.Time    // of a move: then they stay where they are
	planned bool         // of a move: nobody attacks, and after some rounds they stay, too
	rounds  int          // of a move: those that came to nothing
	seeks   bool         // of a move: it was begun anew because there is no session

	// control is how long a move's control link waits for others' data links: they carry what people wait for, and a spread
	// for them says that there are many.
	control time.Duration
}

// join brings the agent to the first of the candidates that answers: data links first, they carry what people wait for,
// then the control link to the same edge, then what new streams need. Sessions that have a link, and are not to move,
// stay where they are: then it is for the control link only.
func (a *Agent) join(ctx context.Context, p plan) (*uplink, error) {
	var edge candidate
	var err error
	t := a.lead()
	switch {
	case p.moves && t != nil:
		edge, err = a.moveAll(ctx, p)
	case t == nil:
		if edge, err = a.firstSession(ctx, a.leading(p)); err != nil {
			return nil, err
		}
		if p.moves && edge.Node == p.from {
			return nil, errElsewhere
		}
	}
	a.patiently(ctx, min(p.control, controlWait))
	to := slices.Clone(p.cands)
	if !edge.Node.IsZero() { // first where the sessions are
		to = slices.Insert(slices.DeleteFunc(to, func(c candidate) bool { return c.Node == edge.Node }), 0, edge)
	}
	up, cerr := a.control(ctx, to)
	if cerr != nil {
		return nil, errors.Join(err, cerr)
	}
	if !edge.Node.IsZero() && up.cand.Node != edge.Node && p.moves { // sent on between the two: the data links follow
		if _, err := a.moveAll(ctx, plan{cands: []candidate{up.cand}, until: p.until, planned: p.planned}); err != nil {
			a.log.Debug("the data links do not follow yet", "edge", up.cand.Node, "err", err)
		}
	}
	select {
	case <-a.completing(up.cand):
	case <-time.After(completeWait):
	case <-ctx.Done():
	}
	return up, nil
}

var errElsewhere = errors.New("the new session had to be made where the move is from")

// leading are the edges to ask for a session where there is none: a move's are the first, but not all. What they were to
// move is gone, and new connections wait.
func (a *Agent) leading(p plan) []candidate {
	out := slices.Clone(p.cands)
	if !p.moves {
		return out
	}
	for _, c := range a.candidates() {
		if !slices.ContainsFunc(out, func(o candidate) bool { return o.Node == c.Node }) {
			out = append(out, c)
		}
	}
	return out
}

// exhausted reports whether a move is to be given up, after a round that ended with err.
func (p *plan) exhausted(err error, now time.Time) bool {
	return !now.Before(p.until) || p.planned && p.rounds >= orderLimit(err)
}

// patiently waits before a move's control link, as long as the old one is there.
func (a *Agent) patiently(ctx context.Context, wait time.Duration) {
	a.mu.Lock()
	up := a.up
	a.mu.Unlock()
	if wait <= 0 || up == nil {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-up.gone:
	case <-ctx.Done():
	}
}

// control opens a control link to the first of the candidates that answers. One that stands already need not be opened.
func (a *Agent) control(ctx context.Context, cands []candidate) (*uplink, error) {
	d := a.edgeDialer(a.enrolled(), 0)
	up, _, err := race(ctx, cands, stagger, func(ctx context.Context, c candidate) (*uplink, error) {
		if u := a.secondAt(c.Node); u != nil && u.proves(ctx, max(proofWait, 3*a.srtt())) {
			return u, nil
		}
		l, path, err := a.follow(ctx, d, c, proto.KindControl)
		if err != nil {
			return nil, err
		}
		a.noteTransfers(path)
		return a.newUplink(l, true), nil
	}, a.dropControl)
	return up, err
}

// dropControl closes a control link that nobody needs, unless it is the second one, which has its own use.
func (a *Agent) dropControl(u *uplink) {
	if a.secondAt(u.cand.Node) != u {
		u.close()
	}
}

// firstSession makes a session by way of the first of the candidates that answers.
func (a *Agent) firstSession(ctx context.Context, cands []candidate) (candidate, error) {
	l, _, err := race(ctx, cands, stagger, func(ctx context.Context, c candidate) (*link.Link, error) {
		return a.session(ctx, 0, c, a.anchorVia("", c.Node))
	}, (*link.Link).Abort)
	if err != nil {
		return candidate{}, err
	}
	if !a.startTether(a.newTether(l, false)) {
		return candidate{}, context.Canceled
	}
	return a.candidateAt(l.Target), nil
}

// session dials a data link for a new session, and keeps in mind whether the anchor could be reached.
func (a *Agent) session(ctx context.Context, wait time.Duration, c candidate, anchor proto.NodeID) (*link.Link, error) {
	l, path, err := a.dialWithin(ctx, wait, c, anchor)
	if err == nil {
		a.noteTransfers(path)
		a.reached(anchor, true)
		return l, nil
	}
	if se, ok := errors.AsType[*link.SealedError](err); ok && anchor != c.Node && se.Reply.Kind == proto.ReplyRetry {
		a.reached(anchor, false) // the edge is there and asks to come again: perhaps it can't reach the anchor
	}
	if saysGone(err) {
		a.anchorGone(anchor)
	}
	return nil, err
}

// moveAll moves every session to the first of the candidates that answers, and says where the first of them is now. Those
// that can't move now go on trying.
func (a *Agent) moveAll(ctx context.Context, p plan) (edge candidate, err error) {
	ctx, cancel := context.WithTimeout(ctx, moveWait)
	defer cancel()
	var errs []error
	for _, o := range a.order(p) {
		if err := o.wait(ctx); err != nil {
			errs = append(errs, err)
		} else if edge.Node.IsZero() {
			edge = o.edge
		}
	}
	return edge, errors.Join(errs...)
}

// order asks every session to move.
func (a *Agent) order(p plan) (out []*order) {
	for _, t := range a.sessions() {
		out = append(out, t.moveTo(p))
	}
	return out
}

// wait waits for the first round of an order.
func (o *order) wait(ctx context.Context) error {
	select {
	case <-o.tried:
		return o.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// completing runs complete beside what else there is to do; the channel is closed when it has ended.
func (a *Agent) completing(edge candidate) chan struct{} {
	ready := make(chan struct{})
	if !a.spawn(func(ctx context.Context) { defer close(ready); a.complete(ctx, edge) }) {
		close(ready)
	}
	return ready
}

// complete makes the sessions that new streams need by way of the edge, one for each anchor that was chosen.
func (a *Agent) complete(ctx context.Context, edge candidate) {
	a.completeMu.Lock()
	defer a.completeMu.Unlock()
	tried := a.rechoose(edge.Node)
	for _, anchor := range tried {
		l, err := a.session(ctx, 0, edge, anchor)
		if err == nil {
			a.startTether(a.newTether(l, false))
			continue
		}
		if ctx.Err() != nil {
			return
		}
		a.event("no session", fmt.Sprintf("to anchor %s by way of %s: %v", a.nodeName(anchor), a.edgeName(edge.Target), explainConnect(err)))
		a.later(completeRetry/2+jitter(completeRetry), a.lookAround)
	}
	missing := a.rechoose(edge.Node) // lets go of those that stood in
	if slices.ContainsFunc(missing, func(n proto.NodeID) bool { return !slices.Contains(tried, n) }) {
		a.lookAround() // another was chosen in the place of one that failed: at once
	}
}

// later calls f after wait, unless the agent has ended.
func (a *Agent) later(wait time.Duration, f func()) {
	a.spawn(func(ctx context.Context) {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
			f()
		case <-ctx.Done():
		}
	})
}
