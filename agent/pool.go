package agent

import (
	"context"
	"sync/atomic"
	"time"
)

// Sizes of a tether's pool of links. Ours.
const (
	poolMax      = 4
	poolStreams  = 32      // streams on each link, beyond which there is one more
	poolBytes    = 8 << 20 // a second on each link, beyond which there is one more, if it could carry another stream
	poolLook     = 5 * time.Second
	poolLookIdle = 15 * time.Second
	poolIdle     = 3 * time.Minute // a link more than needed is kept that long
	poolPause    = 30 * time.Second
	poolMoved    = 4 * time.Second // after a move, about
)

// meter counts bytes each way.
type meter struct{ up, down atomic.Uint64 }

// pool decides how many links a tether has: as many as are used, so that a new connection waits for no handshake and one
// that downloads is in nobody's way. It is guarded by the tether's mu.
type pool struct {
	want   int
	seen   uint64    // bytes at the last look
	begun  uint32    // streams asked for until then
	looked time.Time // when that was
	needed time.Time // when want links were last needed
	not    time.Time // no dial before
}

// size says how many links there should be, for what runs over have of them.
func (p *pool) size(have, streams int, bytes uint64, now time.Time) int {
	need := 1 + max(0, streams-1)/poolStreams
	if took := now.Sub(p.looked); !p.looked.IsZero() && took > 0 && streams > have && bytes > p.seen {
		if rate := float64(bytes-p.seen) / took.Seconds(); rate > poolBytes*float64(have) {
			need = max(need, have+1)
		}
	}
	need = min(need, poolMax, max(1, streams))
	p.seen, p.looked = bytes, now
	if need >= p.want {
		p.want, p.needed = need, now
	} else if now.Sub(p.needed) >= poolIdle {
		p.want, p.needed = p.want-1, now
	}
	return p.want
}

// pause keeps away from an anchor that takes no more links.
func (p *pool) pause(now time.Time) { p.not = now.Add(poolPause) }

// moved has further links wait a little: others may be moving too.
func (p *pool) moved(now time.Time) {
	if at := now.Add(poolMoved/4 + jitter(poolMoved)); at.After(p.not) {
		p.not = at
	}
}

// poolLocked grows or shrinks the set of links, and says when to look again.
func (t *tether) poolLocked(ctx context.Context, now time.Time) time.Duration {
	streams := t.sess.Streams()
	look := poolLookIdle
	if streams > 1 {
		look = poolLook
	}
	begun := t.begun.Load()
	if wait := t.pool.looked.Add(look).Sub(now); wait > 0 && t.pool.want > 0 && begun-t.pool.begun < poolStreams {
		look = wait
	} else {
		t.pool.begun = begun
		t.pool.size(t.carryingLocked(), streams, t.bytesLocked(), now)
	}
	if t.single || t.joiningLocked() != nil || t.firstLocked() == nil {
		return look
	}
	switch have := t.carryingLocked(); {
	case have > t.pool.want:
		t.shrinkLocked()
	case have > 0 && have+t.attachingLocked() < t.pool.want && !t.growing && t.order == nil && !t.retired && !now.Before(t.pool.not):
		t.growLocked(ctx)
	}
	return look
}

func (t *tether) carryingLocked() (n int) {
	for _, d := range t.links {
		if d.role == carrying {
			n++
		}
	}
	return n
}

func (t *tether) attachingLocked() (n int) {
	for _, d := range t.links {
		if d.role == joining && d.extra {
			n++
		}
	}
	return n
}

func (t *tether) bytesLocked() (n uint64) {
	up, down := t.countLocked()
	return up + down
}

// countLocked is how many bytes the links have carried so far.
func (t *tether) countLocked() (up, down uint64) {
	for _, d := range t.links {
		up, down = up+d.meter.up.Load(), down+d.meter.down.Load()
	}
	return up, down
}

// shrinkLocked closes the link with the fewest streams; they go on over the others.
func (t *tether) shrinkLocked() {
	var least *dataLink
	for _, d := range t.links {
		if d.role == carrying && d.extra && (least == nil || d.share.Streams() < least.share.Streams()) {
			least = d
		}
	}
	if least != nil {
		least.share.Close(nil)
	}
}

// growLocked dials one more link by the same edge.
func (t *tether) growLocked(ctx context.Context) {
	via := t.current.Load().cand
	t.growing = true
	t.wg.Go(func() {
		l, _, err := t.dialData(ctx, via, t.anchor)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.growing = false
		t.look()
		if err != nil {
			t.pool.pause(time.Now())
			t.log.Debug("no further link", "edge", via.Node, "err", err)
			return
		}
		if t.closing || t.joiningLocked() != nil || t.firstLocked() == nil { // moved meanwhile
			l.Abort()
			return
		}
		d := &dataLink{Link: l, cand: t.candidateAt(l.Target), since: t.sys.Now(), share: t.sess.Attach(), role: joining, extra: true}
		t.addLocked(d)
		t.startLocked(ctx, d)
	})
}
