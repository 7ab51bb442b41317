package proxyd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"migrationsensor/detect"
	"migrationsensor/proxyd/anchor"
	"migrationsensor/proxyd/firewall"
	"migrationsensor/proxyd/synchecker"
)

// Host is what an edge needs of the machine it runs on. The real kernel implements it here; the
// tests have one in memory.
type Host interface {
	// Lock makes this the only edge of the machine, until release.
	Lock() (release func() error, err error)
	Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error)
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
	// Counter counts packets that arrive at the interface.
	Counter(ifname string) (detect.Counter, error)
	// Port reads and writes frames at the interface, beside or in front of the kernel, and says by which path.
	Port(ifname string, f synchecker.Filter, want synchecker.Path) (synchecker.Port, synchecker.Taken, error)
	Firewall(cfg firewall.Config) (Firewall, error)
	// Interface finds the interface through which packets for addr arrive.
	Interface(addr netip.Addr) (string, error)
	// Links calls changed when an interface or an address may have come or gone, until ctx is done.
	Links(ctx context.Context, changed func()) error
	// SYNCookies reports whether the kernel takes cookies for connections.
	SYNCookies() bool
	Now() time.Time
}

// Firewall guards the public ports. *firewall.Firewall is the real one.
type Firewall interface {
	Open() (undo func() error, err error)
	Defend(flows []firewall.Flow) error
	Relax() error
	Admit(addr netip.Addr, ttl time.Duration) error
	Admitted() int
	Update(cfg firewall.Config) error
	Stats() (firewall.Stats, error)
	Watch(ctx context.Context) error
}

// kernel is the Host of a real machine.
type kernel struct{}

func (kernel) Now() time.Time { return time.Now() }

// SYNCookies reads the sysctl; where there is none, the kernel was built without them.
func (kernel) SYNCookies() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_syncookies")
	return err == nil && strings.TrimSpace(string(b)) != "0"
}

// Listen listens for TCP. Multipath TCP is off: its options would not survive the SYN Checker.
func (kernel) Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp", addr.String())
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: another program has this port; stop it or change the port on the signing node: %w", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s: this machine does not have the address; add it to an interface, or correct `public` on the signing node: %w", addr, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen on %s: not allowed (needs root or CAP_NET_BIND_SERVICE): %w", addr, err)
	}
	return l, err
}

func (kernel) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, network, addr)
}

// Begin begins a connection to an origin without waiting for it.
func (kernel) Begin(origin string) (anchor.Dialing, bool) { return anchor.Begin(origin) }

func (kernel) Counter(ifname string) (detect.Counter, error) { return detect.OpenCounter(ifname) }

func (kernel) Port(ifname string, f synchecker.Filter, want synchecker.Path) (synchecker.Port, synchecker.Taken, error) {
	return synchecker.OpenPath(ifname, f, want)
}

func (kernel) Firewall(cfg firewall.Config) (Firewall, error) { return firewall.New(cfg) }

// Interface finds the interface that has the address.
func (kernel) Interface(addr netip.Addr) (string, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("list interfaces: %w", err)
	}
	for _, i := range ifs {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away meanwhile
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err != nil || p.Addr().Unmap() != addr {
				continue
			}
			if i.Flags&net.FlagLoopback != 0 {
				return "", fmt.Errorf("the address %s is on the loopback interface; say in proxyd.toml through which one its packets come: interface = \"eth0\"", addr)
			}
			return i.Name, nil
		}
	}
	return "", fmt.Errorf("no interface has the address %s; add it, or correct `public` of this node on the signing node", addr)
}
