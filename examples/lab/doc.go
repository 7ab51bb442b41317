// Package lab is the whole of Migration Sensor on one machine: the network of the paper's
// section 6.3 (client, P1, P2, server, attacker) with the internet between them, on the real
// kernel, made, used and removed by one program. Nothing in it has a route to the outside.
//
//	client  ═══ link ═══╗
//	fresh   ═══ link ═══╣                 ┌── eth0  P1 (entry)  ─┐
//	each    ═══ link ═══╬══ router ───────┼── eth0  P2 (hidden) ─┼── backplane ── sign
//	plain   ═══ link ═══╝  the internet   ├── eth0  P3 (hidden) ─┘           └── origin
//	attacker ── veth ────┘                ├── site (not protected)
//	                                      └── void: every address that nobody has
//
// A link is a pair of TUN devices joined in user space, with delay, loss and rate (package
// kernel). A proxy's service address is a /32 (and /128) on lo out of one range; the rest of that
// range goes to a next hop that nobody has, with a permanent neighbour entry, so a dark proxy and
// an unused address look the same from outside.
//
// Package memory puts the same machines, addresses and programs into one process, without any right; package scenario
// is what is played in both.
//
// All addresses are out of 198.18.0.0/15 and 2001:2::/48, the ranges of RFC 2544 and RFC 5180 for
// measuring network devices.
package lab
