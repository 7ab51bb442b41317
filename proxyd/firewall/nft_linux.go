package firewall

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const tableName = "migrationsensor"

// Ours. A netlink message holds 64 KiB and a transaction must fit into a socket's send buffer,
// 208 KiB by default; the largest element is 60 bytes.
const (
	maxElements    = 512  // a message
	maxTransaction = 2048 // elements, when many are put in
)

// maxWait is how long the kernel may take for a transaction. An answer that got lost must not
// hold up whoever comes next for ever.
const maxWait = 5 * time.Second

// nft speaks to the kernel. Its socket belongs to the network namespace in which it was opened.
type nft struct {
	c      *nftables.Conn
	socket *netlink.Conn // of c; nil in tests
	log    *slog.Logger
	table  *nftables.Table
	sets   *sets
	egress bool                      // the kernel has the hook; false once it refused
	exists func(ifname string) error // the interface
}

func openKernel(log *slog.Logger) (kernel, error) {
	n := newNFT(nil, log)
	var err error
	n.c, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		n.socket = c
		return c.SetDeadline(time.Now().Add(maxWait))
	}))
	if err != nil {
		return nil, explain(err)
	}
	return n, nil
}

func newNFT(c *nftables.Conn, log *slog.Logger) *nft {
	t := &nftables.Table{Family: nftables.TableFamilyNetdev, Name: tableName}
	return &nft{c: c, log: log, table: t, sets: newSets(t), egress: true, exists: interfaceExists}
}

// wait gives the kernel its time. A socket that is closed already is replaced, with a deadline.
func (n *nft) wait() {
	if n.socket != nil {
		n.socket.SetDeadline(time.Now().Add(maxWait))
	}
}

func interfaceExists(name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return fmt.Errorf("interface %s: %w (%w)", name, ErrInterface, err)
	}
	return nil
}

// flush is one transaction. After an error the connection may still hold answers to it, which the
// next transaction would take for its own: from then on each has a connection of its own.
func (n *nft) flush() error {
	n.wait()
	if err := n.c.Flush(); err != nil {
		return errors.Join(explain(err), n.c.CloseLasting())
	}
	return nil
}

// explain adds the remedy.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("nftables: %w (needs CAP_NET_ADMIN; in docker compose: cap_add: [NET_ADMIN])", err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("nftables: %w (the kernel needs nf_tables with netdev ingress: "+
			"CONFIG_NF_TABLES, CONFIG_NF_TABLES_NETDEV, CONFIG_NETFILTER_INGRESS; try modprobe nf_tables)", err)
	default:
		return fmt.Errorf("nftables: %w", err)
	}
}

// replace writes the table anew in one transaction. Interfaces that are gone are left out, and
// named in the error after the rest is in place.
func (n *nft) replace(p *plan) (written bool, err error) {
	var present []string
	var gone error
	for _, name := range p.cfg.Interfaces {
		if err := n.exists(name); err != nil {
			gone = errors.Join(gone, err)
			continue
		}
		present = append(present, name)
	}
	if len(present) == 0 {
		return false, gone // since Linux 6.16 the old chains wait for their interfaces
	}
	err = n.write(p, present)
	if n.egress && p.cfg.Hidden && errors.Is(err, unix.EOPNOTSUPP) {
		n.egress = false
		n.log.Warn("kernel has no nftables egress hook (Linux 5.16): replies to what this node itself sends "+
			"through its public interface are dropped; list who must answer under allow", "interfaces", present)
		err = n.write(p, present)
	}
	if err != nil {
		return false, err
	}
	if err := n.setFlows(nil, p.flows); err != nil {
		return true, err
	}
	for chunk := range slices.Chunk(p.admitted, maxTransaction) {
		if err := n.admit(chunk, nil); err != nil {
			return true, err
		}
	}
	return true, gone
}

// write is the transaction of replace: everything but flows and admitted.
func (n *nft) write(p *plan, interfaces []string) error {
	n.c.AddTable(n.table) // so that there is one to delete
	n.c.DelTable(n.table)
	n.c.AddTable(n.table)
	for _, name := range counterNames {
		n.c.AddObj(&nftables.NamedObj{Table: n.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	}
	fixed := n.sets.fixed(p.cfg)
	for _, f := range n.sets.families() {
		for _, s := range f.all() {
			if s == f.own && !p.cfg.Hidden {
				continue
			}
			if err := n.c.AddSet(s, nil); err != nil {
				return err
			}
			if err := n.add(s, fixed[s]); err != nil {
				return err
			}
		}
		if p.cfg.Hidden {
			n.chain(chainDark+f.suffix, f.darkRules(p.cfg.LinkPort))
		} else {
			n.chain(chainDoor+f.suffix, f.doorRules(p.cfg.LinkPort))
		}
	}
	n.chain(chainGate, n.sets.gateRules(p))
	n.hook("ingress", interfaces, nftables.ChainHookIngress, chainGate)
	if p.cfg.Hidden && n.egress {
		n.chain(chainOut, n.sets.outRules(p.cfg.LinkPort))
		n.hook("egress", interfaces, nftables.ChainHookEgress, chainOut)
	}
	return n.flush()
}

// chain adds a regular chain.
func (n *nft) chain(name string, rules [][]expr.Any) {
	c := n.c.AddChain(&nftables.Chain{Table: n.table, Name: name})
	for _, r := range rules {
		n.c.AddRule(&nftables.Rule{Table: n.table, Chain: c, Exprs: r})
	}
}

// hook lets a chain see the packets of each interface, before any other chain.
func (n *nft) hook(name string, interfaces []string, at *nftables.ChainHook, target string) {
	policy := nftables.ChainPolicyAccept
	for i, dev := range interfaces {
		c := n.c.AddChain(&nftables.Chain{
			Table: n.table, Name: fmt.Sprint(name, i), Device: dev,
			Type: nftables.ChainTypeFilter, Hooknum: at, Priority: nftables.ChainPriorityFirst, Policy: &policy,
		})
		n.c.AddRule(&nftables.Rule{Table: n.table, Chain: c,
			Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: target}}})
	}
}

