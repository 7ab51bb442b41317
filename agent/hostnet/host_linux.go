package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addrGenNone keeps the kernel from giving the TUN a link-local address, and thereby from sending router
// solicitations and multicast reports into it.
const addrGenNone = 1

// host is Open's work. Its netlink sockets stay in the network namespace that Open was called in.
type host struct {
	cfg  Config
	log  *slog.Logger
	nl   *netlink.Handle
	diag *diag
	link int  // index of the TUN
	v6   bool // false where the kernel has IPv6 turned off

	mu        sync.Mutex
	protected map[netip.AddrPort]bool
	state     *stateFile
	janitor   *janitor
	closed    bool
}

func open(cfg Config) (*Host, error) {
	if cfg.Addr4.IsValid() && !cfg.Addr4.Is4() || cfg.Addr6.IsValid() && !(cfg.Addr6.Is6() && !cfg.Addr6.Is4In6()) {
		return nil, fmt.Errorf("addresses %v and %v of the TUN: want an IPv4 and an IPv6 address", cfg.Addr4, cfg.Addr6)
	}
	h := &Host{host{cfg: cfg, log: logger(cfg.Log), protected: make(map[netip.AddrPort]bool)}}
	if err := h.start(); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

func (h *host) start() (err error) {
	if h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	if h.diag, err = openDiag(); err != nil {
		return err
	}
	if h.state, err = lockState(h.cfg.StateFile); err != nil {
		return err
	}
	left := h.state.read()
	if err := sweepAll(h.nl, h.diag, left, h.log); err != nil {
		err = errors.Join(err, h.state.unlock())
		h.state = nil // what it says is still to be done
		return err
	}
	l, err := h.nl.LinkByName(h.cfg.Device)
	if err != nil {
		return fmt.Errorf("device %q: %w (open the TUN first)", h.cfg.Device, err)
	}
	h.link = l.Attrs().Index
	now := leftovers{Device: h.cfg.Device, Addr4: h.cfg.Addr4, Addr6: h.cfg.Addr6}
	if err := h.state.write(now); err != nil {
		return err
	}
	if h.janitor, err = startJanitor(now, h.state, h.log); err != nil {
		return err
	}
	return h.setUp(l)
}

func (h *host) setUp(l netlink.Link) error {
	if err := h.nl.LinkSetIP6AddrGenMode(l, addrGenNone); err != nil {
		h.log.Debug("the kernel may speak IPv6 into the TUN", "device", h.cfg.Device, "err", err)
	}
	// What comes out of the TUN has a protected address as its source, and the way back depends on ports. Loose
	// mode, for the TUN alone, does not rely on the kernel looking at those.
	if err := os.WriteFile(filepath.Join(confDir, h.cfg.Device, "rp_filter"), []byte("2"), 0); err != nil {
		h.log.Debug("reverse path filter left as it is", "device", h.cfg.Device, "err", err)
		if strict(confDir, h.cfg.Device) {
			h.log.Warn("a strict reverse path filter drops what comes out of the TUN; in compose.yaml add: sysctls: {net.ipv4.conf.all.rp_filter: \"2\"}", "device", h.cfg.Device, "err", err)
		}
	}
	if h.cfg.Addr4.IsValid() {
		if err := h.addAddr(l, h.cfg.Addr4, 0); err != nil {
			return err
		}
	}
	if h.cfg.Addr6.IsValid() {
		err := h.addAddr(l, h.cfg.Addr6, unix.IFA_F_NODAD) // nobody else can hold it
		h.v6 = err == nil
		switch {
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
			h.log.Info("IPv6 is turned off on this machine, so no IPv6 is protected", "device", h.cfg.Device, "err", err)
		case err != nil:
			return err
		}
	}
	if err := h.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", h.cfg.Device, err)
	}
	return nil
}

// confDir has the kernel's settings of each interface.
const confDir = "/proc/sys/net/ipv4/conf"

// strict reports whether the reverse path filter of an interface is strict: the higher of its own value and that of all counts.
func strict(dir, device string) bool {
	highest := ""
	for _, name := range []string{"all", device} {
		if b, err := os.ReadFile(filepath.Join(dir, name, "rp_filter")); err == nil {
			highest = max(highest, strings.TrimSpace(string(b)))
		}
	}
	return highest == "1"
}

