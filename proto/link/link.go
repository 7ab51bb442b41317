package link

import (
	"crypto/tls"
	"net"
	"net/netip"
	"time"

	"migrationsensor/proto"
)

// Link is one established link. Each end has its own; Read and Write are TLS's.
type Link struct {
	*tls.Conn
	Kind   proto.Kind
	Peer   proto.Identity // who the other end is; empty on an enrol link, at the node
	Target proto.Target   // where it was dialled to; empty at the node
	Anchor proto.NodeID   // who ends it; another node than Target's, if that one passes it on
	Via    proto.NodeID   // at the anchor: the edge that passed it on; zero: the agent dialled this node
	Since  time.Time

	raw     net.Conn
	remote  netip.AddrPort // the agent's, when raw's other end is an edge
	connect time.Duration  // how long connect took; 0 when unknown
}

// RTT is the round trip as the kernel smooths it; where it can't be asked, the time of the connect.
// Zero: unknown.
func (l *Link) RTT() time.Duration {
	if d, ok := kernelRTT(l.raw); ok {
		return d
	}
	return l.connect
}

// MinRTT is the shortest round trip that the kernel has seen of late: that of a path whose queues are empty. Zero: unknown.
func (l *Link) MinRTT() time.Duration { return kernelMinRTT(l.raw) }

// Remote is the other end's address; of an agent whose link was passed on, as the edge saw it.
func (l *Link) Remote() netip.AddrPort {
	if l.remote.IsValid() {
		return l.remote
	}
	return addrPort(l.raw.RemoteAddr())
}

// Unread reports whether bytes have come that nobody has read yet, where the kernel can be asked.
func (l *Link) Unread() bool { return unread(l.raw) }

// Abort ends the link at once with a reset. Close says goodbye and may wait for the network to take it.
func (l *Link) Abort() {
	abort(l.raw)
}

// abort closes c with RST where it can.
func abort(c net.Conn) {
	if s, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = s.SetLinger(0) // fails only if it is closed already
	}
	c.Close()
}

func addrPort(a net.Addr) netip.AddrPort {
	var p netip.AddrPort
	if t, ok := a.(*net.TCPAddr); ok {
		p = t.AddrPort()
	} else {
		p, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
