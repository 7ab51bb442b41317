// Package session carries many streams, each one application's TCP connection, over a link between an
// agent and an anchor. It is the part of the paper's connection handling that is independent of any
// proxy: bytes have absolute offsets, are sent only under credit, and are kept until they are
// acknowledged, so that a stream can go on over another link.
//
// A Session owns no socket, clock or goroutine: for each [Link] somebody feeds it frames (Handle), takes
// frames from it (Next, when Ready), and tells it the time (Advance). Package link's Pump does that.
//
//	application ── Write ─► send buffer ─► Next ─► link ─► Handle ─► receive buffer ─► Read ── origin
//	                            ▲ dropped by ACK (received offset, credit) ◄───────────────┘
//
// Rules held here (PROTOCOL, Frames): a byte is never sent without credit, so Handle never blocks and one
// slow stream stops no other; frames without credit go before DATA; overlap is trimmed, a gap is a
// protocol error; a stream that is given up ends with a reset and never with a clean end.
//
// # Links
//
// A session has links, none when it waits. Those that carry now are a set with an epoch. ATTACH adds a link to the set;
// RESUME makes its link the first of a new set, with the next epoch: each end says what it has received of each stream, and
// writes on from there. So a session moves to another proxy.
//
//   - The agent writes on the new link in the flight of RESUME, and still takes what comes on the old ones (make before
//     break). It is repeated from the last acknowledged byte, so what is repeated is trimmed and nothing is missing.
//     A link that ATTACH added may be warmed before, by PADs both ways ([Link.Warm]), and RESUME sent on it: then it is as
//     fast from the first byte as the one that it replaces.
//   - The anchor parks the old links before it quotes an offset: they stay open for 5 s, in case the answer is lost, but of
//     what comes on them only another RESUME counts. The highest epoch wins.
//   - When a link of the set ends its streams go on over another one of the set, and ask the other end to follow: it may not
//     have noticed. When the last link has ended they wait.
//   - Nothing that is said once is lost with a link: OPEN is repeated until it is answered and never opens two connections;
//     an end (FIN) until it is acknowledged; a reset (RST) and a refusal (OPEN_FAIL) until the other end has answered with an
//     RST of its own, flagged as an answer. Until then the stream is kept, without its user.
//   - A frame of a stream that is not known any more is answered where the other end may wait for a word that was lost.
package session
