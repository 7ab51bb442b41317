package netstacktest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The main thread stays where it is: /proc/self is its view of the system.
func init() { runtime.LockOSThread() }

// Namespace is a network namespace of the kernel, without a name and without a way out. A thread of its own
// lives in it until the test ends; the namespace ends with its last thread, process and socket.
type Namespace struct {
	tb   testing.TB
	file *os.File
	work chan func()
}

// NewNamespace makes one, or skips the test if this process may not.
func NewNamespace(tb testing.TB) *Namespace {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: makes network namespaces and TUN devices")
	}
	n := &Namespace{tb: tb, work: make(chan func())}
	ready := make(chan error)
	go n.live(ready)
	if err := <-ready; err != nil {
		tb.Skipf("no network namespace: %v", err)
	}
	tb.Cleanup(func() {
		close(n.work)
		_ = n.file.Close() // only a reference
	})
	return n
}

// live never unlocks its thread, so it ends with the goroutine.
func (n *Namespace) live(ready chan<- error) {
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		n.file, err = os.Open("/proc/thread-self/ns/net")
	}
	if err == nil {
		err = quiet()
	}
	ready <- err
	if err != nil {
		return
	}
	for f := range n.work {
		f()
	}
}

// quiet sets what a namespace inherits from the machine, and stops IPv6 from speaking unasked.
func quiet() error {
	for key, value := range map[string]string{
		"ipv4/ip_forward":                        "0",
		"ipv4/conf/all/rp_filter":                "0",
		"ipv4/conf/default/rp_filter":            "0",
		"ipv6/conf/all/accept_dad":               "0",
		"ipv6/conf/default/accept_dad":           "0",
		"ipv6/conf/default/dad_transmits":        "0",
		"ipv6/conf/default/accept_ra":            "0",
		"ipv6/conf/default/router_solicitations": "0",
	} {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// Do runs f on the namespace's thread; sockets that f opens stay in the namespace. f must not block for long.
func (n *Namespace) Do(f func() error) error {
	done := make(chan error, 1)
	n.work <- func() { done <- f() }
	return <-done
}

// Must is Do for what has to work.
func (n *Namespace) Must(f func() error) {
	n.tb.Helper()
	if err := n.Do(f); err != nil {
		n.tb.Fatal(err)
	}
}

// Enter runs f, which may block, on a fresh thread in the namespace.
func (n *Namespace) Enter(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Start starts cmd in the namespace. It is killed if the test binary dies.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // fires when the starting thread ends: that is ours
	return n.Do(cmd.Start)
}

// Up gives a link addresses (CIDR) and sets it up. It runs inside Do.
func Up(link string, addrs ...string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("address %s on %s: %w", s, link, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// Route leads a prefix into a link, or to a gateway if via is not empty. It runs inside Do.
func Route(prefix, link, via string) error {
	dst, err := netlink.ParseIPNet(prefix)
	if err != nil {
		return err
	}
	r := &netlink.Route{Dst: dst}
	if via != "" {
		gw, err := netlink.ParseAddr(via + "/0")
		if err != nil {
			return err
		}
		r.Gw = gw.IP
	} else {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		r.LinkIndex = l.Attrs().Index
	}
	if err := netlink.RouteAdd(r); err != nil {
		return fmt.Errorf("route %s: %w", prefix, err)
	}
	return nil
}

// Veth joins two namespaces with a pair of the same name on both sides.
func Veth(a, b *Namespace, name string, addrsA, addrsB []string) {
	a.tb.Helper()
	a.Must(func() error {
		la := netlink.NewLinkAttrs()
		la.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: name, PeerNamespace: netlink.NsFd(int(b.file.Fd()))})
	})
	a.Must(func() error { return Up(name, addrsA...) })
	b.Must(func() error { return Up(name, addrsB...) })
}
