package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
)

// dialJob is a dial for a tether's next first link.
type dialJob struct {
	cancel context.CancelFunc
	order  *order

	began    time.Time
	up, down uint64 // bytes that the links had carried then
}

// dialLocked looks for an edge that leads to the anchor.
func (t *tether) dialLocked(ctx context.Context) {
	cands, late := t.candidatesLocked()
	jctx, cancel := context.WithCancel(ctx)
	var silent proto.NodeID
	if from := t.lost; from != nil && from.silent && t.firstLocked() == nil {
		silent = from.cand.Node
		jctx = link.Avoiding(jctx, silent) // who sends there does not know it yet; it is asked itself, too
	}
	briefly := len(cands) > 1 && t.failures.failures < silentTries
	job := &dialJob{cancel: cancel, order: t.order, began: time.Now()}
	job.up, job.down = t.countLocked()
	t.dialing = job
	t.wg.Go(func() {
		defer cancel()
		l, _, err := race(jctx, cands, late, func(ctx context.Context, c candidate) (*link.Link, error) {
			if c.Node == silent && briefly { // it may not hold up the round: the others may know more in the next
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, stagger)
				defer cancel()
			}
			l, path, err := t.dialData(ctx, c, t.anchor)
			t.heard(c.Node, err)
			if err == nil {
				t.noteTransfers(path)
			}
			return l, err
		}, (*link.Link).Abort)
		t.dialled(ctx, job, l, err)
	})
}

// dialled takes the result of a dial.
func (t *tether) dialled(ctx context.Context, job *dialJob, l *link.Link, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dialing != job || t.closing { // another move was asked for meanwhile
		if l != nil {
			l.Abort()
		}
		return
	}
	t.dialing = nil
	t.look()
	if err != nil {
		t.notDialledLocked(job, err)
		return
	}
	d := &dataLink{Link: l, cand: t.candidateAt(l.Target), since: t.sys.Now(), order: job.order}
	if d.pace = t.paceLocked(job, l); t.warmsLocked(job, d.pace) {
		d.share, d.role, d.extra, d.warming = t.sess.Attach(), joining, true, true
		t.addLocked(d)
		t.startLocked(ctx, d)
		return
	}
	t.takeLocked(ctx, d)
}

func (t *tether) notDialledLocked(job *dialJob, err error) {
	t.why, t.fresh = err, false
	wait := t.backoffLocked()
	if t.hasty = true; timedOut(err) { // whoever did not come to it in 5 s has too many: not all again together
		wait, t.hasty = max(wait, jitter(lateRetry)), false
	}
	if se, ok := errors.AsType[*link.SealedError](err); ok && se.Reply.After > 0 {
		wait = max(wait, t.failures.last) + se.Reply.After // it lives, and knows why: no hurry helps
		t.hasty = false
	}
	t.retryAt = time.Now().Add(wait)
	if job.order != nil && job.order == t.order {
		t.orderFailedLocked(err, candidate{})
	}
	t.endRoundLocked(err)
	if t.buryLocked(time.Now()) {
		return
	}
	t.log.Debug("no link to the anchor", "anchor", t.anchor, "err", err, "retry", wait)
}

// timedOut reports whether a handshake was begun and did not come to its end.
func timedOut(err error) bool {
	return errors.Is(err, link.ErrSilent) && errors.Is(err, context.DeadlineExceeded)
}

// orderFailedLocked notes that a move came to nothing this time; at is the edge that it came to nothing at, if one
// answered: the others are tried before it is tried again. A round is over when all have been tried.
func (t *tether) orderFailedLocked(err error, at candidate) {
	o := t.order
	if i := slices.IndexFunc(o.cands, func(c candidate) bool { return c.Node == at.Node }); i >= 0 {
		c := o.cands[i]
		o.cands = append(slices.Delete(o.cands, i, i+1), c)
		if o.refused++; o.refused < len(o.cands) {
			return
		}
	}
	o.refused = 0
	o.finish(candidate{}, err)
	if o.rounds++; o.planned && o.rounds >= orderLimit(err) {
		t.dropOrderLocked()
	}
}

// orderLimit is how often a planned move is tried, if it ends with err.
func orderLimit(err error) int {
	if comeAgain(err) {
		return orderPatience
	}
	return orderRounds
}

