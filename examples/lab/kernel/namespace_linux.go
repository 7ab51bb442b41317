package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mark, followed by the namespace's name, is the alias of lo in every lab namespace: the flood
// tool and the scan refuse to run where it is missing.
const mark = "ms-lab:"

// Namespace is one machine of the lab: a network namespace held by a descriptor, and a thread that
// lives in it as long as the program.
type Namespace struct {
	Name string
	work chan func()

	mu   sync.RWMutex // held to read while file is in use
	file *os.File     // nil after Close
}

// NewNamespace makes a namespace with loopback up and every setting that matters set, because a
// new namespace inherits some from the host. extra overrides them, keys below /proc/sys/net.
func NewNamespace(name string, extra map[string]string) (*Namespace, error) {
	n := &Namespace{Name: name, work: make(chan func())}
	ready := make(chan error, 1)
	go n.live(extra, ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	return n, nil
}

// live is the namespace's thread. It is never unlocked, so the thread dies with the goroutine and
// can't carry other goroutines into the namespace.
func (n *Namespace) live(extra map[string]string, ready chan<- error) {
	runtime.LockOSThread()
	if err := n.found(extra); err != nil {
		ready <- err
		return
	}
	ready <- nil
	for f := range n.work {
		f()
	}
}

func (n *Namespace) found(extra map[string]string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w (needs CAP_SYS_ADMIN)", err)
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	n.file = f
	if err := setSysctls(extra); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(lo, mark+n.Name); err != nil {
		return fmt.Errorf("mark lo: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// Close ends the thread and lets the namespace go once nobody else holds it. Children that were
// started from it are killed by the kernel.
func (n *Namespace) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file == nil {
		return net.ErrClosed
	}
	close(n.work)
	err := n.file.Close()
	n.file = nil
	return err
}

// Do runs f on the namespace's thread and waits for it. f must not block: one thread serves all.
func (n *Namespace) Do(f func() error) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.file == nil {
		return fmt.Errorf("%s: %w", n.Name, net.ErrClosed)
	}
	done := make(chan error, 1)
	n.work <- func() { done <- f() }
	if err := <-done; err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return nil
}

// Block runs f on a thread of its own in the namespace and waits for it: for calls that block.
func (n *Namespace) Block(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		if err := n.enter(); err != nil {
			done <- fmt.Errorf("enter %s: %w", n.Name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// enter puts the calling thread into the namespace.
func (n *Namespace) enter() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.file == nil {
		return net.ErrClosed
	}
	return unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
}

// Start starts a program in the namespace. It is killed when the lab ends.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // fires when this thread dies
	return n.Do(cmd.Start)
}

// Output runs a program in the namespace to its end and returns what it printed.
func (n *Namespace) Output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// Dial dials from the namespace; it fits http.Transport and net.Dialer users. The address must be
// a literal one: there is no resolver in the lab.
func (n *Namespace) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = n.Block(func() (err error) {
		d := net.Dialer{}
		d.SetMultipathTCP(false)
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Listen listens in the namespace.
func (n *Namespace) Listen(network, address string) (l net.Listener, err error) {
	err = n.Do(func() (err error) {
		lc := net.ListenConfig{}
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(context.Background(), network, address)
		return err
	})
	return l, err
}

// CheckInside returns ErrOutside unless the calling thread is in a namespace that the lab made, or in a container of its own kind:
// one all of whose interfaces are out of ranges that nobody on the internet has.
func CheckInside() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOutside, err)
	}
	if strings.HasPrefix(lo.Attrs().Alias, mark) {
		return nil
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOutside, err)
	}
	ours := 0
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		switch ip = ip.Unmap(); {
		case slices.ContainsFunc(Ours, func(p netip.Prefix) bool { return p.Contains(ip) }):
			ours++
		case !ip.IsLoopback() && !ip.IsLinkLocalUnicast():
			return ErrOutside
		}
	}
	if ours == 0 {
		return ErrOutside
	}
	return nil
}

// Congestion is the TCP congestion control of the namespace: cubic where the host lets a namespace have it, else the
// host's own.
func (n *Namespace) Congestion() (name string, err error) {
	err = n.Do(func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
		name = strings.TrimSpace(string(b))
		return err
	})
	return name, err
}

func setSysctls(extra map[string]string) error {
	all := map[string]string{
		"core/somaxconn": "4096",

		"ipv4/ip_forward":                  "0",
		"ipv4/conf/all/rp_filter":          "0",
		"ipv4/conf/default/rp_filter":      "0",
		"ipv4/conf/all/accept_redirects":   "0",
		"ipv4/conf/all/send_redirects":     "0",
		"ipv4/conf/default/send_redirects": "0",
		"ipv4/icmp_ratelimit":              "0", // a limit would tell addresses apart by order
		"ipv4/ip_local_port_range":         "32768 60999",
		"ipv4/tcp_congestion_control":      "cubic",
		"ipv4/tcp_ecn":                     "2",
		"ipv4/tcp_fastopen":                "1",
		"ipv4/tcp_max_syn_backlog":         "4096",
		"ipv4/tcp_no_metrics_save":         "1", // else one lossy run colours the next
		"ipv4/tcp_rmem":                    "4096 131072 33554432",
		"ipv4/tcp_syn_retries":             "6",
		"ipv4/tcp_syncookies":              "1",
		"ipv4/tcp_timestamps":              "1",
		"ipv4/tcp_wmem":                    "4096 65536 33554432",

		"ipv6/conf/all/accept_dad":               "0", // else an address waits 2 s
		"ipv6/conf/all/accept_ra":                "0",
		"ipv6/conf/all/disable_ipv6":             "0",
		"ipv6/conf/all/forwarding":               "0",
		"ipv6/conf/default/accept_dad":           "0",
		"ipv6/conf/default/accept_ra":            "0",
		"ipv6/conf/default/dad_transmits":        "0",
		"ipv6/conf/default/router_solicitations": "0",
		"ipv6/icmp/ratelimit":                    "0",
	}
	maps.Copy(all, extra)
	for k, v := range all {
		err := os.WriteFile("/proc/sys/net/"+k, []byte(v), 0)
		// Some settings are not a namespace's own on older kernels or without root; cubic is refused where the host
		// does not allow it to everybody, and Congestion tells what there is instead.
		if err == nil || errors.Is(err, fs.ErrNotExist) || k == "ipv4/tcp_congestion_control" {
			continue
		}
		return fmt.Errorf("sysctl net/%s: %w", k, err)
	}
	return nil
}
