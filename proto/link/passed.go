package link

import (
	"context"
	"io"
	"net"
	"time"

	"migrationsensor/proto"
)

const relayHeaderTimeout = 2 * time.Second // ours: an edge writes it at once

// ServeRelayed takes in the data links that edges pass on to this node, which is their anchor: each begins with a
// relay header in the preamble's place. verify checks its 87 bytes; whoever has no good one hears nothing. Then TLS is
// with the agent, whose certificate must be that of the header, and Data owns the link. It ends like Serve.
func (a *Acceptor) ServeRelayed(ctx context.Context, l net.Listener, verify func([]byte) (proto.RelayHeader, bool)) error {
	a.init()
	return a.serveAll(ctx, l, func(ctx context.Context, c net.Conn) { a.servePassed(ctx, c, verify) })
}

func (a *Acceptor) servePassed(ctx context.Context, c net.Conn, verify func([]byte) (proto.RelayHeader, bool)) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	w, ok := a.relayed.add(c, addrPort(c.RemoteAddr()).Addr(), &a.stats)
	if !ok {
		return
	}
	c.SetDeadline(time.Now().Add(relayHeaderTimeout))
	var b [proto.RelayHeaderLen]byte
	var h proto.RelayHeader
	_, err := io.ReadFull(c, b[:])
	if err == nil {
		h, ok = verify(b[:])
	}
	if err != nil || !ok {
		a.stats.badRelay.Add(1)
		mute(c)
		a.relayed.remove(w)
		return
	}
	a.relayed.remove(w)
	if a.Revoked != nil && a.Revoked(h.Agent) || a.live.full(a.MaxLinks) {
		return // the edge has no answer then, and gives one
	}
	a.stats.passed.Add(1)
	tuneRelay(c)
	_ = a.establish(ctx, &Link{Kind: proto.KindData, Via: h.Edge, raw: c, remote: h.Addr}, proto.Verified{
		Preamble: proto.Preamble{Kind: proto.KindData, Target: a.Node, Time: h.Time, Nonce: h.Nonce}, Agent: h.Agent,
	}) // it is counted; whose turn did not come is closed unanswered, and the edge answers RETRY
}
