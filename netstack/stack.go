package netstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	nicID = 1

	defaultInFlight = 8192
	bufferSize      = 2 << 20 // per direction and connection; a limit, nothing is allocated ahead

	// timeWait is short: with gVisor's 60 s an application that reuses a port after the origin closed
	// first would find its SYNs swallowed.
	timeWait = 100 * time.Millisecond
)

// Config says where packets come from and who decides about new connections.
type Config struct {
	// Device is taken over by New: Run closes it.
	Device Device

	// Handler decides about one new connection, in a goroutine of its own. A flow without a verdict when it
	// returns is dropped. Run waits for it: it has to end soon after the flow's context does.
	Handler func(*Flow)

	// Arrive is told of a new connection as soon as its SYN is there, in the goroutine that reads the device: it must
	// not block. What it returns is the flow's Early, or is aborted if there comes no flow. Both may be nil.
	Arrive func(dst netip.AddrPort) Early

	MaxInFlight       int // flows waiting for a verdict; 0 means 8192
	MaxPerDestination int // the same for one address and port: a dead service must not block a live one; 0 means an eighth

	Log *slog.Logger // nil discards
}

// Stack is a TCP/IP stack that answers for every address behind its device.
type Stack struct {
	cfg  Config
	ip   *stack.Stack
	fwd  *tcp.Forwarder
	link *tap

	ctx      context.Context // of the flows; ends before the device does
	cancel   context.CancelFunc
	handlers sync.WaitGroup
	lingers  sync.WaitGroup
	counts   counters

	mu      sync.Mutex
	started bool
	closing bool // no new flow, no new connection
	pending map[stack.TransportEndpointID]pending
	arrived map[stack.TransportEndpointID]Early // of SYNs on their way to become flows
	perDst  map[destination]int
	conns   map[*conn]struct{}
}

// pending is a flow without a verdict.
type pending struct {
	syn   *stack.PacketBuffer // an ICMP error quotes it
	early Early               // what Arrive said
}

type destination struct {
	addr tcpip.Address
	port uint16
}

// New checks the configuration and allocates. Nothing is read from the device before Run.
func New(cfg Config) (*Stack, error) {
	if cfg.Device == nil || cfg.Handler == nil {
		return nil, errors.New("netstack needs a device and a handler")
	}
	if cfg.MaxInFlight <= 0 {
		cfg.MaxInFlight = defaultInFlight
	}
	if cfg.MaxPerDestination <= 0 {
		cfg.MaxPerDestination = max(1, cfg.MaxInFlight/8)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ip, err := NewIPStack()
	if err != nil {
		return nil, err
	}
	setGVisorLog(cfg.Log)
	s := &Stack{
		cfg:     cfg,
		ip:      ip,
		link:    newTap(cfg.Device.LinkEndpoint()),
		pending: make(map[stack.TransportEndpointID]pending),
		arrived: make(map[stack.TransportEndpointID]Early),
		perDst:  make(map[destination]int),
		conns:   make(map[*conn]struct{}),
	}
	if cfg.Arrive != nil {
		s.link.arrive = s
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.fwd = tcp.NewForwarder(ip, bufferSize, cfg.MaxInFlight, s.serve)
	ip.SetTransportProtocolHandler(tcp.ProtocolNumber, s.receive)
	return s, nil
}

// NewIPStack is a gVisor stack with this package's TCP settings, perhaps more protocols, and no interface; packages
// netstacktest and memnet build their hosts on it.
func NewIPStack(more ...stack.TransportProtocolFactory) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: append([]stack.TransportProtocolFactory{tcp.NewProtocol}, more...),
	})
	var (
		sack     = tcpip.TCPSACKEnabled(true)
		reno     = tcpip.CongestionControlOption("reno")
		moderate = tcpip.TCPModerateReceiveBufferOption(true)
		wait     = tcpip.TCPTimeWaitTimeoutOption(timeWait)

		// The way to the application is lossless and takes microseconds: whatever RACK calls lost is an
		// application that was not scheduled, and its retransmissions cost a third of the throughput.
		rack = tcpip.TCPRecovery(0)
	)
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&sack, &reno, &moderate, &wait, &rack,
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: bufferSize, Max: 2 * bufferSize},
		&tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: bufferSize, Max: 2 * bufferSize},
	} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return nil, fmt.Errorf("tcp option %T: %w", o, errnoOf(err))
		}
	}
	return s, nil
}

// Run serves until ctx is done or the device fails. Before it closes the device it resets every connection
// and ends every flow's context. It returns after every handler has; nil means a stop that was asked for.
func (s *Stack) Run(ctx context.Context) error {
	if err := s.start(); err != nil {
		return errors.Join(err, s.cfg.Device.Close())
	}
	dead := make(chan struct{})
	go func() { // ends with the device, at the latest in stop
		s.link.Wait()
		close(dead)
	}()
	var err error
	select {
	case <-ctx.Done():
	case <-dead:
		if err = s.cfg.Device.Err(); err == nil && ctx.Err() == nil {
			err = fmt.Errorf("device %s was closed", s.cfg.Device.Name())
		}
	}
	s.stop()
	<-dead
	s.ip.Wait()
	return err
}

func (s *Stack) start() error {
	s.mu.Lock()
	again := s.started
	s.started = true
	s.mu.Unlock()
	if again {
		return errors.New("netstack runs only once")
	}
	if err := s.ip.CreateNIC(nicID, s.link); err != nil {
		return fmt.Errorf("attach to %s: %w", s.cfg.Device.Name(), errnoOf(err))
	}
	// Promiscuous: take packets for any address. Spoofing: answer in its name.
	if err := s.ip.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("promiscuous mode: %w", errnoOf(err))
	}
	if err := s.ip.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("spoofing: %w", errnoOf(err))
	}
	s.ip.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	s.link.open()
	return nil
}

// stop leaves no application hanging: resets go out while the device still carries them.
func (s *Stack) stop() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.cancel()
	s.abortConns()
	s.ip.Close() // also ends handshakes that an Accept waits for
	s.handlers.Wait()
	s.lingers.Wait()
	if err := s.cfg.Device.Close(); err != nil {
		s.cfg.Log.Warn("device not closed", "device", s.cfg.Device.Name(), "err", err)
	}
}

func (s *Stack) abortConns() {
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.kill()
	}
}

// adopt registers a connection, so that stop can reset it; false means that stop has come first.
func (s *Stack) adopt(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Stack) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}
