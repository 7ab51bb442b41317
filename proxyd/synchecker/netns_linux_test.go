package synchecker

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The main thread stays in the namespace it began in: a thread that changed its own must die with its
// goroutine, and the main one can't.
func init() { runtime.LockOSThread() }

// netns is a network namespace with a thread of its own. Sockets opened by do belong to it for good.
type netns struct {
	t    testing.TB
	fd   int
	work chan func()
}

func newNetns(t testing.TB) *netns {
	t.Helper()
	n := &netns{t: t, work: make(chan func())}
	ready, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		ready <- err
		for f := range n.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		close(n.work)
		<-ended
		t.Skipf("no network namespace: %v (run as root)", err)
	}
	t.Cleanup(func() {
		close(n.work)
		<-ended
		unix.Close(n.fd)
	})
	return n
}

func (n *netns) do(f func() error) error {
	done := make(chan error)
	n.work <- func() { done <- f() }
	return <-done
}

func (n *netns) must(what string, f func() error) {
	n.t.Helper()
	if err := n.do(f); err != nil {
		n.t.Fatalf("%s: %v", what, err)
	}
}

// wire is an edge and a client on one cable. The edge's kernel hears nothing on the link port.
type wire struct{ edge, client *netns }

const wireMTU = 1500

func newWire(t testing.TB) *wire {
	t.Helper()
	w := &wire{newNetns(t), newNetns(t)}
	for _, n := range []*netns{w.edge, w.client} {
		n.must("sysctl", quietIPv6)
	}
	w.edge.must("cable", func() error {
		la := netlink.NewLinkAttrs()
		la.Name, la.MTU, la.HardwareAddr = "edge0", wireMTU, edgeMAC
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: la, PeerName: "eth0", PeerHardwareAddr: routerMAC, PeerNamespace: netlink.NsFd(w.client.fd),
		})
	})
	w.edge.must("edge0", func() error { return up("edge0", "198.18.2.1/24", "2001:2::1/64") })
	w.client.must("eth0", func() error { return up("eth0", "198.18.2.2/24", "2001:2::2/64") })
	// Fixed neighbours: no test waits for, or counts, ARP.
	w.edge.must("neighbours", func() error { return neighbours("edge0", routerMAC, "198.18.2.2", "2001:2::2") })
	w.client.must("neighbours", func() error { return neighbours("eth0", edgeMAC, "198.18.2.1", "2001:2::1") })
	w.edge.must("silence", func() error { return silence("edge0") })
	return w
}

// quietIPv6 skips duplicate address detection, which takes 2 s.
func quietIPv6() error {
	for name, v := range map[string]string{"accept_dad": "0", "dad_transmits": "0", "router_solicitations": "0"} {
		if err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf/default", name), []byte(v), 0); err != nil {
			return err
		}
	}
	return nil
}

func up(name string, addrs ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		if strings.Contains(s, ":") {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

func neighbours(name string, mac net.HardwareAddr, addrs ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(a), HardwareAddr: mac,
		}); err != nil {
			return err
		}
	}
	return nil
}

const silenceTable = "synchecker-test"

// silence drops the link port at netdev ingress, TCP and UDP, as the firewall of a proxy does.
func silence(ifname string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: silenceTable})
	chain := c.AddChain(&nftables.Chain{
		Name: "in", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter, Device: ifname,
	})
	for _, proto := range []byte{protoTCP, protoUDP} {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: be.AppendUint16(nil, testPort)},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	return c.Flush()
}

func (w *wire) open(ns *netns, ifname string, f Filter) Port {
	ns.t.Helper()
	var port Port
	ns.must("open port", func() (err error) {
		port, err = OpenPort(ifname, f)
		return err
	})
	return port
}

// openBy opens the edge's port by a path.
func (w *wire) openBy(path Path, f Filter) (port Port) {
	w.edge.t.Helper()
	w.edge.must("open port", func() error {
		p, taken, err := OpenPath("edge0", f, path)
		if err == nil && taken.Path != path {
			err = fmt.Errorf("took %+v", taken)
		}
		port = p
		return err
	})
	if path == PathNative {
		w.receiveXDP()
	}
	return port
}

// receiveXDP gives the client's end a program that passes everything: without one a veth does not take
// what the other end's program sends.
func (w *wire) receiveXDP() {
	w.client.t.Helper()
	w.client.must("program at the client", func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, xdpPass), asm.Return(),
		}})
		if err != nil {
			return err
		}
		defer prog.Close()
		at, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: l.Attrs().Index, Flags: link.XDPDriverMode})
		if err != nil {
			return err
		}
		w.client.t.Cleanup(func() { at.Close() })
		return nil
	})
}
