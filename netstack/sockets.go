package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog is Linux's default for what a listener has not accepted yet.
const backlog = 4096

// Sockets are what one process has open on a gVisor host. The process can be stopped and killed, as by SIGSTOP and
// SIGKILL: the host's stack goes on either way.
type Sockets struct {
	ip      *stack.Stack
	gate    gate
	lingers sync.WaitGroup

	mu    sync.Mutex
	ended bool
	conns map[*conn]struct{}
	open  map[closer]struct{} // listeners and datagram sockets
}

type closer interface{ kill() }

// NewSockets returns a process without sockets.
func NewSockets(ip *stack.Stack) *Sockets {
	return &Sockets{ip: ip, conns: make(map[*conn]struct{}), open: make(map[closer]struct{})}
}

// From says where a connection begins. The zero value leaves it to the host.
type From struct {
	NIC   tcpip.NICID    // through this interface only, as with SO_BINDTODEVICE
	Local netip.AddrPort // an invalid one is any
}

// Dial connects. The connection has SetLinger, as *net.TCPConn has it.
func (s *Sockets) Dial(ctx context.Context, from From, to netip.AddrPort) (Conn, error) {
	s.gate.wait()
	if s.over() {
		return nil, dialError(to, net.ErrClosed)
	}
	ep, wq, err := connect(ctx, s.ip, from.NIC, from.Local, to)
	if err != nil {
		return nil, err
	}
	c := newConn(ep, wq, s)
	if !s.adopt(c) {
		c.die()
		return nil, dialError(to, net.ErrClosed)
	}
	s.gate.wait()
	return &socket{Conn: c, gate: &s.gate}, nil
}

// Listen listens for TCP at an address of the host, or at every one if it is unspecified.
func (s *Sockets) Listen(at netip.AddrPort) (net.Listener, error) {
	s.gate.wait()
	fail := func(terr tcpip.Error) error {
		return &net.OpError{Op: "listen", Net: "tcp", Addr: net.TCPAddrFromAddrPort(at), Err: errnoOf(terr)}
	}
	l := &listener{s: s, done: make(chan struct{})}
	var terr tcpip.Error
	if l.ep, terr = s.ip.NewEndpoint(tcp.ProtocolNumber, protocolOf(at.Addr()), &l.wq); terr != nil {
		return nil, fail(terr)
	}
	local := fullAddress(at)
	if at.Addr().IsUnspecified() {
		local.Addr = tcpip.Address{}
	}
	l.ep.SocketOptions().SetReuseAddress(true)
	if terr = l.ep.Bind(local); terr == nil {
		terr = l.ep.Listen(backlog)
	}
	if terr != nil {
		l.ep.Close()
		return nil, fail(terr)
	}
	got, _ := l.ep.GetLocalAddress() // a bound endpoint has one
	l.addr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(at.Addr(), got.Port))
	l.entry, l.ready = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	l.wq.EventRegister(&l.entry)
	if !s.keep(l) {
		l.kill()
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
	return l, nil
}

// Stop freezes the process: what it has begun does not return and what it begins waits, until Continue. Its host
// acknowledges what comes, as a kernel does, until the receive buffers are full.
func (s *Sockets) Stop() { s.gate.shut() }

// Continue ends Stop.
func (s *Sockets) Continue() { s.gate.lift() }

// Yield returns when the process is not stopped.
func (s *Sockets) Yield() { s.gate.wait() }

// Kill ends the process: every socket is closed by the host, which sends a FIN, or a reset where bytes lay unread.
// All calls give net.ErrClosed from then on.
func (s *Sockets) Kill() { s.end((*conn).die) }

// Close ends the process with a reset of every connection, and waits for what Close of a connection left behind.
func (s *Sockets) Close() {
	s.end((*conn).reset)
	s.lingers.Wait()
}

// Reset cuts the connections that match, as a box on the way does that sends resets to both ends. The process goes on,
// and sees ECONNABORTED. It says how many there were.
func (s *Sockets) Reset(match func(local, remote netip.AddrPort) bool) (n int) {
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		if c.local != nil && c.remote != nil && match(c.local.(*net.TCPAddr).AddrPort(), c.remote.(*net.TCPAddr).AddrPort()) {
			c.ep.Abort()
			n++
		}
	}
	return n
}

func (s *Sockets) end(each func(*conn)) {
	s.mu.Lock()
	s.ended = true
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	others := make([]closer, 0, len(s.open))
	for o := range s.open {
		others = append(others, o)
	}
	s.mu.Unlock()
	for _, o := range others {
		o.kill()
	}
	for _, c := range conns {
		each(c)
	}
	s.gate.lift()
}

func (s *Sockets) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// adopt registers a connection; false: the process has ended.
func (s *Sockets) adopt(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.conns[c] = struct{}{}
	}
	return !s.ended
}

func (s *Sockets) keep(o closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.open[o] = struct{}{}
	}
	return !s.ended
}

func (s *Sockets) drop(o closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, o)
}

// forget and background make it a conn's owner.
func (s *Sockets) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *Sockets) background(f func()) {
	s.mu.Lock()
	late := s.ended
	if !late {
		s.lingers.Add(1)
	}
	s.mu.Unlock()
	if late {
		f()
		return
	}
	go func() {
		defer s.lingers.Done()
		f()
	}()
}

// die closes the endpoint as a kernel does for a process that is gone.
func (c *conn) die() {
	if c.ending.Swap(true) {
		c.owner.forget(c) // it lingers; its host ends it
		return
	}
	c.release()
}

// reset ends a connection also if it lingers.
func (c *conn) reset() {
	c.ep.Abort()
	if !c.ending.Swap(true) {
		c.release()
	}
}

// listener is a TCP listener.
type listener struct {
	s     *Sockets
	ep    tcpip.Endpoint
	wq    waiter.Queue
	entry waiter.Entry
	ready chan struct{}
	addr  net.Addr
	once  sync.Once
	done  chan struct{}
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) Accept() (net.Conn, error) {
	for {
		l.s.gate.wait()
		var peer tcpip.FullAddress
		ep, wq, terr := l.ep.Accept(&peer)
		switch terr.(type) {
		case nil:
			c := newConn(ep, wq, l.s)
			if c.remote == nil { // it was reset in the queue; a kernel names its peer all the same
				c.remote = net.TCPAddrFromAddrPort(addrPort(peer.Addr, peer.Port))
			}
			if c.local == nil {
				c.local = l.addr
			}
			if !l.s.adopt(c) {
				c.die()
				return nil, l.closed()
			}
			return &socket{Conn: c, gate: &l.s.gate}, nil
		case *tcpip.ErrWouldBlock:
		default:
			if errors.Is(errnoOf(terr), net.ErrClosed) {
				return nil, l.closed()
			}
		}
		select {
		case <-l.done:
			return nil, l.closed()
		case <-l.ready:
		}
	}
}

func (l *listener) closed() error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
}

func (l *listener) Close() error {
	l.s.gate.wait()
	l.kill()
	return nil
}

func (l *listener) kill() {
	l.once.Do(func() {
		close(l.done)
		l.wq.EventUnregister(&l.entry)
		l.ep.Close()
		l.s.drop(l)
	})
}
