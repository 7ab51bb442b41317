package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
)

// role is what a link is to its tether.
//
//	joining → carrying → parked → joining (RESUME again: the newer link has failed)
//	joining (ATTACH) → carrying, warmed → joining (RESUME)
type role int

const (
	joining  role = iota // SESSION, ATTACH or RESUME was sent and is not answered
	carrying             // of the current set
	parked               // a RESUME was sent on another link; this one still delivers
)

// dataLink is a link that carries a tether's session.
type dataLink struct {
	*link.Link
	meter meter
	share *session.Link
	cand  candidate // the edge that it goes through
	since time.Time
	asks  bool   // it began with SESSION
	extra bool   // it began with ATTACH
	order *order // that it was dialled for

	// guarded by the tether's mu
	role    role
	warming bool // it joins the set, is warmed, and then the session moves to it
	pace    pace
	taken   time.Time // when the anchor took it in
	turn    int       // counts the RESUMEs on it, so that a late answer to an earlier one changes nothing
}

// SRTT is the link's own, which includes the anchor, or the kernel's before the first PING.
func (d *dataLink) SRTT() time.Duration {
	if rtt := d.share.SRTT(); rtt > 0 {
		return rtt
	}
	return d.RTT()
}

// Write and Read count what Pump carries.
func (d *dataLink) Write(b []byte) (int, error) {
	n, err := d.Link.Write(b)
	d.meter.up.Add(uint64(n))
	return n, err
}

func (d *dataLink) Read(b []byte) (int, error) {
	n, err := d.Link.Read(b)
	d.meter.down.Add(uint64(n))
	return n, err
}

// addLocked notes a link. startLocked has to follow.
func (t *tether) addLocked(d *dataLink) {
	t.links = append(t.links, d)
	t.currentLocked()
}

// startLocked carries the session over d, and watches for the answer of the other end.
func (t *tether) startLocked(ctx context.Context, d *dataLink) {
	t.wg.Go(func() { t.linkEnded(d, link.Pump(ctx, d, d.share)) })
	t.watchLocked(d)
}

func (t *tether) watchLocked(d *dataLink) {
	d.turn++
	turn, confirmed := d.turn, d.share.Confirmed()
	t.wg.Go(func() {
		select {
		case <-confirmed:
			t.confirmed(d, turn)
		case <-d.share.Done():
		}
	})
}

func (t *tether) startAll(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range t.links {
		t.startLocked(ctx, d)
	}
}

// takeLocked goes over to a link that was just made: what streams there are is sent on it in the flight of RESUME, and
// the older links deliver until that is answered.
func (t *tether) takeLocked(ctx context.Context, d *dataLink) {
	if t.closing {
		d.Abort()
		return
	}
	if t.sess.ID() == (proto.SessionID{}) { // the first has ended, and nothing is to be resumed: whoever waits gets a session of its own
		d.Abort()
		t.sess.Close(errUnnamed)
		return
	}
	if first := t.current.Load(); first != nil && t.fresh && t.stalled.IsZero() {
		t.stalled = first.share.Heard()
	}
	t.parkLocked()
	d.share, d.role = t.sess.Resume(), joining
	t.epoch++
	t.addLocked(d)
	t.startLocked(ctx, d)
}

// resumeOnLocked goes back to an older link: RESUME with the next epoch.
func (t *tether) resumeOnLocked(d *dataLink) {
	t.parkLocked()
	d.share.Resume()
	d.role, d.extra = joining, false
	t.epoch++
	t.currentLocked()
	t.watchLocked(d)
}

func (t *tether) parkLocked() {
	for _, d := range t.links {
		d.role = parked
	}
}

// confirmed is the anchor's answer: the link is one of the current set, and those that it replaced have done their work.
func (t *tether) confirmed(d *dataLink, turn int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d.role != joining || d.turn != turn {
		return
	}
	d.role, d.taken = carrying, t.sys.Now()
	t.currentLocked()
	t.look()
	if d.warming {
		t.heatLocked(d)
		return
	}
	if d.extra {
		return
	}
	for _, o := range t.links {
		if o.role == parked {
			o.share.Close(nil)
		}
	}
	now := time.Now()
	if !t.stalled.IsZero() {
		t.stall = now.Sub(t.stalled)
		t.event("resumed", fmt.Sprintf("%d streams go on by way of %s, after %v", t.sess.Streams(), t.edgeName(d.cand.Target), t.stall.Round(time.Millisecond)))
	}
	if t.order != nil && t.order == d.order {
		t.order.finish(d.cand, nil)
		t.order = nil
	}
	if d.epochs() {
		t.moves++
		t.pool.moved(now)
	}
	t.waiting, t.stalled, t.retryAt, t.fresh, t.lost, t.why = time.Time{}, time.Time{}, time.Time{}, false, nil, nil
	t.failures.reset()
	t.endRoundLocked(nil)
	t.lookAround()
}

