package anchor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

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

// open answers one OPEN without waiting: where the origin has answered at once, itself, else in a goroutine, which
// carries the stream to its end. The stream and its origin belong to the session, whatever becomes of the link.
func (a *Anchor) open(at *attached, st *session.Stream, name string) {
	owner := at.share.owner
	full := a.streams.Add(1) > int64(a.cfg.MaxAllStreams)
	noMemory := a.budget.full()
	fullOfOne := owner.streams.Add(1) > int64(a.cfg.MaxStreamsOfOne) || owner.full()
	tooFast := !owner.mayOpen(time.Now())
	at.use(name, 1)
	at.share.Must(streamCost)
	end := func() {
		at.share.Give(streamCost)
		at.use(name, -1)
		owner.streams.Add(-1)
		a.streams.Add(-1)
	}
	svc, ok := a.cfg.Services(name)
	switch {
	case tooFast:
		a.fail(at, st, name, &failure{code: proto.OpenBusy, text: "too many new connections of this agent at once"})
	case fullOfOne:
		a.fail(at, st, name, &failure{code: proto.OpenBusy, text: "this agent has its share of the proxy's connections and memory"})
	case full:
		a.fail(at, st, name, &failure{code: proto.OpenBusy, text: "too many connections at this proxy"})
	case noMemory:
		a.fail(at, st, name, &failure{code: proto.OpenBusy, text: "the proxy has no memory left for another connection"})
	case !ok || !permitted(svc, at.agent):
		a.fail(at, st, name, &failure{proto.OpenDenied, "no such service for this agent's groups", nil})
	default:
		a.connect(at, st, svc, end)
		return
	}
	end()
}

// connect connects the stream to its origin; end is called when it is over.
func (a *Anchor) connect(at *attached, st *session.Stream, svc Service, end func()) {
	d := a.begin(svc.Origin)
	answered, err := d.Now()
	switch {
	case err != nil:
		a.refuse(at, st, svc, err)
		end()
	case !answered:
		a.wg.Go(func() {
			origin, err := a.wait(st, d)
			if err == nil {
				err = a.introduce(origin, at, svc)
			}
			if err != nil {
				a.refuse(at, st, svc, err)
				end()
				return
			}
			a.opened.Add(1)
			st.AcceptOK()
			a.relay(at, st, origin, end)
		})
	default:
		// Made before the answer, so that the link's writer, which carries that, is what runs next.
		a.wg.Go(func() {
			origin, err := d.Conn()
			if err == nil {
				err = a.introduce(origin, at, svc)
			}
			if err != nil {
				a.log.Debug("origin lost", "service", svc.Name, "err", err)
				st.Abort()
				end()
				return
			}
			a.relay(at, st, origin, end)
		})
		a.opened.Add(1)
		st.AcceptOK()
	}
}

// introduce tells the origin who the agent is, if it wants to know. It closes what it can't use.
func (a *Anchor) introduce(origin net.Conn, at *attached, svc Service) error {
	if !svc.ProxyProtocol {
		return nil
	}
	_, err := origin.Write(appendProxyHeader(nil, at.addrNow(), svc.Public, at.agent.Agent))
	if err != nil {
		reset(origin)
	}
	return err
}

// refuse tells the agent why there is no connection.
func (a *Anchor) refuse(at *attached, st *session.Stream, svc Service, err error) {
	code := codeOf(err)
	a.fail(at, st, svc.Name, &failure{code, words[code], err})
}

func permitted(s Service, id proto.Identity) bool {
	return len(s.Groups) == 0 || slices.ContainsFunc(s.Groups, func(g string) bool { return slices.Contains(id.Groups, g) })
}

// wait waits for the origin, until the stream is given up or its session ends.
func (a *Anchor) wait(st *session.Stream, d Dialing) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), a.cfg.DialTimeout)
	defer cancel()
	go func() {
		select {
		case <-st.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	return d.Wait(ctx)
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
