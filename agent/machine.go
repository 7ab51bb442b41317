package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"syscall"
	"time"

	"migrationsensor/agent/connhandler"
	"migrationsensor/agent/hostnet"
	"migrationsensor/netstack"
)

// The TUN's own addresses: what applications see as their own end of a protected connection. They never leave the
// machine. Ours: a private address that is rarely used, and a unique local one made for this.
var (
	tunAddr4 = netip.MustParseAddr("10.213.77.1")
	tunAddr6 = netip.MustParseAddr("fd4d:5301:9d2c::1")
)

// System is what an [Agent] needs of the world. The zero value is this machine.
type System struct {
	Log     *slog.Logger     // nil discards
	Version string           // shown in the status
	Now     func() time.Time // nil: time.Now

	// Open makes the TUN and the routes; nil: the real ones. It is not called with [Config.NoTUN].
	Open func(Config, *slog.Logger) (Machine, error)
	// Own lists the machine's gateways and resolvers, which are never protected; nil: the real ones.
	Own func() []netip.Addr
	// Dial and Knock replace the agent's own sockets; nil: the kernel's, kept out of the TUN.
	Dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	Knock func(ctx context.Context, to netip.AddrPort, b []byte) error
}

// Machine is what an agent changes on its machine.
type Machine interface {
	// Run hands each connection that an application begins to a protected address to handle, in a goroutine of its
	// own, until ctx is done; it returns when all have ended. Before that arrive is told of it, which does not block;
	// what it returns is the flow's Early.
	Run(ctx context.Context, arrive func(dst netip.AddrPort) connhandler.Early, handle func(connhandler.Flow)) error
	// SetProtected leads exactly these addresses into the TUN.
	SetProtected([]netip.AddrPort) error
	// Control keeps a socket of the agent's own out of the TUN.
	Control(network, address string, c syscall.RawConn) error
	// Packets counts what entered the TUN.
	Packets() uint64
	// Close undoes everything; after Run has returned.
	Close() error
}

func (s System) withDefaults() System {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.Open == nil {
		s.Open = openMachine
	}
	if s.Own == nil {
		s.Own = ownAddrs
	}
	return s
}

// realMachine joins netstack and hostnet.
type realMachine struct {
	*hostnet.Host
	stack  *netstack.Stack
	arrive func(netip.AddrPort) connhandler.Early
	handle func(connhandler.Flow)
	ran    bool
	device netstack.Device
}

func openMachine(cfg Config, log *slog.Logger) (Machine, error) {
	dev, err := netstack.OpenTUN(cfg.Device, cfg.MTU)
	if err != nil {
		return nil, fmt.Errorf("open the TUN %s: %w", cfg.Device, err)
	}
	m := &realMachine{device: dev}
	m.stack, err = netstack.New(netstack.Config{
		Device: dev, Log: log,
		Handler: func(f *netstack.Flow) { m.handle(flow{f}) },
		Arrive:  func(dst netip.AddrPort) netstack.Early { return m.arrive(dst) },
	})
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	m.Host, err = hostnet.Open(hostnet.Config{
		Device: dev.Name(), Addr4: tunAddr4, Addr6: tunAddr6, StateFile: filepath.Join(cfg.State, hostFile), Log: log,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up the TUN %s: %w", dev.Name(), err), dev.Close())
	}
	return m, nil
}

func (m *realMachine) Run(ctx context.Context, arrive func(netip.AddrPort) connhandler.Early, handle func(connhandler.Flow)) error {
	m.arrive, m.handle, m.ran = arrive, handle, true
	return m.stack.Run(ctx)
}

func (m *realMachine) Packets() uint64 { return m.stack.Stats().PacketsIn }

// Close undoes routes and rules. The device went with Run, after the applications had their resets.
func (m *realMachine) Close() error {
	err := m.Host.Close()
	if !m.ran {
		err = errors.Join(err, m.device.Close())
	}
	return err
}

// flow is a netstack.Flow as the Connection Handler wants it: only the types of what it returns differ.
type flow struct{ *netstack.Flow }

func (f flow) Early() connhandler.Early { return f.Flow.Early() }

func (f flow) Accept() (connhandler.Conn, error) {
	c, err := f.Flow.Accept()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// directConn is a kernel connection for fallback = "direct".
type directConn struct{ *net.TCPConn }

func (c directConn) Abort() {
	_ = c.SetLinger(0) // fails only if it is closed already
	c.Close()
}
