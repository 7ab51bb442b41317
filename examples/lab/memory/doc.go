// Package memory is the lab in one process: the same machines, addresses, fleet and configuration as the lab on the real
// kernel (packages lab and fleet), on the hosts of netstack/memnet. It needs no right and no kernel feature, and runs
// where Go does.
//
// The proxies and agents are the real ones, started as goroutines instead of programs. What a kernel gives them comes from
// memory: sockets from gVisor; a packet counter, the SYN Checker's packet port and the firewall's filter stand in
// front of a host's stack, in the order in which Linux has them. An agent's TUN is the end of a link in memory, so an
// application's connect() goes through netstack as it does on a machine.
//
// What it does not have: the kernel's TCP (its limits, its SYN cookies, keyed SYNs, splice), Ethernet, and processes that
// die by themselves. Times of it say little about a real machine.
package memory
