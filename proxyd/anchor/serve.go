package anchor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
)

// Bounds of a link's beginning (the first PROTOCOL's, "5 s each step").
const (
	askTimeout     = 5 * time.Second // for its whole first message
	drainTimeout   = time.Second     // for the agent of a refused link to read why, and close
	maxFirstWindow = 4 << 20

	resumeLen = 16 + 4 + 2 // of a RESUME: session, epoch, number of streams
)

// errRefused is that a link was not taken into a session.
var errRefused = errors.New("link refused")

// dataLink is a link in Serve.
type dataLink struct {
	conn   net.Conn
	cancel context.CancelCauseFunc
	at     *attached // guarded by Anchor.mu; nil until it is taken in
}

// Serve carries a data link until it or its session ends, or ctx is done; it closes the link. Its first message says
// whether it makes a session, joins one or resumes one. The session goes on without it, for the time of grace.
func (a *Anchor) Serve(ctx context.Context, conn net.Conn, id proto.Identity, addr netip.AddrPort) error {
	l := &dataLink{conn: conn}
	defer l.conn.Close()
	ctx, l.cancel = context.WithCancelCause(ctx)
	defer l.cancel(nil)
	if !a.enter(l) {
		return net.ErrClosed
	}
	defer a.wg.Done()
	defer a.exit(l)
	unwatch := context.AfterFunc(ctx, func() { l.conn.Close() })
	first, err := a.ask(l.conn)
	if !unwatch() {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	at, fail, err := a.find(l, first, id, addr)
	if err != nil {
		return err
	}
	if fail != nil {
		return a.refuseLink(l.conn, fail)
	}
	share, fail := at.sess.Serve(first, time.Now())
	if fail != nil {
		a.leave(l, false)
		return a.refuseLink(l.conn, fail)
	}
	if _, ok := first.(*proto.Resume); ok {
		a.resumed.Add(1)
	}
	at.seenAt(addr)
	err = link.Pump(ctx, l.conn, share)
	a.leave(l, true)
	return err
}

// ask reads the first message of a link.
func (a *Anchor) ask(l net.Conn) (proto.Message, error) {
	if err := l.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return nil, fmt.Errorf("wait for a session: %w", err)
	}
	m, err := proto.NewReader(l, resumeLen+proto.ResumeStreamLen*(a.cfg.MaxStreams+1)).Message()
	if err != nil {
		return nil, fmt.Errorf("wait for a session: %w", err)
	}
	switch m := m.(type) {
	case *proto.Session:
		m.Credit = min(m.Credit, maxFirstWindow) // what is sent is kept until acknowledged: a bound on our memory
	case *proto.Attach, *proto.Resume:
	default:
		return nil, fmt.Errorf("wait for a session: got type %#x: %w", uint8(m.Type()), proto.ErrMessage)
	}
	if err := l.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("wait for a session: %w", err)
	}
	return m, nil
}

// refuseLink says why a link is not taken in. What the agent sent after its RESUME is read and thrown away: closing with
// it unread would send a reset, which destroys the answer on its way.
func (a *Anchor) refuseLink(l net.Conn, fail *proto.ResumeFail) error {
	if fail.Code == proto.ResumeRetry {
		a.later.Add(1)
	} else {
		a.notResumed.Add(1)
	}
	err := fmt.Errorf("%w: %s", errRefused, fail.Code)
	if e := l.SetDeadline(time.Now().Add(drainTimeout)); e != nil {
		return errors.Join(err, e)
	}
	if e := proto.WriteMessage(l, fail); e != nil {
		return errors.Join(err, e)
	}
	if w, ok := l.(interface{ CloseWrite() error }); ok {
		if e := w.CloseWrite(); e != nil {
			return errors.Join(err, e)
		}
	}
	_, _ = io.Copy(io.Discard, l) // until the agent closes, or for a second
	return err
}

// newSession makes a session for SESSION.
func (a *Anchor) newSession(req *proto.Session, id proto.Identity, addr netip.AddrPort) *attached {
	at := &attached{
		id: proto.NewSessionID(), agent: id, since: time.Now(), share: &share{budget: a.budget, owner: a.account(id.Agent)},
		addr: addr, inUse: map[string]int{},
	}
	at.sess = session.New(session.Config{
		Server: true, ID: at.id, Grace: a.cfg.Grace, PeerWindow: int(req.Credit), MaxStreams: a.cfg.MaxStreams,
		Budget: at.share, Log: a.log,
		Accept: func(st *session.Stream, service string) { a.open(at, st, service) },
	})
	return at
}
