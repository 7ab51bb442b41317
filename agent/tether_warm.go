package agent

import (
	"fmt"
	"time"

	"migrationsensor/proto/link"
)

// Bounds of warming (ours).
const (
	warmLeast = 32 << 10        // bytes in half a round trip, to which TCP comes by itself soon enough
	warmLimit = 3 * time.Second // nothing hurries; then the move goes on with what there is
)

// pace is how many bytes cross the links in half a round trip: TCP has twice as much under way after a round of so many.
type pace struct{ up, down int }

// paceLocked is what the links have carried since a dial began, for half a round trip of the new one that came of it. Where
// the transfer itself has filled the queues on the way, a shorter one that the kernel has seen before is nearer to what
// has to be under way.
func (t *tether) paceLocked(job *dialJob, l *link.Link) pace {
	took, rtt := time.Since(job.began), l.RTT()
	if d := t.firstLocked(); d != nil {
		if least := d.MinRTT(); least > 0 {
			rtt = min(rtt, least)
		}
	}
	up, down := t.countLocked()
	if rtt <= 0 || took <= 0 || up < job.up || down < job.down { // a link that has ended is not counted any more
		return pace{}
	}
	per := rtt.Seconds() / 2 / took.Seconds()
	return pace{int(float64(up-job.up) * per), int(float64(down-job.down) * per)}
}

// warmsLocked reports whether a move to a link that was just made has it warmed first: nothing hurries, the old link carries
// meanwhile, and so much that the new one would take many round trips to come to it.
func (t *tether) warmsLocked(job *dialJob, p pace) bool {
	o, first := job.order, t.firstLocked()
	return o != nil && o == t.order && o.planned && !o.cold && !t.fresh && first != nil && first.role == carrying && max(p.up, p.down) >= t.warmFrom
}

// heatLocked warms a link that the anchor has taken in beside the others. The session moves to it then.
func (t *tether) heatLocked(d *dataLink) {
	warm := d.share.Warm(d.pace.up, d.pace.down)
	t.wg.Go(func() {
		began := time.Now()
		limit := time.NewTimer(warmLimit)
		defer limit.Stop()
		select {
		case <-warm:
		case <-limit.C:
		case <-d.share.Done():
			return
		}
		t.log.Debug("link warmed", "edge", d.cand.Node, "took", time.Since(began), "detail", fmt.Sprintf("up to %d bytes up and %d down at once", d.pace.up, d.pace.down))
		t.warmed(d)
	})
}

func (t *tether) warmed(d *dataLink) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !d.warming || t.closing || d.share.Err() != nil {
		return
	}
	d.warming = false
	t.resumeOnLocked(d)
}

// chillLocked gives up a link that is being warmed, for a move that is not wanted any more.
func (t *tether) chillLocked() {
	if d := t.findLocked(func(d *dataLink) bool { return d.warming }); d != nil {
		d.warming = false
		d.share.Close(nil)
	}
}
