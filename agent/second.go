package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

// Times between tries of a second control link. Ours.
const (
	secondFirst = 200 * time.Millisecond // after a connection: what people wait for goes first
	secondRetry = 30 * time.Second
)

// second is the warm control link to another entry, if the catalogue has one. An entry is known to everybody, so it
// discloses nothing; with it a silent edge is told from a dead network, and another way is there at once. Catalogue and
// keys are taken from it, but no MIGRATE: that is the current edge's to say, and the edge knows from BOOT that this link
// stands by. It is owned by the supervisor.
type second struct {
	up       *uplink // nil while there is none
	dialling bool
	made     chan *uplink // what came of that; nil: nothing
	timer    *time.Timer  // when to try again
}

func newSecond() second {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return second{made: make(chan *uplink), timer: t}
}

func (x *second) soon() { x.timer.Reset(secondFirst) }

func (x *second) messages() chan proto.Message {
	if x.up == nil {
		return nil
	}
	return x.up.msgs
}

// seekSecond dials another entry. It goes no further than that: to be sent on would disclose something.
func (s *supervisor) seekSecond() {
	if s.up == nil || s.second.up != nil || s.second.dialling {
		return
	}
	if s.attempt != nil { // perhaps it leads there: an edge keeps the newest control link only
		s.second.soon()
		return
	}
	c, ok := s.otherEntry(s.up.cand.Node)
	if !ok {
		return
	}
	d := s.edgeDialer(s.enrolled(), 0)
	s.second.dialling = s.spawn(func(ctx context.Context) {
		l, err := d.Dial(ctx, c.Target, proto.KindControl, c.Node)
		if err != nil {
			if se, ok := errors.AsType[*link.SealedError](err); ok && se.Reply.Kind == proto.ReplyTransfer {
				s.attacked(c.Node) // asked again it would name its next proxy again
			}
			s.log.Debug("no second control link", "entry", c.name, "err", err)
			s.second.made <- nil
			return
		}
		s.second.made <- s.newUplink(l, false)
	})
}

// otherEntry is an entry other than the current edge and not known to be under attack.
func (s *supervisor) otherEntry(edge proto.NodeID) (candidate, bool) {
	for _, c := range s.enrolled().entries() {
		if c.Node != edge && !s.isAttacked(c.Node) {
			return c, true
		}
	}
	return candidate{}, false
}

func (s *supervisor) secondMade(u *uplink) {
	s.second.dialling = false
	switch {
	case u == nil:
		s.second.timer.Reset(secondRetry/2 + jitter(secondRetry))
	case s.up == nil || s.up.cand.Node == u.cand.Node:
		u.close()
		s.second.soon()
	default:
		s.second.up = u
		s.setSecond(u)
	}
}

func (s *supervisor) dropSecond() {
	if s.second.up != nil {
		s.second.up.close()
		s.second.up = nil
		s.setSecond(nil)
	}
}

// secondSays takes a message from the second control link; not ok: it has ended.
func (s *supervisor) secondSays(_ context.Context, m proto.Message, ok bool) {
	if !ok {
		s.dropSecond()
		s.second.timer.Reset(time.Second + jitter(secondRetry))
		return
	}
	switch m := m.(type) {
	case *proto.CatalogueMsg:
		s.newCatalogue(m.Doc)
	case *proto.Keys:
		s.newKeys(m)
	case *proto.Migrate:
		if err := s.second.up.send(&proto.MigrateOK{ID: m.ID}); err != nil {
			s.log.Debug("migration not acknowledged", "err", err)
		}
		s.attacked(s.second.up.cand.Node)
		s.event("migration ignored", fmt.Sprintf("it came from %s, which is not the current edge", s.edgeName(s.second.up.cand.Target)))
	case *proto.GoAway:
		s.dropSecond()
		s.second.timer.Reset(secondRetry/2 + jitter(secondRetry))
	}
}
