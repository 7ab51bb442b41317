// Package edge measures what an edge is worth under a flood of SYNs: success and time of connects and goodput of downloads, beside the
// processor time that a SYN costs, for what Linux has today and for Migration Sensor, in one run on the real kernel. It writes
// out/edge.json and out/edge.html.
//
//	visitors ── router ══ cable ══ base   plain proxy, nft synproxy or haproxy: one at a time
//	agents  ──╯      ╰══ cable ══ p1     proxyd, whose fleet (p2, p3, e2, anchor) is not attacked
//
// Each attacked edge has one link, into which the flood is mixed (flood.Wire): what its ring of 256 frames has no room for is lost,
// a client's as well as the flood's. It has one processor, for the ring, its kernel and its programs; everything else shares the
// other one.
package edge
