package firewall

import (
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Chains.
const (
	chainGate = "gate"
	chainOut  = "out"
	chainDoor = "door" // entry, one a family
	chainRest = "rest" // entry, one a family: what is for no guarded port
	chainDark = "dark" // hidden, one a family
)

// Counters.
const (
	cntDropped  = "dropped"
	cntKnocks   = "knocks"
	cntAllowed  = "allowed"
	cntFlows    = "flows"
	cntAdmitted = "admitted"
	cntPlain    = "plain"
	cntCookies  = "cookies"
	cntFloods   = "floods"
	cntOwn      = "own"
)

var counterNames = []string{cntDropped, cntKnocks, cntAllowed, cntFlows, cntAdmitted, cntPlain, cntCookies, cntFloods, cntOwn}

// Ours: how long replies to what a hidden edge sent are let in. TCP keep-alives, which Go sends
// after 15 s, keep an idle connection alive.
const (
	ownTCP    = 10 * time.Minute
	ownEnding = 30 * time.Second
	ownUDP    = time.Minute

	darkICMPRate = 100 // a second: the kernel works for each, even if it never answers
)

const flagFIN, flagSYN, flagRST, flagACK = 0x01, 0x02, 0x04, 0x10

// chain is a chain of the table, and where packets come to it from.
type chain struct {
	name   string
	rules  [][]expr.Any
	hooked string // name, before a number, of the chains that hook sends here
	hook   *nftables.ChainHook
}

// chains are all of the table, each behind those that it sends packets to.
func (s *sets) chains(p *plan, egress bool) (out []chain) {
	for _, f := range s.families() {
		if p.cfg.Hidden {
			out = append(out, chain{name: chainDark + f.suffix, rules: f.darkRules(p.cfg.LinkPort)})
			continue
		}
		out = append(out, chain{name: chainDoor + f.suffix, rules: f.doorRules(p.cfg)},
			chain{name: chainRest + f.suffix, rules: f.restRules()})
	}
	out = append(out, chain{chainGate, s.gateRules(p), "ingress", nftables.ChainHookIngress})
	if egress {
		out = append(out, chain{chainOut, s.outRules(p.cfg.LinkPort), "egress", nftables.ChainHookEgress})
	}
	return out
}

// gateRules is the chain that every packet from a public interface enters. Its end is accept.
func (s *sets) gateRules(p *plan) [][]expr.Any {
	var rules [][]expr.Any
	for _, f := range s.families() {
		if p.defending && !p.cfg.Hidden { // first what a flood is made of
			rules = append(rules, rule(ether(f.ether), l4(unix.IPPROTO_TCP), f.door(), match{in(f.doors)},
				goTo(chainDoor+f.suffix)))
		}
		rules = append(rules, rule(ether(f.ether), l4(unix.IPPROTO_UDP), f.toward(f.ours),
			port(offDstPort, p.cfg.LinkPort), drop(cntKnocks)))
	}
	switch {
	case p.cfg.Hidden:
		rules = append(rules, rule(ether(unix.ETH_P_ARP), accept("")))
		for _, f := range s.families() {
			rules = append(rules, rule(ether(f.ether), goTo(chainDark+f.suffix)))
		}
		rules = append(rules, rule(drop(cntDropped)))
	case p.defending:
		for _, f := range s.families() {
			rules = append(rules, rule(ether(f.ether), f.toward(f.ours), goTo(chainRest+f.suffix)))
		}
	}
	return rules
}

// doorRules decide about TCP to a guarded port of a defending entry. A flood of SYNs to the link port meets as few lookups as can
// be: each costs the kernel some 40 ns, a packet about a µs in all.
func (f *familySets) doorRules(cfg Config) [][]expr.Any {
	var rules [][]expr.Any
	if slices.ContainsFunc(cfg.Allow, func(p netip.Prefix) bool { return p.Addr().Is4() == (f.ether == unix.ETH_P_IP) }) {
		rules = append(rules, rule(f.from(f.allow), accept(cntAllowed)))
	}
	link := port(offDstPort, cfg.LinkPort)
	return append(rules,
		rule(link, f.from(f.admitted), accept(cntAdmitted)),
		rule(link, onlySYN(), drop(cntDropped)), // of no live flow
		rule(f.tuple(regWord), match{in(f.flows)}, accept(cntFlows)),
		rule(link, drop(cntDropped)),
		rule(f.door(), match{in(f.plain)}, accept(cntPlain)),
		rule(f.door(), match{in(f.cookie)}, onlySYN(), perSecond(cookieRate), accept(cntCookies)),
		rule(f.door(), match{in(f.cookie)}, onlySYN(), drop(cntDropped)),
		rule(f.door(), match{in(f.cookie)}, accept(cntPlain)),
		rule(drop(cntDropped)),
	)
}

// onlySYN is a SYN that opens a connection, whatever other flags try to hide it.
func onlySYN() match { return tcpFlags(flagSYN|flagACK, flagSYN, expr.CmpOpEq) }

// restRules decide about what is for a defending entry's address and no guarded port: what other uses of the machine need, and
// no more of a flood than costs little.
func (f *familySets) restRules() [][]expr.Any {
	icmp := byte(unix.IPPROTO_ICMP)
	if f.ether == unix.ETH_P_IPV6 {
		icmp = unix.IPPROTO_ICMPV6
	}
	rules := append(f.onLinkRules(),
		rule(f.from(f.allow), accept(cntAllowed)),
		rule(proto(), f.tuple(regWord+1), match{in(f.own)}, accept(cntOwn)),
		f.tooBig(),
	)
	for _, l := range []struct {
		is   match
		rate uint64
	}{
		{l4(icmp), restICMP}, {l4(unix.IPPROTO_UDP), restUDPRate}, {rule(l4(unix.IPPROTO_TCP), onlySYN()), restSYNRate},
	} {
		rules = append(rules, rule(l.is, perSecond(l.rate), accept("")), rule(l.is, drop(cntFloods)))
	}
	return append(rules, rule(perSecond(restRate), accept("")), rule(drop(cntFloods)))
}

// darkRules decide about every packet of the family to a hidden edge.
func (f *familySets) darkRules(linkPort uint16) [][]expr.Any {
	rules := f.onLinkRules()
	rules = append(rules,
		rule(f.from(f.allow), accept(cntAllowed)),
		rule(l4(unix.IPPROTO_TCP), f.tuple(regWord), match{in(f.flows)}, accept(cntFlows)),
		rule(l4(unix.IPPROTO_TCP), f.toward(f.ours), port(offDstPort, linkPort), f.from(f.admitted), accept(cntAdmitted)),
		rule(proto(), f.tuple(regWord+1), match{in(f.own)}, accept(cntOwn)),
	)
	return append(rules, f.tooBig(), rule(drop(cntDropped)))
}

// onLinkRules let in what IPv6 needs of the link: only neighbours can send it, or be answered.
func (f *familySets) onLinkRules() [][]expr.Any {
	if f.ether != unix.ETH_P_IPV6 {
		return nil
	}
	const hopLimit = 7
	linkLocal := match{
		ip(f.src, 2),
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 2, Mask: []byte{0xff, 0xc0}, Xor: []byte{0, 0}},
		equal(0xfe, 0x80),
	}
	return [][]expr.Any{
		rule(l4(unix.IPPROTO_ICMPV6), match{ip(hopLimit, 1), equal(255)},
			match{transport(0, 1), &expr.Range{Op: expr.CmpOpEq, Register: reg,
				FromData: []byte{icmp6RouterAdvert}, ToData: []byte{icmp6NeighbourAdvert}}},
			accept("")),
		rule(l4(unix.IPPROTO_ICMPV6), match{ip(hopLimit, 1), equal(1)}, linkLocal,
			match{transport(0, 1), equal(icmp6MLDQuery)}, accept("")),
	}
}

