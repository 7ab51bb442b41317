package agent

import (
	"errors"
	"fmt"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

// When an anchor is given up (F33): when every edge that answers has said for so long that it is gone, or so many have
// said it. One edge alone may be wrong: it is perhaps itself what is cut off. Ours.
const (
	goneFor   = 10 * time.Second
	goneEdges = 2
)

var errAnchorGone = errors.New("its anchor is gone")

// gone is what edges say of an anchor that they can't reach any more. The zero value: nothing.
type gone struct {
	since time.Time
	by    map[proto.NodeID]bool
}

// hear notes what came of a dial by way of an edge. Any answer but one takes back what was heard; silence says nothing.
func (g *gone) hear(edge proto.NodeID, err error, now time.Time) {
	_, answered := errors.AsType[*link.SealedError](err)
	switch {
	case saysGone(err):
		if g.by == nil {
			g.since, g.by = now, make(map[proto.NodeID]bool)
		}
		g.by[edge] = true
	case err == nil, answered:
		*g = gone{}
	}
}

// over reports whether the anchor is to be given up.
func (g *gone) over(now time.Time) bool {
	return len(g.by) >= goneEdges || len(g.by) > 0 && now.Sub(g.since) >= goneFor
}

// saysGone reports whether an edge has said that the anchor is gone.
func saysGone(err error) bool {
	se, ok := errors.AsType[*link.SealedError](err)
	return ok && se.Reply.Kind == proto.ReplyReject && se.Reply.Code == proto.RejectAnchor
}

// heard notes what came of a dial by way of an edge. New streams take another anchor as soon as one says that this one is
// gone, unless the old link still carries: it is a matter between that edge and the anchor then.
func (t *tether) heard(edge proto.NodeID, err error) {
	t.mu.Lock()
	t.gone.hear(edge, err, time.Now())
	stuck := t.carrierLocked() == nil
	t.mu.Unlock()
	if stuck && saysGone(err) {
		t.anchorGone(t.anchor)
		t.lookAround()
	}
}

// carrierLocked is a link that delivers, if only until another has taken its place.
func (t *tether) carrierLocked() *dataLink {
	if d := t.firstLocked(); d != nil {
		return d
	}
	return t.parkedLocked()
}

// buryLocked ends the session of an anchor that is gone: nobody brings its streams on any more.
func (t *tether) buryLocked(now time.Time) bool {
	if t.carrierLocked() != nil || !t.gone.over(now) {
		return false
	}
	t.event("streams ended", fmt.Sprintf("%d streams were reset: anchor %s is gone, as %d proxies say for %v",
		t.sess.Streams(), t.nodeName(t.anchor), len(t.gone.by), now.Sub(t.gone.since).Round(time.Second)))
	t.sess.Close(errAnchorGone)
	return true
}
