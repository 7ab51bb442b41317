package proxyd

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proxyd/informer"
)

const (
	controlMax   = 64 << 10 // bytes of a message from an agent
	controlQueue = 64       // messages to an agent that waits for none of them
	linkTimeout  = 10 * time.Second
	enrolTimeout = 20 * time.Second
	keysFor      = 90 * 24 * time.Hour
)

// decide answers a verified preamble at the link listener: nil lets it in. Admitted clients never
// meet the SYN Checker, so an attacked proxy sends them on here.
func (e *edge) decide(v proto.Verified, from netip.AddrPort) *proto.Reply {
	stopping, state := e.stopping.Load(), e.state()
	switch {
	case v.Kind == proto.KindEnrol && !stopping:
		return nil
	case !stopping && (state == Active || state == Standby):
		return e.admit(v, from)
	}
	if v.Kind != proto.KindEnrol { // a token's holder is told no hidden edge
		if r, ok := e.informer.Transfer(v, from); ok {
			return &r
		}
	}
	if stopping || state == Suspended {
		return &proto.Reply{Kind: proto.ReplyRetry, After: retryIn, Client: from}
	}
	return e.admit(v, from) // no replacement: it serves, and says so in its state
}

// admit lets a link in, or tells it to come again when too many come at once. A probe costs no
// handshake.
func (e *edge) admit(v proto.Verified, from netip.AddrPort) *proto.Reply {
	if v.Kind == proto.KindProbe {
		return nil
	}
	again, ok := e.intake.take(e.host.Now(), v.Agent, e.acceptor.Opening(), e.acceptor.LinksOf(v.Agent), rand.N[time.Duration])
	if ok {
		return nil
	}
	e.mu.Lock()
	e.counts.retries++
	e.mu.Unlock()
	return &proto.Reply{Kind: proto.ReplyRetry, After: again, Client: from}
}

// data ends a data link: this edge is the session's anchor. The door is for agents that dial this node.
func (e *edge) data(ctx context.Context, l *link.Link, v proto.Verified) {
	if l.Via.IsZero() {
		e.came(l.Remote())
	}
	if err := e.anchor.Serve(ctx, l, l.Peer, l.Remote()); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		e.log.Debug("data link ended", "agent", v.Agent, "addr", l.Remote(), "err", err)
	}
	e.poke()
}

// relay begins to pass a data link on to the anchor that it names.
func (e *edge) relay(ctx context.Context, v proto.Verified, from netip.AddrPort) (net.Conn, error) {
	e.came(from)
	return e.p.dialAnchor(ctx, v, from)
}

// came keeps the door open for whoever has a link.
func (e *edge) came(from netip.AddrPort) {
	if e.hidden {
		e.door.welcome(from.Addr(), refreshFor)
	}
}

// control ends a control link: the agent is one of those that a migration moves.
func (e *edge) control(ctx context.Context, l *link.Link, v proto.Verified) {
	e.came(l.Remote())
	send, stop := sender(l)
	defer stop()
	if err := e.introduce(send, v.Agent); err != nil {
		e.log.Debug("control link ended", "agent", v.Agent, "err", err)
		return
	}
	m := &informer.Member{Agent: v.Agent, Addr: l.Remote(), Send: send, End: l.Abort}
	for _, s := range e.anchor.SessionsOf(v.Agent) {
		m.Session, m.Services = s.ID, s.Services
	}
	leave := e.informer.Join(m)
	defer e.poke()
	defer leave()
	e.log.Debug("agent connected", "agent", v.Agent, "addr", l.Remote())
	r := proto.NewReader(l, controlMax)
	for {
		// An agent PINGs every 10 s.
		if l.SetReadDeadline(time.Now().Add(3*linkTimeout)) != nil {
			return
		}
		msg, err := r.Message()
		if err != nil {
			e.log.Debug("control link ended", "agent", v.Agent, "err", err)
			return
		}
		if err := e.heard(ctx, m, v.Agent, msg); err != nil {
			e.log.Info("control link closed", "agent", v.Agent, "err", err)
			return
		}
	}
}

// errSlowReader is why a link ends whose agent does not take what it is told.
var errSlowReader = errors.New("the agent does not read its control link")

