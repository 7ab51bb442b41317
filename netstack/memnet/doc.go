// Package memnet is a network in memory: hosts with a gVisor TCP/IP stack each, joined by a switch that knows
// addresses only, over links with seeded faults. It needs no right and no kernel feature, and runs where Go does.
//
//	host ── interface ══ link ══╗
//	                            ║ switch: by segment and destination address
//	host ── interface ══ link ══╝
//
// A [Network] has segments that do not meet, such as the internet and a backplane. A packet goes from its sender's link
// through the switch to the link of who has its destination address on the same segment. For an address that nobody has there is silence,
// as on the internet, or an ICMP error with [Config.Unreachable].
//
// Each direction of a link has [Conditions]: delay, loss, reordering, duplication, rate, cut. A [Fault] adds more of
// them for a time, to one host or between two. Their choices are drawn from [Config.Seed]; the order of packets is the
// scheduler's, so the same seed gives the same kind of run and not the same packets.
//
// A [Host] runs one process at a time, its sockets are netstack.Sockets: Kill, Stop and Crash do to it what SIGKILL,
// SIGSTOP and a loss of power do. A [Tap] stands between a link and the stack, where a packet socket, a packet counter and a
// firewall at ingress stand in a kernel.
package memnet
