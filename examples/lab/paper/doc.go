// Package paper is the handshake of the paper itself (Hsu et al., Sensors 2021, 21, 1980), made anew
// as a small client and proxy, so that the lab can measure it beside ours. It uses nothing of agent,
// proxyd and proto. It is no protocol to build on: what it lacks is what ours adds.
//
//	paper                                        here
//	Client Connection Handler (sections 3, 4.1)  Dial
//	Packet Handler (4.2)                         roles Plain, P1 and P2: a TCP forwarder
//	SYN Checker (4.2)                            role Checker: the attacked P1
//	Informer, transfer notification (4.2.4)      notice, sealed with a key that client and P1 share
//	Informer, ratify and approval (4.2.4)        ratification, one UDP datagram and its echo
//	the firewall in front of the proxy (7)       firewall: so many SYN/s pass, the rest is dropped
//
// The client, for each connection of an application to P1:
//
//	peace     SYN, SYN-ACK, ACK; nothing comes until the receive timeout; FIN
//	          SYN, SYN-ACK, ACK; this second connection is the application's
//	attacked  SYN, SYN-ACK, ACK; the transfer notification comes, with FIN
//	          SYN, SYN-ACK, ACK with P2, as it was told; this one is the application's
//
// It does not retry: that is the user's. The connection to P2 is an ordinary one, since only P1's
// address is hard-coded in the client and so only P1 is probed.
//
// The attacked P1 answers from a packet socket for an address that its kernel does not own, so the
// kernel neither answers nor resets. It keeps no state: the sequence number of a SYN-ACK is a keyed
// hash, and what the notification needs travels to P2 and back in the ratification. IPv4 only.
//
// What the paper does not say is gathered in [Assumed]. The proxy's roles expect that the whole
// process lives in one namespace of the lab.
//
// # Messages
//
// The transfer notification, one segment with FIN, 54 bytes:
//
//	 0  magic   4  "MVP" 01
//	 4  nonce  12  random
//	16  sealed 38  AES-256-GCM over the magic and: P2's IPv4 address 4, port 2, secret word 16
//
// A ratification, one UDP datagram on the backplane, 33 bytes, and its echo:
//
//	 0  kind     1  1 ratify, 2 approval
//	 1  client   6  IPv4 address 4, port 2
//	 7  service  2  the port of P1 that it asked for
//	 9  next     4  sequence number of the client's next byte
//	13  ours     4  sequence number of P1's next byte
//	17  word    16  the secret word
package paper
