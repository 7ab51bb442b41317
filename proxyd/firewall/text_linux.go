package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Text is the table of family netdev as nft(8) would read it, made from the very rules that Open, or Defend, gives the kernel.
// What comes while proxyd runs, flows and admitted addresses, is not in it; nor is a hidden edge's second table. It needs no
// right and changes nothing.
func Text(cfg Config, defending bool) (string, error) {
	cfg, err := cfg.check()
	if err != nil {
		return "", err
	}
	t := &nftables.Table{Family: nftables.TableFamilyNetdev, Name: tableName}
	s := newSets(t)
	p := &plan{cfg: cfg, defending: defending}
	var w strings.Builder
	fmt.Fprintf(&w, "table netdev %s {\n", tableName)
	for _, name := range counterNames {
		fmt.Fprintf(&w, "\tcounter %s {\n\t}\n", name)
	}
	fixed := s.fixed(cfg)
	for _, f := range s.families() {
		for _, set := range f.all() {
			writeSet(&w, f, set, fixed[set])
		}
	}
	for _, c := range s.chains(p, true) {
		fmt.Fprintf(&w, "\tchain %s {\n", c.name)
		for _, r := range c.rules {
			fmt.Fprintf(&w, "\t\t%s\n", text(r))
		}
		w.WriteString("\t}\n")
		if c.hook == nil {
			continue
		}
		for i, dev := range cfg.Interfaces {
			fmt.Fprintf(&w, "\tchain %s%d {\n\t\ttype filter hook %s device %q priority %d; policy accept;\n\t\tjump %s\n\t}\n",
				c.hooked, i, c.hooked, dev, *nftables.ChainPriorityFirst, c.name)
		}
	}
	w.WriteString("}\n")
	return w.String(), nil
}

func writeSet(w *strings.Builder, f *familySets, s *nftables.Set, elements []nftables.SetElement) {
	fmt.Fprintf(w, "\tset %s {\n\t\ttypeof %s\n", s.Name, f.typeOf(s))
	var flags []string
	for _, x := range []struct {
		on   bool
		name string
	}{{s.Dynamic, "dynamic"}, {s.HasTimeout, "timeout"}, {s.Interval, "interval"}} {
		if x.on {
			flags = append(flags, x.name)
		}
	}
	if len(flags) > 0 {
		fmt.Fprintf(w, "\t\tflags %s\n", strings.Join(flags, ","))
	}
	if s.Size > 0 {
		fmt.Fprintf(w, "\t\tsize %d\n", s.Size)
	}
	if s.Timeout > 0 {
		fmt.Fprintf(w, "\t\ttimeout %s\n", seconds(s.Timeout))
	}
	if len(elements) > 0 {
		fmt.Fprintf(w, "\t\telements = { %s }\n", strings.Join(elementTexts(s, elements), ", "))
	}
	w.WriteString("\t}\n")
}

// typeOf says what a set's key is made of.
func (f *familySets) typeOf(s *nftables.Set) string {
	ip, theirs, ours := f.word(), "th sport", "th dport"
	from, to := ip+" saddr", ip+" daddr"
	flow := strings.Join([]string{from, theirs, to, ours}, " . ")
	switch s {
	case f.allow, f.admitted:
		return from
	case f.ours:
		return to
	case f.flows:
		return flow
	case f.own:
		return "meta l4proto . " + flow
	}
	return to + " . " + ours
}

func (f family) word() string {
	if f.ether == unix.ETH_P_IPV6 {
		return "ip6"
	}
	return "ip"
}

func elementTexts(s *nftables.Set, elements []nftables.SetElement) (out []string) {
	for i, e := range elements {
		a, _ := netip.AddrFromSlice(e.Key)
		switch {
		case e.IntervalEnd:
		case s.Interval:
			end := ""
			if i+1 < len(elements) && elements[i+1].IntervalEnd {
				last, _ := netip.AddrFromSlice(elements[i+1].Key)
				if last = last.Prev(); last != a {
					end = "-" + last.String()
				}
			} else { // up to the last address
				end = "-" + after4in6(a).String()
			}
			out = append(out, a.String()+end)
		case a.IsValid():
			out = append(out, a.String())
		default: // address . port
			n := len(e.Key) - 4
			a, _ := netip.AddrFromSlice(e.Key[:n])
			out = append(out, fmt.Sprintf("%s . %d", a, binary.BigEndian.Uint16(e.Key[n:])))
		}
	}
	return out
}

// after4in6 is the highest address of a's family.
func after4in6(a netip.Addr) netip.Addr {
	b := slices.Repeat([]byte{0xff}, len(a.AsSlice()))
	last, _ := netip.AddrFromSlice(b)
	return last
}

