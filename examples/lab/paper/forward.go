package paper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	maxConns    = 4096 // at a time; the next ones wait in the kernel's queue
	originLimit = 10 * time.Second
)

// ForwarderCounts are a forwarder's.
type ForwarderCounts struct {
	Accepted    int
	Refused     int // reset: not ratified
	Unreachable int // reset: the origin did not answer
	Empty       int // the client sent nothing, as in the first handshake of the paper's client
	In, Out     int64
}

// forwarder is the paper's Packet Handler: bytes go both ways, a half-close stays one, a reset
// becomes a reset on the other side.
type forwarder struct {
	admit  func(now time.Time, client netip.Addr) bool // nil: everybody
	dialer net.Dialer
	slots  chan struct{} // one for each connection
	conns  sync.WaitGroup

	mu     sync.Mutex
	counts ForwarderCounts
}

func newForwarder() *forwarder {
	f := &forwarder{dialer: net.Dialer{Timeout: originLimit}, slots: make(chan struct{}, maxConns)}
	f.dialer.SetMultipathTCP(false)
	return f
}

func listen(at netip.AddrPort) (*net.TCPListener, error) {
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// accept serves a listener until ctx is done.
func (f *forwarder) accept(ctx context.Context, l *net.TCPListener, origin netip.AddrPort) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		select {
		case f.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.AcceptTCP()
		if err != nil {
			<-f.slots
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		f.conns.Go(func() {
			defer func() { <-f.slots }()
			f.serve(ctx, c, origin)
		})
	}
}

func (f *forwarder) serve(ctx context.Context, c *net.TCPConn, origin netip.AddrPort) {
	f.count(func(n *ForwarderCounts) { n.Accepted++ })
	client := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if f.admit != nil && !f.admit(time.Now(), client) {
		f.count(func(n *ForwarderCounts) { n.Refused++ })
		reset(c)
		return
	}
	up, err := f.dialer.DialContext(ctx, "tcp", origin.String())
	if err != nil {
		f.count(func(n *ForwarderCounts) { n.Unreachable++ })
		reset(c)
		return
	}
	f.join(ctx, c, up.(*net.TCPConn))
}

// join carries bytes both ways until both directions ended, one of them broke, or ctx is done.
func (f *forwarder) join(ctx context.Context, client, origin *net.TCPConn) {
	abort := func() { reset(client); reset(origin) }
	defer context.AfterFunc(ctx, abort)()
	var in, out int64
	var wg sync.WaitGroup
	wg.Go(func() { in = pump(origin, client, abort) })
	wg.Go(func() { out = pump(client, origin, abort) })
	wg.Wait()
	_, _ = client.Close(), origin.Close() // closed already if it broke
	f.count(func(n *ForwarderCounts) {
		n.In += in
		n.Out += out
		if in == 0 {
			n.Empty++
		}
	})
}

// pump copies one direction; between TCP connections io.Copy is splice(2).
func pump(to, from *net.TCPConn, abort func()) int64 {
	n, err := io.Copy(to, from)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		abort()
	}
	return n
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func (f *forwarder) count(add func(*ForwarderCounts)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	add(&f.counts)
}

// AdmissionCounts are P2's.
type AdmissionCounts struct {
	Ratified int // datagrams that admitted a client
	Full     int // datagrams that did not, because the list was full
	Bad      int // what was no ratification
}

// ratifier is P2's side of ratification: it admits and sends the datagram back as approval.
type ratifier struct {
	*admission
	conn   *net.UDPConn
	counts AdmissionCounts // run's
}

func listenRatify(c Config) (*ratifier, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(c.Ratify))
	if err != nil {
		return nil, err
	}
	return &ratifier{admission: newAdmission(c.Assumed), conn: conn}, nil
}

func (r *ratifier) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = r.conn.Close() })()
	b := make([]byte, ratifyLen+1)
	for {
		n, from, err := r.conn.ReadFromUDPAddrPort(b)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("ratifications: %w", err)
		}
		x, ok := parseRatification(b[:n], kindRatify)
		switch {
		case !ok:
			r.counts.Bad++
			continue
		case !r.ratify(time.Now(), x.client.Addr()):
			r.counts.Full++
			continue
		}
		r.counts.Ratified++
		if _, err := r.conn.WriteToUDPAddrPort(x.append(b[:0], kindApproval), from); errors.Is(err, net.ErrClosed) {
			return nil
		}
	}
}
