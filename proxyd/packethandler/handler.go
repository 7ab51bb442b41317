// Package packethandler is the paper's Packet Handler (section 4.2) for clients without an agent: in
// peace it forwards each service port to the origin, as a plain TCP proxy does.
//
// It carries bytes and the way a connection ends: a half-close stays a half-close, a reset becomes a
// reset on the other side, never a clean end. Bytes go through io.Copy between TCP connections, which
// on Linux is splice(2). It decides nothing about attacks: its parent suspends it with SetForwarding,
// and the firewall keeps what it should not see away from it. Links of agents are not its business;
// they come in on another port, by packages link and anchor.
package packethandler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dialTimeout  = 10 * time.Second // ours; as long as an anchor waits for an origin
	defaultConns = 16384            // ours; two descriptors each, four while splicing
)

// A Service is what plain clients reach at its public addresses.
type Service struct {
	Name          string
	Public        []netip.AddrPort
	Origin        string // host:port
	ProxyProtocol bool   // tell the origin the client's address (PROXY protocol, version 2)
	Steady        bool   // forwarded while the handler is suspended, too
}

// Config is set once.
type Config struct {
	Services    []Service
	Listen      func(netip.AddrPort) (net.Listener, error)                           // nil: the kernel
	Dial        func(ctx context.Context, network, address string) (net.Conn, error) // nil: the kernel
	DialTimeout time.Duration                                                        // 0: 10 s
	MaxConns    int                                                                  // 0: 16384; one more is reset
	Log         *slog.Logger
}

// A Flow is a client's connection as the interface sees it: Src is the client.
type Flow struct{ Src, Dst netip.AddrPort }

// Stats count since New.
type Stats struct {
	Open         int    // connections now
	Ending       int    // of them, those that a suspension ends
	Accepted     uint64 // from clients
	Refused      uint64 // reset because the origin could not be reached
	OverCap      uint64 // reset because MaxConns were open
	Suspended    uint64 // reset because forwarding was off
	AcceptErrors uint64
	In, Out      uint64 // bytes from and to clients, counted when a direction ends
}

// Handler forwards plain clients. Its methods may be called from any goroutine.
type Handler struct {
	cfg Config
	log *slog.Logger

	accepted, refused, overCap, suspended, acceptErrors, in, out atomic.Uint64

	mu         sync.Mutex // guards what follows
	ctx        context.Context
	running    bool
	forwarding bool
	services   []Service
	doors      map[netip.AddrPort]*door
	flows      map[*flow]struct{}
	wg         sync.WaitGroup
}

// New makes a Handler that forwards as soon as it runs.
func New(cfg Config) *Handler {
	if cfg.Listen == nil {
		cfg.Listen = listenTCP
	}
	if cfg.Dial == nil {
		d := &net.Dialer{Control: resetOnClose}
		d.SetMultipathTCP(false)
		cfg.Dial = d.DialContext
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = dialTimeout
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = defaultConns
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Handler{
		cfg: cfg, log: cfg.Log, forwarding: true,
		services: slices.Clone(cfg.Services),
		doors:    map[netip.AddrPort]*door{},
		flows:    map[*flow]struct{}{},
	}
}

// Run listens until ctx is done, then resets what is open and waits for it. An address that can't be
// listened on at the start is an error.
func (h *Handler) Run(ctx context.Context) error {
	h.mu.Lock()
	h.ctx, h.running = ctx, true
	err := h.openLocked()
	h.mu.Unlock()
	if err == nil {
		<-ctx.Done()
	}
	h.stop()
	return err
}

func (h *Handler) stop() {
	h.mu.Lock()
	h.running = false
	for at, d := range h.doors {
		d.close()
		delete(h.doors, at)
	}
	h.abortLocked()
	h.mu.Unlock()
	h.wg.Wait()
}

// SetServices replaces the services. Listeners that stay are not touched, open connections neither.
// Addresses that can't be listened on are named in the error; the others serve all the same, and
// another call tries the missing ones again.
func (h *Handler) SetServices(services []Service) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.services = slices.Clone(services)
	if !h.running {
		return nil // Run opens them
	}
	return h.openLocked()
}

// openLocked makes the open doors those of the services.
func (h *Handler) openLocked() error {
	want := map[netip.AddrPort]Service{}
	for _, s := range h.services {
		for _, at := range s.Public {
			want[at] = s
		}
	}
	for at, d := range h.doors {
		if _, ok := want[at]; !ok {
			d.close()
			delete(h.doors, at)
		}
	}
	var errs []error
	for at, s := range want {
		if d := h.doors[at]; d != nil {
			d.service.Store(&s)
			continue
		}
		l, err := h.cfg.Listen(at)
		if err != nil {
			errs = append(errs, listenError(at, s.Name, err))
			continue
		}
		d := &door{Listener: l, h: h}
		d.service.Store(&s)
		h.doors[at] = d
		ctx := h.ctx
		h.wg.Go(func() { d.serve(ctx) })
	}
	return errors.Join(errs...)
}

// SetForwarding suspends the Handler or lets it go on. Suspended it is off the path: open connections
// are reset, and so is each new one, but for those of steady services. Its ports stay its own.
func (h *Handler) SetForwarding(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.forwarding == on {
		return
	}
	h.forwarding = on
	if on {
		return
	}
	for f := range h.flows {
		if !f.service.Steady {
			f.abort()
		}
	}
}

func (h *Handler) abortLocked() {
	for f := range h.flows {
		f.abort()
	}
}

// Flows lists the open client connections, for a firewall that has to let them live.
func (h *Handler) Flows() []Flow {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]Flow, 0, len(h.flows))
	for f := range h.flows {
		out = append(out, Flow{Src: addrPort(f.client.RemoteAddr()), Dst: addrPort(f.client.LocalAddr())})
	}
	return out
}

// Stats returns the counts.
func (h *Handler) Stats() Stats {
	h.mu.Lock()
	open, ending := len(h.flows), 0
	for f := range h.flows {
		if !f.service.Steady {
			ending++
		}
	}
	h.mu.Unlock()
	return Stats{
		Open: open, Ending: ending, Accepted: h.accepted.Load(), Refused: h.refused.Load(), OverCap: h.overCap.Load(),
		Suspended: h.suspended.Load(), AcceptErrors: h.acceptErrors.Load(), In: h.in.Load(), Out: h.out.Load(),
	}
}

// enter takes a new connection in; false: it may not come in, and was reset.
func (h *Handler) enter(f *flow) bool {
	h.accepted.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.running || !h.forwarding && !f.service.Steady:
		h.suspended.Add(1)
	case len(h.flows) >= h.cfg.MaxConns:
		h.overCap.Add(1)
	default:
		h.flows[f] = struct{}{}
		h.wg.Go(func() {
			f.run()
			h.mu.Lock()
			delete(h.flows, f)
			h.mu.Unlock()
		})
		return true
	}
	f.abort()
	return false
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		p, _ := netip.ParseAddrPort(a.String())
		return p
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

func listenError(at netip.AddrPort, service string, err error) error {
	return fmt.Errorf("listen on %s for service %q: %w%s", at, service, err, listenHint(at, err))
}