// epochs reports whether the link is there by a RESUME.
func (d *dataLink) epochs() bool { return !d.asks || d.turn > 1 }

// linkEnded takes note that a link has ended.
func (t *tether) linkEnded(d *dataLink, err error) {
	d.Abort()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.links = slices.DeleteFunc(t.links, func(o *dataLink) bool { return o == d })
	t.currentLocked()
	if t.closing {
		return
	}
	t.look()
	if t.sess.Err() != nil {
		return
	}
	silent := errors.Is(err, session.ErrSilent)
	if silent {
		t.suspect(d.cand)
	}
	switch {
	case d.warming:
		d.order.cold = true // a plain RESUME is the next try
	case d.extra && d.role == joining:
		t.pool.pause(time.Now())
	case d.role == joining:
		t.notTakenLocked(d, err)
	}
	t.lostLocked(d, err, silent)
}

// notTakenLocked is that the newest link has ended before the anchor's answer to RESUME came on it. The next is an older
// link that still lives (step), or another edge.
func (t *tether) notTakenLocked(d *dataLink, err error) {
	now := time.Now()
	t.why, t.hasty = err, true
	if r := d.share.Refused(); r != nil {
		t.why = &session.RefusedError{ResumeFail: *r}
		if r.Code == proto.ResumeRetry {
			t.retryAt, t.hasty = now.Add(r.After+jitter(r.After)), false
		}
	} else if t.parkedLocked() == nil {
		t.retryAt = now.Add(t.backoffLocked())
	}
	if t.order != nil && t.order == d.order {
		t.orderFailedLocked(t.why, d.cand)
	}
	t.endRoundLocked(t.why)
}

// lostLocked notes that no link is left that carries the streams.
func (t *tether) lostLocked(d *dataLink, err error, silent bool) {
	now := time.Now()
	if t.firstLocked() != nil {
		return
	}
	if t.stalled.IsZero() && d.role == carrying {
		t.stalled = now
		if heard := d.share.Heard(); silent && !heard.IsZero() {
			t.stalled = heard
		}
	}
	if t.joiningLocked() != nil || t.parkedLocked() != nil {
		return
	}
	if t.lost == nil || d.role == carrying {
		t.lost = &loss{d.cand, silent}
	}
	if t.waiting.IsZero() {
		t.waiting = now
		t.why = err
		t.event("link lost", fmt.Sprintf("%s: %s; %d streams wait for another", t.edgeName(d.cand.Target), plainEnd(err), t.sess.Streams()))
	}
}

// plainEnd says why a link ended.
func plainEnd(err error) string {
	switch {
	case errors.Is(err, session.ErrSilent):
		return "it says nothing any more"
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return "it was closed"
	}
	return flat(err).Error()
}

// backoffLocked is how long to wait after a failure; not long while somebody waits for the result.
func (t *tether) backoffLocked() time.Duration {
	d := t.failures.next()
	if t.sess.Streams() > 0 {
		d = min(d, jitter(waitingRetry))
	}
	return d
}

// jitter is a part of d.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

// firstLocked is a link on which streams are written and that no other one is to replace.
func (t *tether) firstLocked() *dataLink {
	return t.findLocked(func(d *dataLink) bool { return d.role == carrying || d.role == joining && d.asks && d.turn <= 1 })
}

// joiningLocked is the link whose RESUME is not answered, or not sent before it is warm.
func (t *tether) joiningLocked() *dataLink {
	return t.findLocked(func(d *dataLink) bool { return d.warming || d.role == joining && d.epochs() && !d.extra })
}

// parkedLocked is the newest of the older links.
func (t *tether) parkedLocked() *dataLink {
	return t.findLocked(func(d *dataLink) bool { return d.role == parked && d.share.Err() == nil })
}

func (t *tether) findLocked(is func(*dataLink) bool) *dataLink {
	for _, d := range slices.Backward(t.links) {
		if is(d) {
			return d
		}
	}
	return nil
}

// currentLocked notes, for readers that must not wait, on which link new streams are asked for.
func (t *tether) currentLocked() {
	d := t.joiningLocked()
	if d == nil || d.warming {
		d = t.findLocked(func(d *dataLink) bool { return d.role == carrying && !d.extra })
	}
	if d == nil {
		d = t.firstLocked()
	}
	t.current.Store(d)
}
