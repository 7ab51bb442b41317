// Package synchecker is the paper's SYN Checker (section 4.2): while a proxy is flooded it takes the
// place of the kernel on the link port, proves newcomers real without keeping state for them, and
// hands them the transfer notification.
//
// It reads and writes ethernet frames through a Port. Each frame is judged alone, the cheapest
// test first; whatever fails gets no answer and moves a counter:
//
//	SYN            answered by a SYN-ACK whose sequence number is a cookie: with probability p (the
//	               paper's knob), or as far as a budget of answers and of processor time goes, then
//	               retransmitted ones before fresh ones (see Budget). A keyed SYN, one that carries
//	               a valid preamble as data, is always answered.
//	ACK with data  cookie → tag → MAC, time → nonce → Config.Verified, whose reply is sealed and
//	               sent as one PSH|FIN segment of 256 bytes. The client speaks first, so its own
//	               retransmission asks again for a reply that was lost, and gets the same one.
//	FIN            RST, if the connection was one of ours; so the client's socket can go.
//	UDP            a knock: the preamble in one datagram. Config.Admit, never an answer.
//	anything else  nothing; also a bare ACK, and the second segment of a split first flight.
//
// A hidden edge (mode Dark) answers nothing at all: a valid keyed SYN or knock admits its source
// address, and the client's next SYN is the kernel's.
//
// The kernel must stay silent for what the checker answers: the parent drops these packets at netdev
// ingress, which a packet socket on ETH_P_ALL sees all the same, since taps come before that hook.
// For the same reason no firewall rule can thin out the flood in front of the checker, as the paper's
// did (section 7). The budget stands in for it, and a sample that the socket's own filter takes where
// more comes than can be read (see Sampler).
//
// A packet socket with its own ring stands for each of keyed SYNs, first flights, knocks and the rest,
// so that a flood of one kind fills no other's. Who floods with preambles, forged, replayed or his own
// ones, costs what a stranger's SYN costs: the tag is checked first, and a handle counts ten times a
// second.
//
// Checksums of arriving packets are not verified: the cookie covers addresses, ports and numbers, the
// MAC covers the preamble, and between local interfaces checksums are filled in later (partial).
// IPv6 extension headers and IP fragments are dropped: a first flight needs neither.
//
// # The packet program
//
// By the paths xdp-native and xdp-generic (see OpenPath) a packet program stands before the kernel, written in this package's
// Go for its eBPF machine. It makes the same cookies, checks the same tags, and says what the checker would say alone, which a
// test holds over many frames; what needs a MAC, sealing or memory passes up to the packet sockets. Off, it lets everything
// pass. Only packets to our hardware and IP addresses are its business, in at most one VLAN, where it answers in the same:
//
//	                             defending                      hidden
//	TCP to the link port
//	  allowed or admitted        pass                           pass
//	  SYN                        answered, as above             keyed: pass; else drop
//	  FIN of a cookie's          pass                           drop
//	  data, good cookie, tag     pass, 100/s an address         drop
//	  else                       pass if a socket is live       pass if a socket is live
//	UDP to the link port         knock with a good tag: pass    the same
//	TCP to a service             allowed, live; else by Plain   as to other ports
//	ICMP                         too big: 100/s; others 100/s   too big: 100/s
//	  IPv6 neighbours, MLD       pass, as on the link only      pass
//	UDP to other ports           allowed, connected socket, 20,000/s, in either mode
//	TCP to other ports           allowed, live socket, SYN 1,000/s (hidden: none), else 50,000/s
//	fragments, other protocols   allowed, 50,000/s              allowed
//
// A packet that passes meets the firewall, which knows more (what the machine itself sent, for one) and drops more. So an answer
// to the machine's own query arrives if its socket is connected, as resolvers' are, and else as long as no flood of UDP uses up
// the rate; list what must always be heard in allow.
//
// Retransmitted SYNs are told by a table of fingerprints with times instead of a Bloom filter: one row, one cache line to touch,
// and nothing to clear. A row holds four; a SYN comes again after a second and is then known with 98 % at 1 million fresh SYNs/s,
// half of the time at 4 million.
//
// With PlainCookie the kernel's own cookie is sent, so an ordinary listener takes the connection. The kernel makes one only with
// net.ipv4.tcp_syncookies = 2, or 1 when its queue is full: else the SYN goes up to it, 10,000/s. Window scale and SACK come with
// it only if net.ipv4.tcp_timestamps = 2 (the default, 1, adds a secret to the timestamps that carry them); without them a
// connection has 64 KB windows until it ends. A listener with a receive buffer of its own (SO_RCVBUF) below the maximum of
// tcp_rmem may have announced too large a window, and loses data beyond its own, which is sent again.
package synchecker