// sender writes messages on a control link, one at a time. send never waits for the network: an
// agent that does not read holds up no other's migration, it loses its link.
func sender(l *link.Link) (send func(proto.Message) error, stop func()) {
	queue := make(chan proto.Message, controlQueue)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case m := <-queue:
				if l.SetWriteDeadline(time.Now().Add(linkTimeout)) != nil || proto.WriteMessage(l, m) != nil {
					l.Abort() // its reader notices
					return
				}
			}
		}
	})
	send = func(m proto.Message) error {
		select {
		case queue <- m:
			return nil
		default:
			l.Abort()
			return errSlowReader
		}
	}
	return send, func() { close(done); l.Abort(); wg.Wait() }
}

// introduce tells a new agent what it needs: services and entries, and its keys for them.
func (e *edge) introduce(send func(proto.Message) error, agent proto.AgentID) error {
	if err := send(&proto.CatalogueMsg{Doc: e.p.state.Catalogue()}); err != nil {
		return err
	}
	id, secret := e.p.state.Key()
	err := send(&proto.Keys{Entries: []proto.KeyEntry{{
		Node: e.self.ID, Key: id, Keys: secret.Admission(agent), Expiry: e.host.Now().Add(keysFor),
	}}})
	return err
}

// tellStandby tells an agent its next proxy ahead, where the fleet wants that. An attacked edge does not: it names the
// next one in the notification itself.
func (e *edge) tellStandby(send func(proto.Message) error, agent proto.AgentID) error {
	if e.p.state.Doc().Rescue != RescueStandby || !e.is(Active) {
		return nil
	}
	ahead := &proto.Standby{}
	if t, ok := e.informer.Standby(agent); ok {
		ahead.Targets = []proto.Target{t}
	}
	return send(ahead)
}

// heard acts on one message of an agent.
func (e *edge) heard(ctx context.Context, m *informer.Member, agent proto.AgentID, msg proto.Message) error {
	switch msg := msg.(type) {
	case *proto.MigrateOK:
		e.informer.Acknowledged(m, msg.ID)
		e.poke()
		return nil
	case *proto.Ping:
		return m.Send(&proto.Pong{Token: msg.Token})
	case *proto.Pong:
		return nil
	case *proto.Boot:
		e.booted(m, msg)
		if e.clones.seen(agent, msg.ID, e.host.Now()) {
			e.mu.Lock()
			e.counts.clones++
			e.mu.Unlock()
			e.log.Warn("two machines use one agent's identity, by turns: one is a copy of the other; remove its state directory and join it with a token of its own", "agent", agent, "addr", m.Addr)
		}
		return nil
	case *proto.Renew:
		answer, err := e.p.peers.Renew(ctx, agent, msg)
		if err != nil {
			e.log.Warn("certificate not renewed", "agent", agent, "err", err)
		}
		return m.Send(answer)
	}
	return errors.New("an agent does not send this")
}

// booted takes note of which start of an agent a control link belongs to, and whether this edge is its current one: only
// then is it told where to go, at once if this edge sends its clients on.
func (e *edge) booted(m *informer.Member, b *proto.Boot) {
	e.informer.Boot(m, b.ID, b.Current)
	if !b.Current {
		return
	}
	if err := e.tellStandby(m.Send, m.Agent); err != nil {
		e.log.Debug("standby not told", "agent", m.Agent, "err", err)
	}
	e.poke()
}

// enrol passes a token's ENROL to the signing node.
func (e *edge) enrol(ctx context.Context, c net.Conn, v proto.Verified) {
	if c.SetDeadline(time.Now().Add(enrolTimeout)) != nil {
		return
	}
	msg, err := proto.NewReader(c, controlMax).Message()
	m, ok := msg.(*proto.Enrol)
	if err != nil || !ok || m.Token != v.Agent || m.As != "" {
		e.log.Info("enrolment refused: not what its preamble said", "token", v.Agent, "err", err)
		return
	}
	answer, err := e.p.peers.Enrol(ctx, m)
	if err != nil {
		e.log.Warn("enrolment not passed on", "token", v.Agent, "err", err)
	}
	if err := proto.WriteMessage(c, answer); err != nil {
		e.log.Debug("enrolment not answered", "token", v.Agent, "err", err)
	}
}
