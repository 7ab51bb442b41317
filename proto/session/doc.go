// Package session carries many streams, each one application's TCP connection, over a link between an
// agent and an anchor. It is the part of the paper's connection handling that is independent of any
// proxy: bytes have absolute offsets, are sent only under credit, and are kept until they are
// acknowledged, so that a stream can go on over another link.
//
// A Session owns no socket, clock or goroutine: whoever owns the link feeds it frames (Handle), takes
// frames from it (Next, when Ready), and tells it the time (Advance). Package link's Pump does that.
//
//	application ── Write ─► send buffer ─► Next ─► link ─► Handle ─► receive buffer ─► Read ── origin
//	                            ▲ dropped by ACK (received offset, credit) ◄───────────────┘
//
// Rules held here (PROTOCOL, Frames): a byte is never sent without credit, so Handle never blocks and one
// slow stream stops no other; frames without credit go before DATA; overlap is trimmed, a gap is a
// protocol error; a stream that is given up ends with a reset and never with a clean end.
//
// Not here yet: RESUME and ATTACH, for which offsets, credit and retained bytes are already in place.
package session
