package anchor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"

	"migrationsensor/proto"
	"migrationsensor/proto/session"
)

// A failure is why an OPEN has no connection: the code and words for the agent, and what happened. The
// words name no origin: its address is not the agent's business.
type failure struct {
	code proto.OpenCode
	text string
	err  error
}

func (f *failure) Error() string { return fmt.Sprintf("%s: %s: %v", f.code, f.text, f.err) }

// open answers one OPEN and carries the stream to its end.
func (a *Anchor) open(ctx context.Context, at *attached, st *session.Stream, name string) {
	defer a.streams.Add(-1)
	if a.streams.Add(1) > int64(a.cfg.MaxAllStreams) {
		a.fail(at, st, name, &failure{code: proto.OpenBusy, text: "too many connections at this proxy"})
		return
	}
	at.use(name, 1)
	defer at.use(name, -1)
	origin, err := a.reach(ctx, at, st, name)
	if err != nil {
		a.fail(at, st, name, err)
		return
	}
	a.opened.Add(1)
	st.AcceptOK()
	a.relay(ctx, st, origin)
}

func (at *attached) use(name string, n int) {
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.inUse[name] += n; at.inUse[name] == 0 {
		delete(at.inUse, name)
	}
}

// reach checks the agent's right to the service and connects to its origin.
func (a *Anchor) reach(ctx context.Context, at *attached, st *session.Stream, name string) (net.Conn, *failure) {
	svc, ok := a.cfg.Services(name)
	if !ok || !permitted(svc, at.agent) {
		return nil, &failure{proto.OpenDenied, "no such service for this agent's groups", nil}
	}
	origin, err := a.dial(ctx, st, svc.Origin)
	if err != nil {
		code := codeOf(err)
		return nil, &failure{code, words[code], err}
	}
	if svc.ProxyProtocol {
		if _, err := origin.Write(appendProxyHeader(nil, at.addr, svc.Public, at.agent.Agent)); err != nil {
			reset(origin)
			return nil, &failure{proto.OpenRefused, words[proto.OpenRefused], err}
		}
	}
	return origin, nil
}

func permitted(s Service, id proto.Identity) bool {
	return len(s.Groups) == 0 || slices.ContainsFunc(s.Groups, func(g string) bool { return slices.Contains(id.Groups, g) })
}

// dial connects to an origin, until the agent gives the stream up.
func (a *Anchor) dial(ctx context.Context, st *session.Stream, origin string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.DialTimeout)
	defer cancel()
	go func() {
		select {
		case <-st.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	return a.cfg.Dial(ctx, "tcp", origin)
}

var words = map[proto.OpenCode]string{
	proto.OpenRefused:     "the origin refuses the connection",
	proto.OpenUnreachable: "the origin can't be reached from the proxy",
	proto.OpenTimedOut:    "the origin does not answer",
	proto.OpenBusy:        "the proxy has no sockets left",
}

// codeOf tells by the system's error why a dial failed.
func codeOf(err error) proto.OpenCode {
	is := func(errs ...error) bool {
		return slices.ContainsFunc(errs, func(e error) bool { return errors.Is(err, e) })
	}
	var n net.Error
	switch {
	case is(syscall.ECONNREFUSED, syscall.ECONNRESET):
		return proto.OpenRefused
	case is(syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL):
		return proto.OpenBusy
	case is(os.ErrDeadlineExceeded, context.DeadlineExceeded, syscall.ETIMEDOUT), errors.As(err, &n) && n.Timeout():
		return proto.OpenTimedOut
	}
	return proto.OpenUnreachable
}

func (a *Anchor) fail(at *attached, st *session.Stream, name string, f *failure) {
	switch f.code {
	case proto.OpenRefused:
		a.refused.Add(1)
	case proto.OpenTimedOut:
		a.timedOut.Add(1)
	case proto.OpenDenied:
		a.denied.Add(1)
	case proto.OpenBusy:
		a.busy.Add(1)
	default:
		a.unreachable.Add(1)
	}
	a.log.Debug("open", "agent", at.agent.Agent, "service", name, "err", f)
	st.Fail(f.code, f.text)
}
