package detect

import (
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The main thread stays in its namespace: /proc/self would follow it elsewhere.
func init() { runtime.LockOSThread() }

// space is an empty network namespace with a thread of its own. A socket opened inside do stays
// in the namespace and may be used anywhere.
type space struct {
	fd   int
	work chan func()
}

func newSpace(t testing.TB) *space {
	t.Helper()
	s := &space{work: make(chan func())}
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

// veth joins two new namespaces; both ends are called name and are up.
func veth(t testing.TB, name string) (a, b *space, hwA, hwB net.HardwareAddr) {
	t.Helper()
	a, b = newSpace(t), newSpace(t)
	a.do(func() { addVeth(t, name, b) })
	hwA, hwB = plug(t, name, a, b)
	return a, b, hwA, hwB
}

// plug returns when packets pass.
func plug(t testing.TB, name string, a, b *space) (hwA, hwB net.HardwareAddr) {
	t.Helper()
	hwA, hwB = a.up(t, name), b.up(t, name)
	a.waitUp(t, name)
	b.waitUp(t, name)
	return hwA, hwB
}

func (s *space) waitUp(t testing.TB, name string) {
	t.Helper()
	s.do(func() {
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
			l, err := netlink.LinkByName(name)
			if err == nil && l.Attrs().OperState == netlink.OperUp {
				// The queue is opened just after this state is shown, under the lock
				// that this call needs too.
				err = netlink.LinkSetUp(l)
				if err == nil {
					return
				}
			}
			if err != nil {
				t.Errorf("wait for %s: %v", name, err)
				return
			}
		}
		t.Errorf("%s is still down after 5 s", name)
	})
}

// addVeth is called inside do.
func addVeth(t testing.TB, name string, peer *space) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(peer.fd)}); err != nil {
		if strings.Contains(err.Error(), "not supported") {
			t.Skipf("kernel without veth: %v", err)
		}
		t.Errorf("add veth: %v", err)
	}
}

// up has IPv6 off: neighbour discovery and MLD by the kernel itself would spoil exact counts.
func (s *space) up(t testing.TB, name string) (hw net.HardwareAddr) {
	t.Helper()
	s.do(func() {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("IPv6 off: %v", err)
		}
		l, err := netlink.LinkByName(name)
		if err == nil {
			hw, err = l.Attrs().HardwareAddr, netlink.LinkSetUp(l)
		}
		if err != nil {
			t.Errorf("set %s up: %v", name, err)
		}
	})
	return hw
}

// sender puts frames on an interface, hundreds a system call.
type sender struct {
	t  testing.TB
	fd int
}

func (s *space) sender(t testing.TB, ifname string) (out *sender) {
	t.Helper()
	s.do(func() {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Errorf("packet socket: %v", err)
			return
		}
		t.Cleanup(func() { unix.Close(fd) })
		l, err := netlink.LinkByName(ifname)
		if err != nil {
			t.Errorf("find %s: %v", ifname, err)
			return
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}); err != nil {
			t.Errorf("bind to %s: %v", ifname, err)
			return
		}
		out = &sender{t, fd}
	})
	if out == nil {
		t.FailNow()
	}
	return out
}

type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// send sends the frame n times.
func (s *sender) send(frame []byte, n int) {
	s.t.Helper()
	iov := unix.Iovec{Base: &frame[0]}
	iov.SetLen(len(frame))
	msgs := make([]mmsghdr, min(n, 256))
	for i := range msgs {
		msgs[i].hdr.Iov = &iov
		msgs[i].hdr.SetIovlen(1)
	}
	for n > 0 {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&msgs[0])),
			uintptr(min(n, len(msgs))), 0, 0, 0)
		if errno != 0 && errno != unix.ENOBUFS {
			s.t.Fatalf("send frames: %v", errno)
		}
		if errno == 0 {
			n -= int(sent)
		}
	}
}
