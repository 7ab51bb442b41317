// Package link opens and accepts links, the TCP connections between an agent and a proxy. It is the
// first handshake of the paper's Connection Handler (section 4.1) and its counterpart at the proxy.
//
// A link begins with one flight of the agent, written at once so that it is one segment: the preamble,
// which proves without any state at the proxy who knocks, and the TLS ClientHello. The first byte that
// comes back decides:
//
//	0x16  TLS goes on: no transfer, this proxy serves
//	0x15  a TLS alert
//	0xD5  a sealed reply of 256 bytes: TRANSFER, RETRY, BUSY or REJECT, see SealedError
//	else  not a proxy of ours, see ErrGarbage
//
// On Linux the SYN carries that flight too (a keyed SYN, TCP_FASTOPEN_NO_COOKIE): a proxy under attack always answers such
// a SYN, an ordinary listener takes the data after the handshake. A kernel that repeats a SYN leaves the data out; so a
// lost one is followed by a fresh dial after 250 ms or 1.5 SRTT, each with a nonce of its own, and an ordinary connect runs
// beside them: 0, 250, 500 and 1,000 ms. The first answer counts, unless it is garbage, in whose
// place a later dial may hear a genuine one. Networks remembers where keyed SYNs get lost; there the ordinary one goes first.
// Only a proxy's link port is ever dialled so.
//
// Dialer is the agent's side. Dial makes one attempt; Follow also goes where sealed replies send it,
// the paper's rewrite of the destination, by the rules of a bounded chase. Acceptor is the proxy's
// side: mute to whoever has no valid preamble, and of bounded cost to them. A data link may end at
// another node than the proxy that is dialled: that proxy passes its bytes on (passage), and the anchor
// takes it in with ServeRelayed. Pump carries a session over a link that is up.
//
// The package decides nothing about attacks: its parents say whom to answer how.
package link
