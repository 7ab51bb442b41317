package connhandler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"
)

// Mode says when the probe is done.
type Mode int

const (
	Warm Mode = iota // ahead of time; ours
	Each             // for every connection; the paper's
)

// openTimeout bounds an OPEN from first to last; the proxy's own answer comes long before. Ours.
const openTimeout = 60 * time.Second

// Service is what the handler must know of a protected address.
type Service struct {
	Name   string
	Direct bool // may be dialled without a proxy where nobody speaks our protocol
}

// Config of a [Handler].
type Config struct {
	Mode    Mode
	Ways    Ways
	Retries int // further probes in mode Each after one that nobody answered; the paper has none
	// Service names the service at a protected address.
	Service func(dst netip.AddrPort) (Service, bool)
	// Direct dials dst without a proxy. Its errors are the system's.
	Direct func(ctx context.Context, dst netip.AddrPort) (Conn, error)
	// Event is told what an operator would want to see about one connection; may be nil.
	Event func(what, detail string)
	Log   *slog.Logger
}

// Stats counts connections since the start.
type Stats struct {
	Opened, Refused, TimedOut, Failed, Direct uint64
	Open                                      int // now
}

// Handler is the Connection Handler. Its methods may be called from any goroutine.
type Handler struct {
	cfg Config
	log *slog.Logger

	opened, refused, timedOut, failed, direct atomic.Uint64
	open                                      atomic.Int64
}

// New returns a handler.
func New(cfg Config) *Handler {
	if cfg.Event == nil {
		cfg.Event = func(string, string) {}
	}
	return &Handler{cfg: cfg, log: cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))}
}

// Stats reads the counters.
func (h *Handler) Stats() Stats {
	return Stats{
		Opened: h.opened.Load(), Refused: h.refused.Load(), TimedOut: h.timedOut.Load(), Failed: h.failed.Load(),
		Direct: h.direct.Load(), Open: int(h.open.Load()),
	}
}

// early is a stream that was asked for before its flow was handled.
type early struct {
	session Session
	opening Opening
}

// Arrive asks for a connection's stream on the warm session as soon as its SYN is there: what remains of its flow's
// way to [Handler.Handle] costs no time then. It does not block; nil: there is nothing yet.
func (h *Handler) Arrive(dst netip.AddrPort) Early {
	svc, ok := h.cfg.Service(dst)
	if !ok {
		return nil
	}
	if e := h.ask(svc.Name); e != nil {
		return e
	}
	return nil
}

// ask asks for a stream on the warm session; nil: there is none.
func (h *Handler) ask(service string) *early { return h.askOther(service, nil) }

// askOther is ask unless the warm session is still was, of which is not known yet that it has ended.
func (h *Handler) askOther(service string, was Session) *early {
	s := h.cfg.Ways.Warm(service)
	if s == nil || s == was {
		return nil
	}
	o, err := s.Begin(service)
	if err != nil { // it has just ended
		return nil
	}
	return &early{s, o}
}

// Abort gives it up; e may be nil.
func (e *early) Abort() {
	if e != nil {
		e.opening.Abort()
	}
}

// Handle answers one flow and carries its bytes until both directions have ended or ctx is done.
func (h *Handler) Handle(ctx context.Context, f Flow) {
	octx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(f.Context(), cancel) // the application gave up
	e, _ := f.Early().(*early)
	up, err := h.dial(octx, f.Dst(), e)
	stop()
	cancel()
	if err != nil {
		h.refuse(f, err)
		return
	}
	app, err := f.Accept()
	if err != nil {
		h.log.Debug("application gone before its connection opened", "dst", f.Dst(), "err", err)
		up.Abort()
		return
	}
	h.open.Add(1)
	defer h.open.Add(-1)
	Relay(ctx, app, up)
}

// refuse tells the application the truth about err.
func (h *Handler) refuse(f Flow, err error) {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, ErrTimedOut), errors.Is(err, ErrBusy), errors.Is(err, context.DeadlineExceeded):
		f.Drop()
	case errors.Is(err, ErrRefused), errors.Is(err, ErrDenied):
		f.Refuse()
	default:
		f.Unreachable()
	}
}

// Dial opens a stream to the service at dst, or a direct connection where that is allowed. It is what [Handler.Handle]
// does before it answers the application, and what a program that embeds the agent calls itself.
func (h *Handler) Dial(ctx context.Context, dst netip.AddrPort) (Conn, error) {
	return h.dial(ctx, dst, nil)
}

// dial is Dial with a stream that was asked for already, or nil.
func (h *Handler) dial(ctx context.Context, dst netip.AddrPort, e *early) (Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	svc, ok := h.cfg.Service(dst)
	if !ok {
		e.Abort() // it was one when its SYN came
		h.failed.Add(1)
		return nil, fmt.Errorf("connect %s: %w", dst, ErrUnprotected)
	}
	if e == nil {
		e = h.ask(svc.Name)
	}
	c, err := h.stream(ctx, dst, svc, e)
	if errors.Is(err, ErrNobody) && svc.Direct {
		return h.dialDirect(ctx, dst, err)
	}
	h.count(err)
	if err != nil {
		err = fmt.Errorf("connect %s (service %s): %w", dst, svc.Name, err)
		h.explain(err)
		return nil, err
	}
	return c, nil
}

func (h *Handler) stream(ctx context.Context, dst netip.AddrPort, svc Service, e *early) (Conn, error) {
	if h.cfg.Mode == Each {
		return h.openEach(ctx, dst, svc.Name, e)
	}
	return h.openWarm(ctx, svc.Name, e)
}

// dialDirect is fallback = "direct": the paper's unprotected proxy.
func (h *Handler) dialDirect(ctx context.Context, dst netip.AddrPort, why error) (Conn, error) {
	c, err := h.cfg.Direct(ctx, dst)
	err = truth(err)
	if err != nil {
		h.count(err)
		return nil, fmt.Errorf("connect %s directly (%w): %w", dst, why, err)
	}
	h.direct.Add(1)
	h.cfg.Event("direct", fmt.Sprintf("%s was dialled without a proxy: %v", dst, why))
	return c, nil
}

func (h *Handler) count(err error) {
	switch {
	case err == nil:
		h.opened.Add(1)
	case errors.Is(err, ErrRefused):
		h.refused.Add(1)
	case errors.Is(err, ErrTimedOut), errors.Is(err, context.DeadlineExceeded):
		h.timedOut.Add(1)
	case errors.Is(err, context.Canceled): // the application's own choice
	default:
		h.failed.Add(1)
	}
}

// explain writes down a failure that is not the origin's own, so that status can say why.
func (h *Handler) explain(err error) {
	h.log.Debug("connection not opened", "err", err)
	if errors.Is(err, ErrRefused) || errors.Is(err, ErrTimedOut) || errors.Is(err, ErrUnreachable) || errors.Is(err, context.Canceled) {
		return
	}
	h.cfg.Event("not opened", err.Error())
}