// comeAgain reports whether the proxy or the anchor is there and only asks to be asked again later.
func comeAgain(err error) bool {
	if se, ok := errors.AsType[*link.SealedError](err); ok {
		return se.Reply.Kind == proto.ReplyRetry || se.Reply.Kind == proto.ReplyBusy
	}
	re, ok := errors.AsType[*session.RefusedError](err)
	return ok && re.Code == proto.ResumeRetry
}

// candidatesLocked are the edges to try, in order, and how long one may be silent before the next is tried beside it. A
// move asks those that it was told only, as long as the old links carry. An edge that reset its link may be back at once;
// one that says nothing is tried last.
func (t *tether) candidatesLocked() ([]candidate, time.Duration) {
	if t.order != nil && (t.firstLocked() != nil || t.parkedLocked() != nil) {
		return slices.Clone(t.order.cands), stagger
	}
	var out []candidate
	add := func(cs ...candidate) {
		for _, c := range cs {
			if !slices.ContainsFunc(out, func(o candidate) bool { return o.Node == c.Node }) {
				out = append(out, c)
			}
		}
	}
	stagger := stagger << min(t.failures.failures, maxPatience) // where all are slow, asking more of them makes it worse
	from, silent := t.lost, t.fresh
	if d := t.firstLocked(); d != nil {
		from = &loss{d.cand, silent}
	}
	if t.order != nil {
		for _, c := range t.order.cands {
			if from == nil || !from.silent || c.Node != from.cand.Node { // it had its try
				add(c)
			}
		}
	}
	all := t.enrolled().candidates(t.namedNow())
	if from == nil {
		add(all...)
		return out, stagger
	}
	if from.silent {
		if c, ok := t.secondEdge(); ok {
			add(c)
		}
		add(slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return c.Node == from.cand.Node })...)
		add(t.rescues()...)
	}
	add(from.cand)
	add(all...)
	add(t.rescues()...)
	return out, max(raceReset, 2*t.srtt()+raceSlack) << min(t.failures.failures, maxPatience)
}

// race dials the candidates in order, the next one when the last has failed or been silent for a while. The first
// that comes up wins; drop takes one that comes too late. All dials have ended when it returns.
func race[T any](ctx context.Context, cands []candidate, stagger time.Duration, dial func(context.Context, candidate) (T, error), drop func(T)) (winner T, at candidate, err error) {
	if len(cands) == 0 {
		return winner, at, errNoEdge
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		got T
		at  candidate
		err error
	}
	results := make(chan result)
	begun, ended, won := 0, 0, false
	begin := func() {
		c := cands[begun]
		begun++
		go func() { got, err := dial(ctx, c); results <- result{got, c, err} }()
	}
	timer := time.NewTimer(stagger)
	defer timer.Stop()
	begin()
	var errs []error
	for ended < begun {
		select {
		case r := <-results:
			ended++
			switch {
			case r.err != nil:
				errs = append(errs, r.err)
			case !won:
				winner, at, won = r.got, r.at, true
				cancel()
			default:
				drop(r.got)
			}
		case <-timer.C:
		}
		if !won && begun < len(cands) && ctx.Err() == nil {
			begin()
			timer.Reset(stagger)
		}
	}
	if !won {
		return winner, at, errors.Join(errs...)
	}
	return winner, at, nil
}

var errNoEdge = errors.New("no edge is known for which there is a key: join again with a new token")

// dialData opens a data link by way of the edge c, or where that sends it, to an anchor; the zero anchor is the edge
// itself.
func (a *Agent) dialData(ctx context.Context, c candidate, anchor proto.NodeID) (*link.Link, []proto.Target, error) {
	return a.dialWithin(ctx, 0, c, anchor)
}

func (a *Agent) dialWithin(ctx context.Context, wait time.Duration, c candidate, anchor proto.NodeID) (*link.Link, []proto.Target, error) {
	d := a.edgeDialer(a.enrolled(), wait)
	if anchor == (proto.NodeID{}) || anchor == c.Node {
		return a.follow(ctx, d, c, proto.KindData)
	}
	return a.followVia(ctx, d, c, anchor)
}
