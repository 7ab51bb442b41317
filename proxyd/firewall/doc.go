// Package firewall decides which door of an edge is open (the paper, section 4: the proxy under
// attack serves nobody but the clients that it verified, and the next proxy lets in "the client
// that was ratified").
//
// It is one nftables table, netdev family, name "migrationsensor", with a chain at the ingress
// hook of each public interface, ahead of every other chain there. A packet socket sees packets
// before that hook, so the DDoS Detector counts, and the SYN Checker reads, what the kernel never
// gets. A hidden edge has a second one of that name, family inet. No other table is touched.
//
//	                     entry, active   entry, defending             hidden, always
//	UDP to link port     drop            drop                         drop
//	TCP to link port     pass            allow, flows, admitted       allow, flows, admitted
//	TCP to service port  pass            allow, flows, plain          allow, flows
//	else, to our address pass            so much a second             allow; else see below
//	anything else        pass            pass                         allow; else see below
//
// plain: with "admit" everything to that service; with "cookie" so many SYNs a second as the kernel
// answers with cookies (net.ipv4.tcp_syncookies must not be 0), and whatever is no SYN: the kernel
// knows who had a cookie.
//
// So much a second: an edge is also a machine, and what is for its public address and none of these
// ports is let in as far as it costs little (see cookieRate and what follows it). The replies to what
// it sends itself are noted by an egress chain, as at a hidden edge, and not limited.
//
// allow: prefixes of peers and management. flows: 4-tuples that were live at the switch. admitted:
// addresses of verified clients, each with a time. Knocks are UDP to the link port: they are for
// the packet socket, and because the kernel never gets one it never answers "port unreachable".
//
// # Dark
//
// A hidden edge is dark from Open on: before anything listens, whatever packet comes in through
// its public interface, for whichever of the machine's addresses, is dropped, so the kernel
// answers nothing: no RST, no echo, no TTL exceeded, no redirect. Exceptions, none of which
// can be made to answer somebody who is not on the same link:
//
//   - ARP, and neighbour discovery with hop limit 255 (RFC 4861: it was not routed).
//   - MLD queries with hop limit 1 from link-local addresses. Without the reports that answer them
//     a switch with MLD snooping stops delivering neighbour solicitations. IGMP is not needed for
//     ARP and is dropped.
//   - "Fragmentation needed" and "packet too big", 100 a second: never answered, and without them
//     a link over a narrow path stalls.
//   - Replies to what the machine itself sends through that interface: an egress chain
//     (Linux 5.16) notes TCP connections that it opens (until 10 min of silence) and UDP that
//     it sends (1 min). On older kernels Open warns, and whatever the machine must reach through
//     that interface, an origin say, belongs into allow. Echo replies and
//     fragmented answers are not let in.
//
// Still to be seen from outside: nothing. On the same link: ARP, neighbour discovery, and MLD and
// router solicitation that the kernel sends by itself when an interface comes up; DHCP, where the
// address comes from there.
//
// An interface that comes back (docker network disconnect and connect, a driver's reset) is up some milliseconds before its chain
// can be there, and mostly under another name. So the table of family inet drops, at prerouting, what is for a public address
// and comes in through any interface but the public one, lo, and those of Inside, told apart by their index. Sources in
// allow pass. What such an interface answers in that time at an address of its own that is not among Addrs is not covered.
//
// # In memory
//
// [NewMemory] has the same table without a kernel, for the lab in memory.
//
// # Ways out
//
// An interface that is removed takes its chain with it before Linux 6.16; Watch puts it back when the
// interface returns. It also puts back what another program took away (nft flush ruleset). Open's undo, and Close, remove the tables. A table that a killed process left is replaced by the
// next Open in one transaction, so a hidden edge stays dark in between. Two edges in one network
// namespace would replace each other's table: there can be one only.
package firewall