func (h *host) addAddr(l netlink.Link, a netip.Addr, flags int) error {
	err := h.nl.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen())), Flags: flags})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("address %v on %s: %w", a, h.cfg.Device, err)
	}
	return nil
}

func (h *host) tunFor(a netip.Addr) netip.Addr {
	if a.Is4() {
		return h.cfg.Addr4
	}
	return h.cfg.Addr6
}

func (h *host) setProtected(addrs []netip.AddrPort) error {
	want := make(map[netip.AddrPort]bool, len(addrs))
	for _, p := range addrs {
		p = netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
		if err := h.check(p); err != nil {
			return err
		}
		if p.Addr().Is4() || h.v6 {
			want[p] = true
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("protect addresses: %w", errClosed)
	}
	return h.applyLocked(want)
}

var errClosed = errors.New("hostnet is closed")

func (h *host) check(p netip.AddrPort) error {
	a := p.Addr()
	switch {
	case p.Port() == 0, a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == h.cfg.Addr4, a == h.cfg.Addr6:
		return fmt.Errorf("%v cannot be protected: want a unicast address of another machine, and a port", p)
	case !h.tunFor(a).IsValid():
		return fmt.Errorf("%v cannot be protected: the TUN has no address of that IP version", p)
	}
	return nil
}

// applyLocked changes what differs. What is in h.protected may need no more; what failed is tried again.
func (h *host) applyLocked(want map[netip.AddrPort]bool) error {
	var errs []error
	for p := range h.protected {
		if want[p] {
			continue
		}
		last := !slices.ContainsFunc(keys(want, h.protected), func(o netip.AddrPort) bool { return o != p && o.Addr() == p.Addr() })
		if err := h.unprotect(p, last); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(h.protected, p)
		h.log.Debug("no longer protected", "addr", p)
	}
	for p := range want {
		if h.protected[p] {
			continue
		}
		h.protected[p] = true // also if it fails half-way: Close deletes what there is
		if err := h.protect(p); err != nil {
			errs = append(errs, err, h.unprotect(p, false))
			delete(h.protected, p)
			continue
		}
		h.log.Debug("protected", "addr", p, "device", h.cfg.Device)
	}
	return errors.Join(errs...)
}

func keys(maps ...map[netip.AddrPort]bool) (all []netip.AddrPort) {
	for _, m := range maps {
		for p := range m {
			all = append(all, p)
		}
	}
	return all
}

// control gives the socket the mark that the rules let pass.
func (h *host) control(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, markBit)
	}); cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("mark the agent's own socket: %w (needs CAP_NET_ADMIN)", err)
	}
	return nil
}

// close undoes in reverse. Sockets that still use the TUN's addresses would hang; they are aborted.
func (h *host) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	var errs []error
	errs = append(errs, h.applyLocked(nil))
	if h.janitor != nil {
		errs = append(errs, h.takeDown())
		h.janitor.dismiss()
	}
	errs = append(errs, h.state.remove())
	h.diag.close()
	if h.nl != nil {
		h.nl.Close()
	}
	return errors.Join(errs...)
}

func (h *host) takeDown() error {
	h.diag.abortFrom(h.log, h.cfg.Addr4, h.cfg.Addr6)
	l, err := h.nl.LinkByIndex(h.link)
	if err != nil {
		return nil // the TUN is closed already, and with it all it had
	}
	var errs []error
	for _, a := range []netip.Addr{h.cfg.Addr4, h.cfg.Addr6} {
		if !a.IsValid() || a.Is6() && !h.v6 {
			continue
		}
		err := h.nl.AddrDel(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))})
		if err != nil && !gone(err) && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("delete address %v: %w", a, err))
		}
	}
	if err := h.nl.LinkSetDown(l); err != nil && !gone(err) {
		errs = append(errs, fmt.Errorf("set %s down: %w", h.cfg.Device, err))
	}
	return errors.Join(errs...)
}
