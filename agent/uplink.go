package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

const (
	stagger     = time.Second      // an entry is tried when the candidate before it has been silent that long; ours
	controlPing = 10 * time.Second // keeps the path open and lets the kernel notice its end
	writeWait   = 5 * time.Second
)

// uplink is a control link to the current edge and the data link that was made with it.
type uplink struct {
	cand    candidate
	control *link.Link
	data    *dataLink
	since   time.Time

	msgs chan proto.Message // from the reader, who closes it when the control link has ended
	gone chan struct{}      // closed by close: the reader need not deliver any more
	once sync.Once
	wmu  sync.Mutex // of writes on control
}

// join makes an uplink with the first of the candidates that answers: data link first, it carries what people wait
// for, then the control link to the same proxy.
func (a *Agent) join(ctx context.Context, cands []candidate) (*uplink, error) {
	e := a.enrolled()
	d := a.edgeDialer(e, 0)
	data, err := a.race(ctx, d, cands)
	if err != nil {
		return nil, err
	}
	a.useData(data)
	for range 2 {
		ctl, path, err := a.follow(ctx, d, data.cand, proto.KindControl)
		if err != nil {
			return nil, fmt.Errorf("data link is up, control link is not: %w", err)
		}
		a.noteTransfers(path)
		if ctl.Target.Node == data.cand.Node {
			return a.newUplink(data, ctl), nil
		}
		// Sent on between the two: the data link follows.
		ctl.Abort()
		moved := candidate{Target: ctl.Target, name: e.nameOf(ctl.Target.Node), told: !e.isEntry(ctl.Target.Node)}
		if data, err = a.probe(ctx, d, moved); err != nil {
			return nil, err
		}
		a.useData(data)
	}
	return nil, errors.New("proxies keep sending this client back and forth")
}

// race tries the candidates in order, the next one when the last has failed or been silent for a while. The first
// data link wins; all other attempts have ended when it returns.
func (a *Agent) race(ctx context.Context, d *link.Dialer, cands []candidate) (*dataLink, error) {
	if len(cands) == 0 {
		return nil, errors.New("no edge is known for which there is a key: join again with a new token")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		data *dataLink
		err  error
	}
	results := make(chan result)
	begun, ended := 0, 0
	begin := func() {
		c := cands[begun]
		begun++
		go func() { data, err := a.probe(ctx, d, c); results <- result{data, err} }()
	}
	timer := time.NewTimer(stagger)
	defer timer.Stop()
	begin()
	var winner *dataLink
	var errs []error
	for ended < begun {
		select {
		case r := <-results:
			ended++
			switch {
			case r.err != nil:
				errs = append(errs, r.err)
			case winner == nil:
				winner = r.data
				cancel()
			default:
				r.data.Retire()
			}
		case <-timer.C:
		}
		if winner == nil && begun < len(cands) && ctx.Err() == nil {
			begin()
			timer.Reset(stagger)
		}
	}
	if winner != nil {
		return winner, nil
	}
	return nil, errors.Join(errs...)
}

func (a *Agent) newUplink(data *dataLink, ctl *link.Link) *uplink {
	u := &uplink{
		cand: data.cand, control: ctl, data: data, since: a.sys.Now(),
		msgs: make(chan proto.Message), gone: make(chan struct{}),
	}
	if !a.spawn(u.read) {
		u.close()
		return u
	}
	a.spawn(u.ping)
	return u
}

// read delivers what the edge says on the control link.
func (u *uplink) read(ctx context.Context) {
	defer close(u.msgs)
	stop := context.AfterFunc(ctx, u.close)
	defer stop()
	r := proto.NewReader(u.control, maxMessage)
	for {
		m, err := r.Message()
		if err != nil {
			return
		}
		if p, ok := m.(*proto.Ping); ok {
			if u.send(&proto.Pong{Token: p.Token}) != nil {
				return
			}
			continue
		}
		select {
		case u.msgs <- m:
		case <-u.gone:
			return
		}
	}
}

// ping keeps the control link from being forgotten by what is on the path.
func (u *uplink) ping(context.Context) {
	t := time.NewTicker(controlPing)
	defer t.Stop()
	for token := uint64(1); ; token++ {
		select {
		case <-t.C:
			if u.send(&proto.Ping{Token: token}) != nil {
				u.close()
				return
			}
		case <-u.gone:
			return
		}
	}
}

// send writes one message on the control link.
func (u *uplink) send(m proto.Message) error {
	u.wmu.Lock()
	defer u.wmu.Unlock()
	u.control.SetWriteDeadline(time.Now().Add(writeWait))
	return proto.WriteMessage(u.control, m)
}

// close ends the control link; the data link has its own life.
func (u *uplink) close() {
	u.once.Do(func() {
		close(u.gone)
		u.control.Close()
	})
}
