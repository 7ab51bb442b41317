package packethandler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// Backoff after a failed accept (ours): a full descriptor table must neither end the service nor spin.
const (
	acceptBackoff    = 5 * time.Millisecond
	maxAcceptBackoff = time.Second
)

// A door is one listener. Its service may change while it is open.
type door struct {
	net.Listener
	h       *Handler
	service atomic.Pointer[Service]
}

// close ends serve; an error would say only that it is closed already.
func (d *door) close() { _ = d.Close() }

func (d *door) serve(ctx context.Context) {
	var wait time.Duration
	var warned time.Time
	for {
		c, err := d.Accept()
		switch {
		case err == nil:
			wait = 0
			d.h.enter(newFlow(ctx, d.h, *d.service.Load(), c))
			continue
		case errors.Is(err, net.ErrClosed), ctx.Err() != nil:
			return
		}
		d.h.acceptErrors.Add(1)
		if errors.Is(err, syscall.ECONNABORTED) {
			continue // that client left while it waited; the next one is there already
		}
		if now := time.Now(); now.Sub(warned) >= time.Second {
			warned = now
			d.h.log.Warn("accept", "addr", d.Addr(), "err", err)
		}
		wait = min(max(2*wait, acceptBackoff), maxAcceptBackoff)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// listenTCP listens in the kernel. Without MPTCP: it would show in the SYN-ACK, and cost.
func listenTCP(at netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), "tcp", at.String())
}

// listenHint is the remedy for what commonly keeps a port from being opened.
func listenHint(at netip.AddrPort, err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf(" (another program has port %d: stop it, see `ss -ltnp sport = :%d`, or give the service another port)", at.Port(), at.Port())
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf(" (no interface has %s: add the address, or correct `public` of the service)", at.Addr())
	case errors.Is(err, syscall.EACCES):
		return " (a port below 1024 needs CAP_NET_BIND_SERVICE)"
	}
	return ""
}