// add queues elements.
func (n *nft) add(s *nftables.Set, elements []nftables.SetElement) error {
	for chunk := range slices.Chunk(elements, maxElements) {
		if err := n.c.SetAddElements(s, chunk); err != nil {
			return err
		}
	}
	return nil
}

// delete queues the removal of elements, whether they are there or not: the kernel takes
// the addition of an element that exists, but not the removal of one that has just expired.
func (n *nft) delete(s *nftables.Set, elements []nftables.SetElement) error {
	for chunk := range slices.Chunk(elements, maxElements) {
		if err := n.c.SetAddElements(s, chunk); err != nil {
			return err
		}
		if err := n.c.SetDeleteElements(s, chunk); err != nil {
			return err
		}
	}
	return nil
}

// gate switches between the rules of an active and a defending edge, without a gap.
func (n *nft) gate(p *plan) error {
	c := &nftables.Chain{Table: n.table, Name: chainGate}
	n.c.FlushChain(c)
	for _, r := range n.sets.gateRules(p) {
		n.c.AddRule(&nftables.Rule{Table: n.table, Chain: c, Exprs: r})
	}
	return n.flush()
}

// setFlows lets new flows in before it shuts old ones out.
func (n *nft) setFlows(old, now []Flow) error {
	if err := n.eachFlow(without(now, old), n.add); err != nil {
		return err
	}
	return n.eachFlow(without(old, now), n.delete)
}

func (n *nft) eachFlow(flows []Flow, do func(*nftables.Set, []nftables.SetElement) error) error {
	for chunk := range slices.Chunk(flows, maxTransaction) {
		by := make(map[*nftables.Set][]nftables.SetElement)
		for _, f := range chunk {
			s := n.sets.of(f.Src.Addr()).flows
			by[s] = append(by[s], flowElement(f))
		}
		for _, f := range n.sets.families() {
			if err := do(f.flows, by[f.flows]); err != nil {
				return err
			}
		}
		if err := n.flush(); err != nil {
			return err
		}
	}
	return nil
}

// without returns what is in a and not in b.
func without(a, b []Flow) []Flow {
	in := make(map[Flow]bool, len(b))
	for _, f := range b {
		in[f] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(f Flow) bool { return in[f] })
}

// admit is one transaction. An element that exists keeps its old time when it is added again (before
// Linux 6.12), so it is taken out first; packets see either the old one or the new one.
func (n *nft) admit(admit []admission, evict []netip.Addr) error {
	now := time.Now()
	in, out := make(map[*nftables.Set][]nftables.SetElement), make(map[*nftables.Set][]nftables.SetElement)
	for _, a := range admit {
		s := n.sets.of(a.addr).admitted
		in[s] = append(in[s], admissionElement(a, now))
	}
	for _, a := range evict {
		s := n.sets.of(a).admitted
		out[s] = append(out[s], nftables.SetElement{Key: a.AsSlice(), Timeout: time.Minute})
	}
	for _, f := range n.sets.families() {
		s := f.admitted
		if err := errors.Join(n.delete(s, out[s]), n.delete(s, in[s]), n.add(s, in[s])); err != nil {
			return err
		}
	}
	return n.flush()
}

func (n *nft) counters() (Stats, error) {
	n.wait()
	objs, err := n.c.GetNamedObjects(n.table)
	if err != nil {
		return Stats{}, errors.Join(explain(err), n.c.CloseLasting())
	}
	packets := make(map[string]uint64, len(objs))
	for _, o := range objs {
		if named, ok := o.(*nftables.NamedObj); ok {
			if c, ok := named.Obj.(*expr.Counter); ok {
				packets[named.Name] = c.Packets
			}
		}
	}
	return Stats{
		Dropped: packets[cntDropped], Knocks: packets[cntKnocks], Allowed: packets[cntAllowed],
		Flows: packets[cntFlows], Admitted: packets[cntAdmitted], Plain: packets[cntPlain], Own: packets[cntOwn],
	}, nil
}

func (n *nft) remove() error {
	n.c.AddTable(n.table) // so that there is one to delete
	n.c.DelTable(n.table)
	return n.flush()
}

func (n *nft) close() error { return n.c.CloseLasting() }
