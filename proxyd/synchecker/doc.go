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
package synchecker
