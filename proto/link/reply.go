package link

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"time"

	"migrationsensor/proto"
)

// sealed answers a first flight. The ClientHello is read first and what follows is drained: closing
// with unread bytes would send RST, which destroys the reply on its way.
func sealed(c net.Conn, g greeting, r proto.Reply, from netip.AddrPort) {
	if g.Kind != proto.KindProbe && !g.drained { // a probe has none
		readHello(c)
	}
	if !r.Client.IsValid() {
		r.Client = from
	}
	b := r.Seal(g.raw[:], g.Keys)
	c.SetDeadline(time.Now().Add(drainTime))
	if _, err := c.Write(b[:]); err != nil {
		return
	}
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite() // a client that is gone is drained at once
	}
	_, _ = io.CopyN(io.Discard, c, muteBytes)
}

// readHello reads until the TLS record of the first flight is whole, or the flight's bound, or the
// deadline that the preamble had.
func readHello(c net.Conn) {
	var b [proto.FirstFlightMax - proto.PreambleLen]byte
	const header = 5 // type 1 | version 2 | length 2
	if _, err := io.ReadFull(c, b[:header]); err != nil || b[0] != recordHandshake {
		return
	}
	n := min(int(binary.BigEndian.Uint16(b[3:])), len(b)-header)
	_, _ = io.ReadFull(c, b[header:header+n]) // short: the reply goes out all the same
}
