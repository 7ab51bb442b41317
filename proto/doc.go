// Package proto is the wire: what agents, proxies and the signing node say to each other. This page is
// the specification; testdata/golden.txt holds the bytes. It replaces the paper's notifications and its
// plain "secret word" (section 4.2): here a notification can be read only by the client that it is for
// and is bound to one attempt. The package opens no socket and starts no goroutine.
//
// All numbers are big-endian. A value has one encoding only: parsers refuse what they would not write.
//
// # The paper's names
//
//	paper                                        here          where sent
//	migration notification 1, "current user      UserInfo      P1 → P2, peer link, before Migrate;
//	  connections' information" (4.2.3)            UserInfoOK    answered with it, or with Busy
//	migration notification 2 (4.2.3)             Migrate       P1 → each connected agent, control link;
//	                                               MigrateOK     the agent has received it
//	transfer notification, P2's address and      Reply         P1 → a verified newcomer, in place of TLS's
//	  the secret word (4.2.4)                      (Transfer)    first answer, sealed
//	ratify notification, "information about      Ratify        P1 → P2, peer link, at the same time
//	  the client" (4.2.4)
//	approval (4.2.4)                             RatifyOK      P2 → P1; or Busy
//	secret word                                  Admission     in Reply, Migrate, Keys and tokens
//
// # Identities
//
// A certificate of the fleet's CA (Ed25519) names one id and its roles as URIs:
//
//	ms://FLEET/agent/ID    ms://FLEET/edge/ID    ms://FLEET/anchor/ID    ms://FLEET/signer/ID
//	ms://FLEET/group/NAME  (agents)              ms://FLEET/kind/hidden  (edges)
//
// An agent's id is SHA-256 of its public key cut to 16 bytes; a node's is 8 random bytes. An agent has
// no other role. [VerifyPeer] checks chain and identity; TLS itself carries no names.
//
// # Keys
//
// HKDF is HKDF-SHA256 without salt (RFC 5869); "|" joins; gen is one byte.
//
//	proxy secret  = HKDF(fleet key, "ms proxy secret " | node id | gen)       signing node → edge, once
//	handover key  = HKDF(proxy secret, "ms handover " | neighbour's id)       edge → neighbour
//
// From a proxy secret or a handover key S alike:
//
//	K             = HKDF(S, "ms admission " | agent id)              32  MAC of preambles, sealed replies
//	tag master    = HKDF(S, "ms tag")                                16  all that a check of tags needs
//	handle        = AES-128 of the agent id under HKDF(S, "ms handle")   in the id's place on the wire
//	tag key       = SipHash(tag master, handle | 0) | SipHash(tag master, handle | 1)   each little-endian
//
// So an edge needs no table of its agents, a neighbour makes an agent's keys for P2 by itself, and one
// agent looks different at each edge and in each generation. A token's id stands in an agent id's place.
//
// # Preamble
//
// The first 76 bytes of every link; a knock is the same bytes alone in a UDP datagram, a probe the same
// bytes alone in a TCP connection, which ends with its sealed reply: the paper's first handshake.
//
//	 0  magic    4  4d 53 70 01
//	 4  version  1  1; this layout stays in every version, so that a newer agent can be answered
//	 5  kind     1  1 control, 2 data, 3 enrol, 4 knock, 5 probe
//	 6  key id   2  generation, issuer (0: the edge itself, else its number for a neighbour)
//	 8  handle  16
//	24  target   8  node id: an anchor (data), else the edge's own
//	32  time     4  seconds since 1970, ±10 minutes
//	36  nonce   16  fresh for each attempt
//	52  tag      8  SipHash-2-4 over 0–51 under the tag key
//	60  MAC     16  HMAC-SHA256 over 0–59 and the edge's node id under K, cut
//
// The cheapest check goes first: length and magic, key id, tag ([Keyring.CheckTag]), MAC, version, time
// ([Keyring.Verify]). Only a preamble with a good MAC is ever answered. [NonceSet] makes one nonce
// admit one address.
//
// # Sealed reply
//
// One segment of 256 bytes, answering one preamble; TLS would begin with 0x16 or 0x15.
//
//	 0  first byte  1  d5
//	 1  version     1
//	 2  nonce      12  HMAC-SHA256(HKDF(K, "ms reply nonce " | preamble's nonce), plaintext), cut
//	14  sealed    242  AES-256-GCM, key HKDF(K, "ms reply " | preamble's nonce), over
//	                   (d5 | version | the 76 bytes of the preamble) and the plaintext
//
// The same content gives the same bytes, so a preamble sent twice gets one answer without memory; other
// content gets another nonce. Plaintext:
//
//	  0  kind        1  1 transfer, 2 retry, 3 busy, 4 reject, 5 go ahead (to a probe only)
//	  1  count       1  transfer: number of targets, 1 or 2
//	                    retry, busy: how long to wait, in 100 ms
//	                    reject: 1 clock, 2 version, 3 revoked, 4 anchor gone (data links only); go ahead: 0
//	  2  server time 4  reject only, else 0
//	  6  round       8  of the attack
//	 14  client     18  address and port as seen
//	 32  targets   192  two of 96, unused ones zero
//	224  zero        2
//
// A target, here and wherever one is sent:
//
//	 0  IPv4       4  zeros: none          30  key id      2
//	 4  IPv6      16  zeros: none          32  K          32
//	20  link port  2                       64  tag key    16
//	22  node id    8                       80  handle     16
//
// # Relay header
//
// A data link may end at another node than the edge that is dialled: the preamble's target, one of the
// catalogue's anchors. The edge verifies the preamble as always, connects to a relay port of the anchor
// over the backplane, writes this header in the preamble's place and passes all further bytes both ways:
// TLS is between agent and anchor. A wrong header is never answered. Without an anchor the agent gets a
// sealed RETRY; a sealed REJECT (anchor gone) when the edge's peer link with it has been down for more than
// 5 s, or it is no longer a node of the fleet. An agent that has heard only that for 10 s, or from two edges,
// resets the streams it has there.
//
//	 0  magic    4  4d 53 72 01
//	 4  version  1  1
//	 5  edge     8  node id: the one at the other end of the key's peer link, and no other
//	13  agent   16  the only one whose certificate TLS will accept
//	29  address 18  the agent's address and port, as the edge sees it
//	47  nonce   16  of the preamble; good once
//	63  time     4  seconds since 1970, ±60 s
//	67  key id   4
//	71  MAC     16  HMAC-SHA256 over 0–70 under the key, cut
//
// Key (32) and key id (4) are the first and the last bytes of 36 that TLS exports (RFC 8446 section 7.5) from
// the peer link of the two nodes, label "EXPORTER-ms-relay", no context. A key is good as long as its link, and
// 60 s longer. That of a revoked node is good no more.
//
// # Frames
//
// Inside TLS there are frames, each at most one TLS record (16,384 bytes):
//
//	0  type    1
//	1  flags   1  1: the message goes on in the next frame of its type. In ACK 2: the FIN was received,
//	              4: write the stream on this link. In RST 2: it answers an RST or OPEN_FAIL
//	2  length  2  of the payload, at most 16,368
//	4  stream  4  frames of a stream; between nodes it joins an answer to its question; else 0
//	8  offset  8  frames of a stream, and PAD; else 0
//
// A message's payload is its struct's fields in the order below. Integers have the size given; addr is
// 16 bytes (IPv4 as ::ffff:a.b.c.d, none as zeros), ms a uint32 of milliseconds, s a uint64 of seconds,
// text and bytes a uint16 of length and so many bytes, long a uint32 and so many bytes, n× a uint16 of
// count and so many, target as above. Counts are checked against what follows before anything is made.
//
// Sessions, on data links (package session has the rules; the offset is in the header). SESSION, ATTACH or RESUME is the
// first message of a link, with nothing before it or between its frames; RESUME may come again later:
//
//	01 SESSION     A →    credit 4: first window of a stream towards the agent; OPEN may follow at once
//	02 SESSION_OK    ←    session 16, credit 4 (towards the anchor), streams 4, grace ms
//	10 OPEN        A →    credit 4 (0: the session's), service text
//	11 OPEN_OK       ←    credit 4 (0: the session's)
//	12 OPEN_FAIL     ←    code 1 (1 refused, 2 unreachable, 3 timed out, 4 denied, 5 busy), text
//	13 DATA      both     bytes at the offset
//	14 ACK       both     offset: all before it was received; credit 8: the offset sent up to at most.
//	                      Flag 4: write the stream on this link from now on
//	15 FIN       both     offset: the final one; nothing else
//	16 RST       both     offset: of the last byte before it; nothing else. Answered by an RST with flag 2
//	20 PING, 21 PONG      token 8
//	22 PAD       both     bytes that nobody needs. Offset, from an agent: so many are asked for, at most 2 MiB + 1;
//	                      an anchor owes no more than that at a time, and nothing after RESUME
//	03 ATTACH      A →    session 16, epoch 4: one more link for the set of that epoch
//	04 ATTACH_OK     ←    epoch 4
//	05 RESUME      A →    session 16, epoch 4, n× stream: its link is the first of a new set
//	06 RESUME_OK     ←    epoch 4, n× stream
//	07 RESUME_FAIL   ←    code 1 (1 unknown, 2 expired, 3 not owner, 4 stale epoch, 5 retry), after ms
//	08 END         A →    nothing: the session is given up, and with it what streams there are
//	17                    DGRAM: a number kept
//
// A stream of a resume table is: id 4, state 1 (1 opening, 2 open, 3 the reader's FIN has come, 4 reset,
// 5 finished, 6 bad offset), received 8, credit 8; ids rise.
//
// Enrolment, on enrol links, and to the signing node:
//
//	30 ENROL       A →    token 16, secret 32, CSR bytes, node's name text
//	31 ENROL_OK      ←    n× certificate bytes, catalogue long, fleet long, keys as in KEYS,
//	                      count 1 × (gen 1, proxy secret 32)
//	32 ENROL_FAIL    ←    later 1, reason text
//
// Control links:
//
//	40 MIGRATE       ←    edge 8, counter 8, start after ms, deadline ms, n× target
//	41 MIGRATE_OK  A →    edge 8, counter 8
//	42 CATALOGUE     ←    signed document long
//	43 KEYS          ←    n× (node 8, key id 2, K 32, tag key 16, handle 16, expiry s)
//	44 RENEW       A →    CSR bytes
//	45 RENEW_OK      ←    n× certificate bytes
//	46 GOAWAY        ←    reason text
//	47 BOOT        A →    boot id 8, current 1, version text: first of all, and when current changes. Current is
//	                      the agent's newest control link; one that stands by is sent no MIGRATE and no STANDBY
//	48 STANDBY       ←    n× target
//
// Between nodes, mutual TLS on the backplane:
//
//	60 HELLO              name text, version of the FLEET document 8
//	61 USERINFO           round 8, n× (agent 16, addr, session 16, anchor 8, n× service text,
//	                      start after ms, expiry ms)
//	62 USERINFO_OK        round 8, load 2 (per mille)
//	63 RATIFY             attempt 16 (the preamble's nonce), agent 16, addr, service text, expiry ms
//	64 RATIFY_OK          attempt 16, load 2
//	65 BUSY               reason text
//	66 SIGN               agent 16, type 1 (ENROL, RENEW), its payload long
//	67 SIGN_OK            type 1, payload long: for the agent
//	68 HANDOVER           gen 1, issuer 1, handover key 32
//	69 FLEET              signed document long
//	6a HEARTBEAT          load 2, under attack 1, state text
//	6b REVOKE             agent 16, node 8, serial bytes
//
// # Tokens and documents
//
// A token is "ms://join/" and, in base64 (RFC 4648 section 5, no padding):
//
//	version 1 | token id 16 | role text | expires s | SHA-256 of the CA 32 | secret 32 |
//	signing node's addr and port 18 | node's name text | count 1 × target | SHA-256 of all before, cut 8
//
// A document is JSON {body, sig, chain}: sig is Ed25519 over the kind ("ms catalogue v1\0" or
// "ms fleet v1\0") and the body's bytes, chain the certificate of a signer. [OpenDoc] refuses the rest.
package proto
