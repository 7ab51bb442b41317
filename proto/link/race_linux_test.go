package link

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"migrationsensor/proto"
)

const inNamespace = "MS_LINK_TEST_NAMESPACE"

// TestKernelNetworkThatEatsKeyedSYNs runs itself again in a process with a network namespace of its own, where a rule can
// drop what it likes.
func TestKernelNetworkThatEatsKeyedSYNs(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		inEatingNetwork(t)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in the namespace: %v\n%s", err, out)
	}
}

func inEatingNetwork(t *testing.T) {
	f := newFleet(t, "lab")
	f.at = netip.MustParseAddrPort("198.18.7.1:0")
	address(t, "198.18.7.1/24")
	creds, id := f.agent()
	n := f.node(nil)
	var nets Networks
	// dial opens a link and tells how long it took, and which SYNs arrived: k with data, p without.
	dial := func(want string) (took time.Duration, syns string) {
		t.Helper()
		stop := sniff(t, n.at)
		began := time.Now()
		// Each as if a new Dialer, which knows of the network only what was noted.
		l, err := (&Dialer{Creds: creds, KeyedSYN: true, Networks: &nets}).Dial(t.Context(), n.target(id), proto.KindControl, n.id)
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		took = time.Since(began)
		ping(t, l)
		l.Close()
		for _, s := range stop() {
			if s.flags&tcpSYN != 0 && s.data > proto.PreambleLen {
				syns += "k"
			} else if s.flags&tcpSYN != 0 {
				syns += "p"
			}
		}
		return took, syns
	}
	eaten := func() []Network { return nets.List(time.Now()) }

	if took, syns := dial("an ordinary listener"); syns != "k" || took > minRedial || len(eaten()) != 0 {
		t.Errorf("an ordinary listener: SYNs %q, took %v, noted %v; want one keyed SYN", syns, took, eaten())
	}
	// A raw socket sees what came past the rules.
	undo := drop(t, expr.CmpOpGt)
	if took, syns := dial("keyed SYNs are eaten"); syns != "p" || took < minRedial || took > 4*minRedial {
		t.Errorf("keyed SYNs are eaten: SYNs %q, took %v; want an ordinary one after %v", syns, took, minRedial)
	}
	if got := eaten(); len(got) != 1 || got[0].Prefix != netip.MustParsePrefix("198.18.7.0/24") {
		t.Errorf("noted %v, want this network", got)
	}
	if took, syns := dial("it is known"); syns != "p" || took > minRedial {
		t.Errorf("known to be eaten: SYNs %q, took %v; want an ordinary one at once", syns, took)
	}
	undo()
	undo = drop(t, expr.CmpOpLte)
	if took, syns := dial("a flood takes the ordinary ones"); syns != "k" || took < minRedial || took > 4*minRedial || len(eaten()) != 0 {
		t.Errorf("ordinary SYNs are eaten: SYNs %q, took %v, still noted %v; want a keyed one after %v", syns, took, eaten(), minRedial)
	}
	undo()
	if took, syns := dial("as in the beginning"); syns != "k" || took > minRedial {
		t.Errorf("nothing is eaten: SYNs %q, took %v", syns, took)
	}
	// Refused by everybody: an error at once, from few dials.
	tgt := n.target(id)
	tgt.Port = 1
	began := time.Now()
	_, err := (&Dialer{Creds: creds, KeyedSYN: true}).Dial(t.Context(), tgt, proto.KindControl, n.id)
	if !errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, ErrSilent) || time.Since(began) > minRedial {
		t.Errorf("nobody listens: %v after %v", err, time.Since(began))
	}
}

func address(t *testing.T, prefix string) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(lo, a), netlink.LinkSetUp(lo)); err != nil {
		t.Fatal(err)
	}
}

// drop loses the SYNs whose IPv4 packet is longer than any without data, or those that are not.
func drop(t *testing.T, longer expr.CmpOp) (undo func()) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "eats"})
	chain := c.AddChain(&nftables.Chain{
		Name: "in", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{tcpSYN}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: longer, Register: 1, Data: []byte{0, 80}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() {
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}