// tooBig lets in what path MTU discovery needs.
func (f *familySets) tooBig() []expr.Any {
	icmp := match{transport(0, 2), equal(icmpUnreachable, icmpFragmentNeeded)}
	number := byte(unix.IPPROTO_ICMP)
	if f.ether == unix.ETH_P_IPV6 {
		icmp, number = match{transport(0, 1), equal(icmp6PacketTooBig)}, unix.IPPROTO_ICMPV6
	}
	return rule(l4(number), icmp, perSecond(darkICMPRate), accept(""))
}

// outRules note what the machine sends, so that the reply is let in. Links and services are not noted: their
// clients are admitted, or live flows, or plain.
func (s *sets) outRules(linkPort uint16) [][]expr.Any {
	var rules [][]expr.Any
	for _, f := range s.families() {
		is := ether(f.ether)
		tcp, udp := l4(unix.IPPROTO_TCP), l4(unix.IPPROTO_UDP)
		key := append(proto(), f.outTuple(regWord+1)...)
		note := func(d time.Duration) match {
			return match{&expr.Dynset{SrcRegKey: regWord, SetName: f.own.Name, SetID: f.own.ID,
				Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: d}}
		}
		known := match{in(f.own)}
		door, _ := f.end(f.src, offSrcPort, regWord)
		rules = append(rules,
			rule(is, tcp, port(offSrcPort, linkPort), accept("")),
			rule(is, tcp, door, match{in(f.doors)}, accept("")),
			rule(is, tcp, tcpFlags(flagFIN|flagSYN|flagRST|flagACK, flagSYN, expr.CmpOpEq), key, note(ownTCP), accept("")),
			rule(is, tcp, tcpFlags(flagFIN|flagRST, 0, expr.CmpOpNeq), key, known, note(ownEnding), accept("")),
			rule(is, tcp, key, known, note(ownTCP), accept("")),
			rule(is, udp, key, note(ownUDP), accept("")),
		)
	}
	return rules
}
