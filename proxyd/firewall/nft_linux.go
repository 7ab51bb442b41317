package firewall

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
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
	other  *nftables.Table // a hidden edge's: for the interfaces that table is not at
	sets   *sets
	egress bool                                // the kernel has the hook; false once it refused
	index  func(ifname string) (uint32, error) // of an interface that is there
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
	other := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	return &nft{c: c, log: log, table: t, other: other, sets: newSets(t), egress: true, index: interfaceIndex}
}

// wait gives the kernel its time. A socket that is closed already is replaced, with a deadline.
func (n *nft) wait() {
	if n.socket != nil {
		n.socket.SetDeadline(time.Now().Add(maxWait))
	}
}

func interfaceIndex(name string) (uint32, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w (%w)", name, ErrInterface, err)
	}
	return uint32(i.Index), nil
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
			"CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_NETDEV, CONFIG_NETFILTER_INGRESS; try modprobe nf_tables)", err)
	default:
		return fmt.Errorf("nftables: %w", err)
	}
}

// replace writes the tables anew in one transaction. Interfaces that are gone are left out, and
// named in the error after the rest is in place.
func (n *nft) replace(p *plan) (written bool, err error) {
	var present []string
	var gone error
	known := []uint32{loopbackIndex}
	for _, name := range p.cfg.Interfaces {
		i, err := n.index(name)
		if err != nil {
			gone = errors.Join(gone, err)
			continue
		}
		present, known = append(present, name), append(known, i)
	}
	if len(present) == 0 {
		return false, gone // what was written stays: at a hidden edge it drops what comes in through the next one
	}
	for _, name := range p.cfg.Inside {
		if i, err := n.index(name); err == nil { // one that comes later is told of by Update
			known = append(known, i)
		}
	}
	own, err := n.noted()
	if err != nil {
		n.log.Warn("what this node sent is not known any more; its replies may be dropped until it sends again", "err", err)
	}
	err = n.write(p, present, known)
	if n.egress && errors.Is(err, unix.EOPNOTSUPP) {
		n.egress = false
		n.log.Warn("kernel has no nftables egress hook (Linux 5.16): replies to what this node itself sends "+
			"through its public interface are dropped (at an entry: scarce while it is attacked); list who must answer under allow", "interfaces", present)
		err = n.write(p, present, known)
	}
	if err != nil {
		return false, err
	}
	if err := n.note(own); err != nil {
		return true, err
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

// noted reads what the egress chain has noted, for the next table: its replies are under way.
func (n *nft) noted() (map[*nftables.Set][]nftables.SetElement, error) {
	n.wait()
	tables, err := n.c.ListTablesOfFamily(n.table.Family)
	if err != nil {
		return nil, errors.Join(explain(err), n.c.CloseLasting())
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName }) {
		return nil, nil
	}
	out := make(map[*nftables.Set][]nftables.SetElement)
	for _, f := range n.sets.families() {
		n.wait()
		elements, err := n.c.GetSetElements(f.own)
		if err != nil { // of a table that an older version left
			return nil, errors.Join(explain(err), n.c.CloseLasting())
		}
		for _, e := range elements {
			out[f.own] = append(out[f.own], nftables.SetElement{Key: e.Key, Timeout: max(e.Expires, time.Second)})
		}
	}
	return out, nil
}

// note puts in what noted read.
func (n *nft) note(own map[*nftables.Set][]nftables.SetElement) error {
	for s, elements := range own {
		for chunk := range slices.Chunk(elements, maxTransaction) {
			if err := n.add(s, chunk); err != nil {
				return err
			}
			if err := n.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// write is the transaction of replace: everything but flows and admitted. known are the indexes of the interfaces that packets
// for a hidden edge may come in through.
func (n *nft) write(p *plan, interfaces []string, known []uint32) error {
	n.drop()
	n.c.AddTable(n.table)
	if p.cfg.Hidden {
		if err := n.elsewhere(p, known); err != nil {
			return err
		}
	}
	for _, name := range counterNames {
		n.c.AddObj(&nftables.NamedObj{Table: n.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	}
	fixed := n.sets.fixed(p.cfg)
	for _, f := range n.sets.families() {
		for _, s := range f.all() {
			if err := n.c.AddSet(s, nil); err != nil {
				return err
			}
			if err := n.add(s, fixed[s]); err != nil {
				return err
			}
		}
	}
	for _, c := range n.sets.chains(p, n.egress) {
		n.chain(c.name, c.rules)
		if c.hook != nil {
			n.hook(c.hooked, interfaces, c.hook, c.name)
		}
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
		Flows: packets[cntFlows], Admitted: packets[cntAdmitted], Plain: packets[cntPlain], Cookies: packets[cntCookies],
		Floods: packets[cntFloods], Own: packets[cntOwn],
	}, nil
}

// intact compares how many rules each chain has with what was written.
func (n *nft) intact(p *plan) (bool, error) {
	want := map[*nftables.Table]map[string]int{n.table: {}}
	for _, c := range n.sets.chains(p, n.egress) {
		want[n.table][c.name] = len(c.rules)
		for i, dev := range p.cfg.Interfaces {
			if _, err := n.index(dev); err == nil && c.hook != nil {
				want[n.table][fmt.Sprint(c.hooked, i)] = 1
			}
		}
	}
	if p.cfg.Hidden {
		want[n.other] = map[string]int{chainElsewhere: 0} // as many as there were interfaces, and more
	}
	n.wait()
	all, err := n.c.ListChains()
	if err != nil {
		return false, errors.Join(explain(err), n.c.CloseLasting())
	}
	there := make(map[string]bool, len(all)) // asking for a chain that is not there would cost the connection
	for _, c := range all {
		there[fmt.Sprint(c.Table.Family, c.Table.Name, c.Name)] = true
	}
	for t, chains := range want {
		for name, rules := range chains {
			if !there[fmt.Sprint(t.Family, t.Name, name)] {
				return false, nil
			}
			n.wait()
			got, err := n.c.GetRules(t, &nftables.Chain{Name: name})
			switch {
			case errors.Is(err, unix.ENOENT):
				return false, n.c.CloseLasting()
			case err != nil:
				return false, errors.Join(explain(err), n.c.CloseLasting())
			case len(got) == 0, rules > 0 && len(got) != rules:
				return false, nil
			}
		}
	}
	return true, nil
}

func (n *nft) remove() error {
	n.drop()
	return n.flush()
}

// drop queues the removal of both tables, whether they are there or not.
func (n *nft) drop() {
	for _, t := range []*nftables.Table{n.table, n.other} {
		n.c.AddTable(t) // so that there is one to delete
		n.c.DelTable(t)
	}
}

// loopbackIndex is lo's, in every network namespace.
const loopbackIndex = 1

// chainElsewhere sees what comes in through any interface, in front of all others.
const chainElsewhere = "elsewhere"

// elsewhere drops what is for our addresses and comes in through an interface that is not known. An interface that comes back has
// another index, mostly another name too, and is up before anybody can guard it.
func (n *nft) elsewhere(p *plan, known []uint32) error {
	n.c.AddTable(n.other)
	policy, first := nftables.ChainPolicyAccept, nftables.ChainPriority(math.MinInt32)
	c := n.c.AddChain(&nftables.Chain{
		Table: n.other, Name: chainElsewhere, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: &first, Policy: &policy,
	})
	var rules [][]expr.Any
	for _, i := range known {
		rules = append(rules, rule(match{&expr.Meta{Key: expr.MetaKeyIIF, Register: reg}, equal(binaryutil.NativeEndian.PutUint32(i)...)}, accept("")))
	}
	sets := &sets{v4: newFamilySets(n.other, v4, 21), v6: newFamilySets(n.other, v6, 31)}
	fixed := sets.fixed(p.cfg)
	for _, f := range sets.families() {
		for _, s := range []*nftables.Set{f.allow, f.ours} {
			if err := n.c.AddSet(s, nil); err != nil {
				return err
			}
			if err := n.add(s, fixed[s]); err != nil {
				return err
			}
		}
		is := rule(ether(f.ether), f.toward(f.ours))
		rules = append(rules, rule(is, f.from(f.allow), accept("")), rule(is, match{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}))
	}
	for _, r := range rules {
		n.c.AddRule(&nftables.Rule{Table: n.other, Chain: c, Exprs: r})
	}
	return nil
}

func (n *nft) close() error { return n.c.CloseLasting() }
