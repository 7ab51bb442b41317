// Package netstack turns what applications send into a TUN device into a source of flows: the side of the
// paper's Client Connection Handler (section 3.1) that faces the applications.
//
// A [Stack] is a gVisor TCP/IP stack that answers for every address. Each connect() of an application is one
// [Flow], handed over before the application's handshake is answered, so that connect() tells the truth:
//
//	the handler calls       the application's connect() sees
//	Accept                  success, and a Conn carries the bytes
//	Refuse                  ECONNREFUSED (a reset)
//	Unreachable             EHOSTUNREACH (an ICMP error made from its own SYN)
//	Drop, or just returns   nothing: its own timeout
//
// gVisor's half of the handshake is made while the handler is still at work, and its SYN-ACK held back: Accept is then
// one system call, and nothing reaches the application before the verdict. A flow in flight takes an endpoint and two
// goroutines for that. Retransmitted SYNs of it are swallowed, so a verdict may take seconds.
// Half-close and reset cross a [Conn] in both directions, and its errors are the errnos of a kernel socket.
//
// Only TCP is terminated. Whatever else enters the device is counted and dropped, never answered: a stack that
// speaks for foreign addresses must not invent answers to a ping.
//
// This is the only package that knows gVisor and wireguard/tun. Routes and addresses are not its business.
package netstack
