package memory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"

	"migrationsensor/agent"
	"migrationsensor/agent/connhandler"
	"migrationsensor/examples/lab"
	"migrationsensor/netstack"
	"migrationsensor/netstack/memnet"
)

// The TUN's own addresses, which never leave the machine.
var tunAddrs = []netip.Addr{netip.MustParseAddr("10.213.77.1"), netip.MustParseAddr("fd4d:5301:9d2c::1")}

const tunMTU = 1500

// tun is the agent.Machine of a client in memory: a link whose one end is an interface of the host, where its routes
// lead protected addresses, and the other netstack's device.
type tun struct {
	host   *memnet.Host
	near   *memnet.Device // the host's
	far    *memnet.Device // netstack's
	stack  *netstack.Stack
	arrive func(netip.AddrPort) connhandler.Early
	handle func(connhandler.Flow)
	ran    bool
}

// system is what an agent process has of its host.
func system(proc *memnet.Process, log *slog.Logger) agent.System {
	return agent.System{
		Log: log,
		Own: func() []netip.Addr { return nil },
		Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			c, err := proc.Dial(ctx, lab.Uplink, to) // never into the TUN
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Knock: func(_ context.Context, to netip.AddrPort, b []byte) error { return proc.SendTo(lab.Uplink, to, b) },
		Open: func(_ agent.Config, log *slog.Logger) (agent.Machine, error) {
			return openTUN(proc.Host(), log)
		},
	}
}

func openTUN(h *memnet.Host, log *slog.Logger) (*tun, error) {
	t := &tun{host: h}
	t.near, t.far = memnet.Pair(tunMTU)
	var err error
	t.stack, err = netstack.New(netstack.Config{
		Device: t.far, Log: log,
		Handler: func(f *netstack.Flow) { t.handle(flow{f}) },
		Arrive:  func(dst netip.AddrPort) netstack.Early { return t.arrive(dst) },
	})
	if err != nil {
		return nil, errors.Join(err, t.near.Close(), t.far.Close())
	}
	if err := h.AddDevice(t.near, tunAddrs); err != nil {
		return nil, errors.Join(err, t.near.Close(), t.far.Close())
	}
	return t, nil
}

func (t *tun) Run(ctx context.Context, arrive func(netip.AddrPort) connhandler.Early, handle func(connhandler.Flow)) error {
	t.arrive, t.handle, t.ran = arrive, handle, true
	return t.stack.Run(ctx)
}

// SetProtected routes addresses, as a machine's routes can: an address with all its ports. Ports that are no service
// of the fleet would be refused, so the lab's applications dial none.
func (t *tun) SetProtected(at []netip.AddrPort) error {
	var routes []netip.Prefix
	for _, a := range at {
		routes = append(routes, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
	}
	if err := t.host.Route(t.near.Name(), routes...); err != nil {
		return fmt.Errorf("protect %v: %w", at, err)
	}
	return nil
}

func (t *tun) Control(string, string, syscall.RawConn) error { return nil }

func (t *tun) Packets() uint64 { return t.stack.Stats().PacketsIn }

func (t *tun) Close() error {
	err := t.host.RemoveDevice(t.near)
	if !t.ran {
		err = errors.Join(err, t.far.Close())
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
