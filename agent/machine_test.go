package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"migrationsensor/agent/connhandler"
)

// fakeMachine records what the agent does to its machine.
type fakeMachine struct {
	err error // of Run, at once

	mu        sync.Mutex
	protected []netip.AddrPort
	running   bool
	closed    bool
}

func (m *fakeMachine) Run(ctx context.Context, _ func(netip.AddrPort) connhandler.Early, _ func(connhandler.Flow)) error {
	if m.err != nil {
		return m.err
	}
	m.mu.Lock()
	m.running = true
	m.mu.Unlock()
	<-ctx.Done()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running = false
	return nil
}

func (m *fakeMachine) SetProtected(p []netip.AddrPort) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.protected = slices.Clone(p)
	return nil
}
func (m *fakeMachine) Control(string, string, syscall.RawConn) error { return nil }
func (m *fakeMachine) Packets() uint64                               { return 42 }
func (m *fakeMachine) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running {
		return errors.New("closed while it runs")
	}
	m.closed = true
	return nil
}

func (m *fakeMachine) system() System {
	return System{
		Open: func(Config, *slog.Logger) (Machine, error) { return m, nil },
		Own:  func() []netip.Addr { return []netip.Addr{protected.Addr().Next()} },
	}
}

func TestMachineIsSetUpAndUndone(t *testing.T) {
	f := newFleet(t, "fleet")
	e := f.edge(false)
	cfg := testConfig(t)
	cfg.NoTUN, cfg.Token, cfg.Socket = false, f.token().String(), filepath.Join(t.TempDir(), "a.sock")
	m := new(fakeMachine)
	r := start(t, cfg, m.system())
	m.mu.Lock()
	if len(m.protected) != len(services) || !slices.Contains(m.protected, protected) {
		t.Errorf("protected %v", m.protected)
	}
	m.mu.Unlock()
	r.eventually("control link", func() bool { return e.links() == 1 })
	c := Control{cfg.Socket}
	s, err := c.Status(t.Context())
	if err != nil || s.Counts.TUNPackets != 42 || s.State != stateConnected {
		t.Errorf("status %+v %v", s, err)
	}
	second, _ := New(cfg, m.system())
	if err := second.Run(t.Context()); !errors.Is(err, ErrRunning) {
		t.Errorf("second agent: %v, want %v", err, ErrRunning)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	defer cancel()
	if err := c.Down(ctx); err != nil {
		t.Error(err)
	}
	r.down()
	if !m.closed {
		t.Error("down leaves the machine as the agent made it")
	}
}

func TestMissingRightDoesNotSpendTheToken(t *testing.T) {
	f := newFleet(t, "fleet")
	f.edge(false)
	cfg := testConfig(t)
	tok := f.token()
	cfg.NoTUN, cfg.Token = false, tok.String()
	a, _ := New(cfg, System{Open: func(Config, *slog.Logger) (Machine, error) { return nil, syscall.EPERM }})
	if err := a.Run(t.Context()); !errors.Is(err, syscall.EPERM) {
		t.Errorf("got %v, want %v", err, syscall.EPERM)
	}
	if f.used[tok.ID] {
		t.Error("the token was used, for nothing")
	}
}

func TestTUNThatFailsEndsTheAgent(t *testing.T) {
	f := newFleet(t, "fleet")
	f.edge(false)
	cfg := testConfig(t)
	cfg.NoTUN, cfg.Token = false, f.token().String()
	m := &fakeMachine{err: io.ErrUnexpectedEOF}
	a, _ := New(cfg, m.system())
	if err := a.Run(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) || !m.closed {
		t.Errorf("got %v, closed %v; want the reason, and everything undone", err, m.closed)
	}
}

// freezer dials connections that can be made to say and take nothing any more, as a path that was cut.
type freezer struct {
	mu    sync.Mutex
	conns []*frozenConn
}

type frozenConn struct {
	net.Conn
	frozen chan struct{}
	once   sync.Once
}

func (f *freezer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	fc := &frozenConn{Conn: c, frozen: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = append(f.conns, fc)
	return fc, nil
}

func (f *freezer) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.once.Do(func() { close(c.frozen) })
	}
}

func (c *frozenConn) isFrozen() bool {
	select {
	case <-c.frozen:
		return true
	default:
		return false
	}
}

func (c *frozenConn) Write(p []byte) (int, error) {
	if c.isFrozen() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *frozenConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.isFrozen() {
			return n, err
		}
	}
}

func TestDeadWarmLinkCostsOneProbe(t *testing.T) {
	f := newFleet(t, "fleet")
	f.edge(false)
	cfg := testConfig(t)
	cfg.Token = f.token().String()
	var cut freezer
	r := start(t, cfg, System{Dial: cut.dial})
	echo(t, r.mustDial(), "before")
	cut.freeze()
	began := time.Now()
	c := r.mustDial()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v; want patience of 300 ms and a fresh link", took)
	}
	t.Logf("connected %v after the cut", time.Since(began).Round(time.Millisecond))
	echo(t, c, "after")
	c.Close()
}