// text reads one rule.
func text(rule []expr.Any) string {
	t := texter{at: map[uint32]string{}}
	for _, e := range rule {
		t.add(e)
	}
	return strings.Join(t.out, " ")
}

// texter follows what the registers hold.
type texter struct {
	at   map[uint32]string
	l4   byte
	last uint32
	mask byte
	out  []string
}

func (t *texter) say(format string, args ...any) { t.out = append(t.out, fmt.Sprintf(format, args...)) }

func (t *texter) add(e expr.Any) {
	switch e := e.(type) {
	case *expr.Meta:
		t.put(e.Register, map[expr.MetaKey]string{expr.MetaKeyPROTOCOL: "meta protocol", expr.MetaKeyL4PROTO: "meta l4proto", expr.MetaKeyIIF: "iif"}[e.Key])
	case *expr.Payload:
		t.put(e.DestRegister, t.field(e))
	case *expr.Bitwise:
		t.mask = e.Mask[0]
		if len(e.Mask) == 2 {
			t.at[e.DestRegister] = "ip6 saddr fe80::/10"
		}
	case *expr.Cmp:
		t.compare(e)
	case *expr.Range:
		t.say("%s %d-%d", t.at[e.Register], e.FromData[0], e.ToData[0])
	case *expr.Lookup:
		t.say("%s @%s", t.key(e.SourceRegister), e.SetName)
	case *expr.Dynset:
		t.say("update @%s { %s timeout %s }", e.SetName, t.key(e.SrcRegKey), seconds(e.Timeout))
	case *expr.Limit:
		t.say("limit rate %d/second burst %d packets", e.Rate, e.Burst)
	case *expr.Objref:
		t.say("counter name %q", e.Name)
	case *expr.Verdict:
		t.say("%s", strings.TrimSpace(map[expr.VerdictKind]string{
			expr.VerdictAccept: "accept", expr.VerdictDrop: "drop", expr.VerdictGoto: "goto", expr.VerdictJump: "jump",
		}[e.Kind]+" "+e.Chain))
	default:
		panic(fmt.Sprintf("BUG: no text for %T", e))
	}
}

func (t *texter) put(reg uint32, what string) { t.at[reg], t.last = what, reg }

// field names a part of the packet by its place.
func (t *texter) field(p *expr.Payload) string {
	if p.Base == expr.PayloadBaseTransportHeader {
		switch {
		case p.Offset == offSrcPort && p.Len == 2 && t.l4 != unix.IPPROTO_ICMP:
			return "th sport"
		case p.Offset == offDstPort:
			return "th dport"
		case p.Offset == 13:
			return "tcp flags"
		case t.l4 == unix.IPPROTO_ICMPV6:
			return "icmpv6 type"
		}
		return "icmp type"
	}
	switch {
	case p.Len == 4 && p.Offset == 12:
		return "ip saddr"
	case p.Len == 4:
		return "ip daddr"
	case p.Len == 1:
		return "ip6 hoplimit"
	case p.Offset == 24:
		return "ip6 daddr"
	}
	return "ip6 saddr"
}

// key is what begins at a register: one field, or a concatenation. Words of a concatenation follow each other.
func (t *texter) key(reg uint32) string {
	if reg == unix.NFT_REG_1 && t.last == reg {
		return t.at[reg]
	}
	var regs []uint32
	for r := range t.at {
		if r >= unix.NFT_REG32_00 && r >= reg {
			regs = append(regs, r)
		}
	}
	slices.Sort(regs)
	if len(regs) == 0 {
		return t.at[reg]
	}
	fields := make([]string, len(regs))
	for i, r := range regs {
		fields[i] = t.at[r]
	}
	return strings.Join(fields, " . ")
}

func (t *texter) compare(c *expr.Cmp) {
	what := t.at[c.Register]
	op := ""
	if c.Op == expr.CmpOpNeq {
		op = "!= "
	}
	switch what {
	case "meta protocol":
		p := binary.BigEndian.Uint16(c.Data)
		t.say("meta protocol %s", map[uint16]string{unix.ETH_P_IP: "ip", unix.ETH_P_IPV6: "ip6", unix.ETH_P_ARP: "arp"}[p])
	case "meta l4proto":
		t.l4 = c.Data[0]
		t.say("meta l4proto %s", map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "ipv6-icmp"}[t.l4])
	case "tcp flags":
		t.say("tcp flags & %#x %s%#x", t.mask, map[string]string{"": "== ", "!= ": "!= "}[op], c.Data[0])
	case "icmp type":
		t.say("icmp type %d icmp code %d", c.Data[0], c.Data[1])
	case "ip6 saddr fe80::/10":
		t.say("%s", what)
	case "th sport", "th dport":
		t.say("%s %s%d", what, op, binary.BigEndian.Uint16(c.Data))
	default:
		t.say("%s %s%d", what, op, c.Data[0])
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int(d.Seconds())) }
