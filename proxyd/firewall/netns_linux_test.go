package firewall

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The main thread stays in its namespace: /proc/self would follow it elsewhere.
func init() { runtime.LockOSThread() }

// space is an empty network namespace with a thread of its own. A socket opened inside do stays
// in the namespace and may be used anywhere.
type space struct {
	t    *testing.T
	fd   int
	work chan func()
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{t: t, work: make(chan func())}
	up := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			up <- err
			return
		}
		var err error
		s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		up <- err
		for f := range s.work {
			f()
		}
	}()
	if err := <-up; err != nil {
		t.Skipf("needs root, or a user namespace, to make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		close(s.work)
		unix.Close(s.fd)
	})
	return s
}

func (s *space) do(f func()) {
	done := make(chan struct{})
	s.work <- func() { defer close(done); f() }
	<-done
}

// must runs f inside and fails the test if it fails.
func (s *space) must(what string, f func() error) {
	s.t.Helper()
	var err error
	s.do(func() { err = f() })
	if err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
}

func (s *space) sysctl(path, value string) {
	s.t.Helper()
	s.must("sysctl "+path, func() error {
		err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
}

// join makes a veth pair: edge0 here, and the same name there.
func (s *space) join(peer *space, name string) {
	s.t.Helper()
	s.must("add veth", func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(peer.fd)})
	})
}

// up gives an interface its addresses, without duplicate address detection, which takes 2 s.
func (s *space) up(name string, prefixes ...string) (hw net.HardwareAddr) {
	s.t.Helper()
	if name != "lo" {
		s.sysctl("ipv6/conf/"+name+"/accept_dad", "0")
		s.sysctl("ipv6/conf/"+name+"/dad_transmits", "0")
	}
	s.must("set "+name+" up", func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		hw = l.Attrs().HardwareAddr
		for _, p := range prefixes {
			a, err := netlink.ParseAddr(p)
			if err != nil {
				return err
			}
			a.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(l, a); err != nil {
				return fmt.Errorf("address %s: %w", p, err)
			}
		}
		return netlink.LinkSetUp(l)
	})
	return hw
}

// waitUp returns when packets can pass.
func (s *space) waitUp(name string) {
	s.t.Helper()
	s.must("wait for "+name, func() error {
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if l.Attrs().OperState == netlink.OperUp {
				// The queue is opened just after this state is shown, under the lock that
				// this call needs too.
				return netlink.LinkSetUp(l)
			}
		}
		return errors.New("still down after 5 s")
	})
}

// route sends a prefix to a gateway.
func (s *space) route(prefix, via string) {
	s.t.Helper()
	s.must("route "+prefix, func() error {
		_, dst, err := net.ParseCIDR(prefix)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)})
	})
}

// neighbour fixes a neighbour's hardware address, so that nothing waits for ARP.
func (s *space) neighbour(name, addr string, hw net.HardwareAddr) {
	s.t.Helper()
	s.must("neighbour "+addr, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		ip := netip.MustParseAddr(addr)
		family := unix.AF_INET
		if ip.Is6() {
			family = unix.AF_INET6
		}
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: family,
			State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: hw})
	})
}
