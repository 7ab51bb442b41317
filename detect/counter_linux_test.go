package detect

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
)

const ifname = "edge0"

// bench is an edge's interface, with the far end to send from.
type bench struct {
	t             testing.TB
	outside, edge *space
	frames        frames
	out           *sender
}

func newBench(t testing.TB) *bench {
	outside, edge, hwOut, hwEdge := veth(t, ifname)
	b := &bench{t, outside, edge, frames{t, hwOut, hwEdge, nil}, nil}
	b.out = outside.sender(t, ifname)
	return b
}

func (b *bench) counter(open func() (Counter, error)) (c Counter) {
	b.t.Helper()
	var err error
	b.edge.do(func() { c, err = open() })
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}

func (b *bench) read(c Counter) (n Counts, err error) {
	b.edge.do(func() { n, err = c.Read() })
	return n, err
}

// wantMore reads until the counts have grown by exactly want, and fails if they don't or grow by more.
func (b *bench) wantMore(c Counter, before, want Counts) Counts {
	b.t.Helper()
	for k := range want {
		want[k] += before[k]
	}
	var got Counts
	deadline := time.Now().Add(5 * time.Second)
	for got != want && time.Now().Before(deadline) {
		var err error
		if got, err = b.read(c); err != nil {
			b.t.Fatal(err)
		}
	}
	if got != want {
		b.t.Errorf("counted %v, want %v", got, want)
	}
	return got
}

// dropAll puts a netdev ingress drop in front of the kernel of the edge.
func (b *bench) dropAll() {
	b.t.Helper()
	b.edge.do(func() {
		c, err := nftables.New()
		if err != nil {
			b.t.Error(err)
			return
		}
		tab := c.AddTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: "droptest"})
		ch := c.AddChain(&nftables.Chain{Table: tab, Name: "in", Device: ifname, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFirst})
		c.AddRule(&nftables.Rule{Table: tab, Chain: ch, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
		if err := c.Flush(); err != nil {
			b.t.Errorf("nft drop: %v", err)
		}
	})
}

func openTest() (Counter, error) { return OpenCounter(ifname) }

