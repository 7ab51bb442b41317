// Package tables is `make bench-paper`: the paper's Tables 2 to 5 and its detection (Hsu et al., Sensors
// 2021, 21, 1980), cell by cell, measured in one run on this machine.
//
//	system     who
//	direct     no proxy and no agent: a site that nobody protects
//	plain      a forwarder without protection, in a namespace of its own: no SYN cookies (Linux has them on by
//	           default), 128 half-open connections
//	paper      the paper's own handshake, re-created (package paper)
//	ms-each    ours, asking the proxy for every connection, beside an OPEN on a link that is already open: two
//	           round trips; three without such a link, five under the flood, where each trial begins fresh
//	ms         ours, with links that are already open
//	published  the paper's own numbers; never measured here
//
// P1 and P2 are both entries here, so both are hard-wired; P3 is hidden, and P1 sends its clients there
// and to P2 when it is attacked. A fresh trial begins with `ms-agent forget`: the agent knows no proxy
// but the entries.
//
// Systems that are compared are measured one by one in one loop, in another order each round, by
// blocking system calls (package fleet); over ssh by the real ssh and sshd, through the same
// ProxyCommand, so that only the handshake differs. What failed is counted in a share and is not in
// the times.
//
// The pure half (cells, figures, goals, the printed tables) knows no kernel; the *_linux.go files
// measure.
package tables
