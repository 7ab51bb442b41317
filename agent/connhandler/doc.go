// Package connhandler is the paper's Connection Handler (sections 3 and 4): it stands between an application's
// connection and the proxies, so that the application never learns which of them serves it.
//
// An application's TCP handshake arrives as a [Flow] that is not answered yet. The handler opens a stream to the
// service at the proxy, and only what came of it answers the application:
//
//	stream opened   → the handshake is finished, and bytes flow both ways
//	refused         → refused
//	unreachable     → unreachable
//	timed out, busy → silence, so the application's own retransmissions and patience decide
//
// How the stream is opened is the probe of the paper. [Warm] did it ahead of time: the stream is opened on a link
// that stands already, and beside a link that says nothing a fresh probe is made: the session goes on over the link
// that comes of it and asks for the stream there again, which opens no second one at the origin. [Each] does it for
// every connection, as the paper does: handshake with the proxy, a bounded wait, rewrite of the destination when the
// proxy answers with a transfer, second handshake at the new proxy. The stream is asked for on the warm session
// meanwhile, and is the connection's if the proxy says go ahead or names the one where that session is.
//
// In both modes the stream is asked for as soon as the application's SYN is seen ([Handler.Arrive]), before there is a
// flow to handle.
//
// The handler knows no socket, no link and no wire format. Its parent gives it sessions through [Ways] and flows
// through [Handler.Handle].
package connhandler