// Each kind of packet counts as what it is and nothing else.
func TestKernelTellsKindsApart(t *testing.T) {
	b := newBench(t)
	c := b.counter(openTest)
	at, err := b.read(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, vlan := range [][]uint16{nil, {7}} {
		b.frames.vlan = vlan
		for _, s := range b.frames.samples() {
			t.Run(fmt.Sprint(s.name, " vlan ", vlan), func(t *testing.T) {
				b.out.send(s.frame, 3)
				want := Counts{All: 3}
				want[s.as] = 3
				at = b.wantMore(c, at, want)
			})
		}
	}
}

// Nothing is lost when packets come faster than anybody could read them, and a drop at ingress
// does not hide them.
func TestKernelCountIsExact(t *testing.T) {
	const n = 10112
	for _, drop := range []bool{false, true} {
		t.Run(fmt.Sprint("nft drop ", drop), func(t *testing.T) {
			b := newBench(t)
			if drop {
				b.dropAll()
			}
			c := b.counter(openTest)
			at, err := b.read(c)
			if err != nil {
				t.Fatal(err)
			}
			b.out.send(b.frames.ip4(nextTCP, nil, tcp(syn)), n)
			b.out.send(b.frames.samples()[10].frame, n) // ICMP
			b.out.send(b.frames.samples()[8].frame, n)  // UDP
			b.out.send(b.frames.ip4(nextTCP, nil, tcp(ack)), n)
			b.wantMore(c, at, Counts{All: 4 * n, SYN: n, ICMP: n, UDP: n})
		})
	}
}

// Only packets to our addresses count if they are named, and none that is for another machine.
func TestKernelCountsOnlyOurs(t *testing.T) {
	b := newBench(t)
	ours := b.counter(func() (Counter, error) { return OpenCounter(ifname, inside6, inside4) })
	other := b.counter(func() (Counter, error) { return OpenCounter(ifname, outside4, outside6) })
	every := b.counter(openTest)
	b.out.send(b.frames.ip4(nextTCP, nil, tcp(syn)), 5)
	b.out.send(b.frames.ip6(nextTCP, nil, tcp(syn)), 7)
	b.out.send(b.frames.samples()[22].frame, 2) // ARP
	b.wantMore(every, Counts{}, Counts{All: 14, SYN: 12})
	b.wantMore(ours, Counts{}, Counts{All: 12, SYN: 12})
	b.wantMore(other, Counts{}, Counts{})

	foreign := b.frames
	foreign.to = net.HardwareAddr{2, 0, 0, 0, 0, 0xfe}
	b.out.send(foreign.ip4(nextTCP, nil, tcp(syn)), 9)
	b.out.send(b.frames.ip4(nextTCP, nil, tcp(syn)), 1)
	b.wantMore(every, Counts{}, Counts{All: 15, SYN: 13})
}

func TestInterfaceGoesAndComesBack(t *testing.T) {
	b := newBench(t)
	c := b.counter(openTest)
	frame := b.frames.ip4(nextTCP, nil, tcp(syn))
	b.out.send(frame, 5)
	at := b.wantMore(c, Counts{}, Counts{All: 5, SYN: 5})

	b.edge.do(func() {
		l, err := netlink.LinkByName(ifname)
		if err == nil {
			err = netlink.LinkDel(l)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if n, err := b.read(c); !errors.Is(err, ErrGone) || n != at {
		t.Fatalf("interface gone: got %v, %v, want %v and ErrGone", n, err, at)
	}

	b.outside.do(func() { addVeth(t, ifname, b.edge) })
	b.frames.from, b.frames.to = plug(t, ifname, b.outside, b.edge)
	if n, err := b.read(c); err != nil || n != at {
		t.Fatalf("interface back: got %v, %v, want %v", n, err, at)
	}
	b.out = b.outside.sender(t, ifname)
	b.out.send(b.frames.ip4(nextTCP, nil, tcp(syn)), 5)
	b.wantMore(c, at, Counts{All: 5, SYN: 5})
}

func TestClosedCounter(t *testing.T) {
	b := newBench(t)
	c := b.counter(openTest)
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Errorf("close twice: %v", err)
	}
	if _, err := c.Read(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after close: got %v, want net.ErrClosed", err)
	}
	b.edge.do(func() {
		if _, err := OpenCounter("nosuch0"); !errors.Is(err, ErrGone) {
			t.Errorf("no interface: got %v, want ErrGone", err)
		}
	})
}

// The paper, section 6.2: with a fitting threshold every SYN and every ICMP flood is found. Peace
// between the floods must not be taken for one.
func TestFloodsAreFound(t *testing.T) {
	b := newBench(t)
	c := b.counter(openTest)
	d := New(Config{Threshold: [Kinds]float64{SYN: 1000, ICMP: 1000}, Quiet: time.Second})
	now := time.Unix(1e9, 0) // the machine's own time: 40 floods in no time
	second := func() Verdict {
		t.Helper()
		n, err := b.read(c)
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
		return d.Observe(now, n)
	}
	synFrame, icmpFrame := b.frames.ip4(nextTCP, nil, tcp(syn)), b.frames.samples()[10].frame
	second()
	for i := range 20 {
		for _, flood := range []struct {
			frame []byte
			kind  Kind
		}{{synFrame, SYN}, {icmpFrame, ICMP}} {
			b.out.send(synFrame, 900)
			b.out.send(icmpFrame, 900)
			if v := second(); v.Attack {
				t.Fatalf("round %d: alarm in peace: %s", i, v.Why())
			}
			b.out.send(flood.frame, 1000+50*i)
			if v := second(); !v.Attack || !v.Changed || v.Kind != flood.kind {
				t.Fatalf("round %d: %s flood: got %+v", i, flood.kind, v)
			}
			if v := second(); v.Attack || !v.Changed {
				t.Fatalf("round %d: a quiet second after the flood: got %+v", i, v)
			}
		}
	}
}

// The Detector must not need the host's root: a user namespace gives enough.
func TestUserNamespace(t *testing.T) {
	if os.Getenv("DETECT_TEST_USERNS") != "" || os.Getuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^(TestKernelCountIsExact|TestInterfaceGoesAndComesBack)$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), "DETECT_TEST_USERNS=1", "GOCOVERDIR="+t.TempDir())
	cmd.Dir = "/"
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, UidMappings: one, GidMappings: one, Pdeathsig: syscall.SIGKILL,
		Credential: &syscall.Credential{NoSetGroups: true}, // root in there, nobody out here
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
			t.Skipf("no user namespaces here: %v", err)
		}
		t.Fatalf("as nobody in a user namespace: %v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Errorf("skipped in a user namespace:\n%s", out)
	}
}

// BenchmarkRead is what one step of the Detector costs the kernel: the sockets of all kinds, and a look at
// the interface.
func BenchmarkRead(b *testing.B) {
	bench := newBench(b)
	c := bench.counter(openTest)
	b.ReportAllocs()
	bench.edge.do(func() {
		for b.Loop() {
			if _, err := c.Read(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
