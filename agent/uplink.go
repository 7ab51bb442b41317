package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

const (
	stagger     = time.Second      // an entry is tried when the candidate before it has been silent that long; ours
	controlPing = 10 * time.Second // keeps the path open and lets the kernel notice its end
	controlDead = 10 * time.Second // after a PING without a sign of life
	suspectDead = 1500 * time.Millisecond
	writeWait   = 5 * time.Second
	proofWait   = 300 * time.Millisecond // or 3 SRTT: for a warm link's sign of life before it becomes the current one; ours
)

// uplink is a control link to an edge. It has a life apart from the data links'.
type uplink struct {
	cand    candidate
	control *link.Link
	since   time.Time

	heard atomic.Int64       // when the edge last said anything, in nanoseconds since 1970
	asks  chan struct{}      // 1-buffered: ask for a sign of life now
	signs chan struct{}      // 1-buffered: the edge has said something
	msgs  chan proto.Message // from the reader, who closes it when the control link has ended
	gone  chan struct{}      // closed by close: the reader need not deliver any more
	once  sync.Once
	wmu   sync.Mutex // of writes on control
}

// newUplink runs a control link. One that is not current stands by: its edge is to name no other proxy on it.
func (a *Agent) newUplink(ctl *link.Link, current bool) *uplink {
	u := &uplink{
		cand: a.candidateAt(ctl.Target), control: ctl, since: a.sys.Now(), asks: make(chan struct{}, 1), signs: make(chan struct{}, 1),
		msgs: make(chan proto.Message), gone: make(chan struct{}),
	}
	u.heard.Store(time.Now().UnixNano())
	a.sayBoot(u, current)
	if !a.spawn(u.read) {
		close(u.msgs)
		u.close()
		return u
	}
	a.spawn(u.watch)
	return u
}

// sayBoot tells the edge which start of which agent this is, and whether it is its current edge.
func (a *Agent) sayBoot(u *uplink, current bool) {
	if err := u.send(&proto.Boot{ID: a.boot, Current: current, Version: a.sys.Version}); err != nil {
		a.log.Debug("control link ended", "edge", u.cand.Node, "err", err) // as its reader will say
	}
}

// read delivers what the edge says on the control link.
func (u *uplink) read(ctx context.Context) {
	defer close(u.msgs)
	defer u.close()
	stop := context.AfterFunc(ctx, u.close)
	defer stop()
	r := proto.NewReader(u.control, maxMessage)
	for {
		m, err := r.Message()
		if err != nil {
			return
		}
		u.heard.Store(time.Now().UnixNano())
		select {
		case u.signs <- struct{}{}:
		default:
		}
		switch m := m.(type) {
		case *proto.Ping:
			if u.send(&proto.Pong{Token: m.Token}) != nil {
				return
			}
			continue
		case *proto.Pong:
			continue
		}
		select {
		case u.msgs <- m:
		case <-u.gone:
			return
		}
	}
}

// ask has the edge asked for a sign of life; without one the control link is dead soon.
func (u *uplink) ask() {
	select {
	case u.asks <- struct{}{}:
	default:
	}
}

// proves asks for a sign of life and reports whether one came soon: a warm link may have died unseen, as when this
// machine's address has changed.
func (u *uplink) proves(ctx context.Context, wait time.Duration) bool {
	select {
	case <-u.signs: // an old one
	default:
	}
	u.ask()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-u.signs:
		return u.lives()
	case <-u.gone:
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// watch keeps the control link from being forgotten by what is on the path, and closes it when the edge is silent.
func (u *uplink) watch(context.Context) {
	timer := time.NewTimer(controlPing)
	defer timer.Stop()
	var asked time.Time // when the PING went that is not answered; zero: none
	for token := uint64(1); ; token++ {
		dead := controlDead
		select {
		case <-timer.C:
		case <-u.asks:
			dead, asked = suspectDead, time.Time{}
		case <-u.gone:
			return
		}
		if !asked.IsZero() {
			if u.heard.Load() < asked.UnixNano() {
				u.close()
				return
			}
			asked = time.Time{}
			timer.Reset(controlPing)
			continue
		}
		asked = time.Now()
		if u.send(&proto.Ping{Token: token}) != nil {
			u.close()
			return
		}
		timer.Reset(dead)
	}
}

// send writes one message on the control link.
func (u *uplink) send(m proto.Message) error {
	u.wmu.Lock()
	defer u.wmu.Unlock()
	u.control.SetWriteDeadline(time.Now().Add(writeWait))
	return proto.WriteMessage(u.control, m)
}

// close ends the control link.
func (u *uplink) close() {
	u.once.Do(func() {
		close(u.gone)
		u.control.Close()
	})
}

// lives reports whether it was not closed.
func (u *uplink) lives() bool {
	select {
	case <-u.gone:
		return false
	default:
		return true
	}
}
