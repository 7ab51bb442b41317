package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// loose owns connections that belong to no Stack.
type loose struct{}

func (loose) forget(*conn)        {}
func (loose) background(f func()) { go f() }

// Dial connects from a gVisor host (NewIPStack with an interface) as an application would, from laddr if that
// is valid. The lab's hosts in memory use it; a Stack's flows do not.
func Dial(ctx context.Context, s *stack.Stack, laddr, raddr netip.AddrPort) (Conn, error) {
	var wq waiter.Queue
	proto := header.IPv4ProtocolNumber
	if raddr.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	ep, terr := s.NewEndpoint(tcp.ProtocolNumber, proto, &wq)
	if terr != nil {
		return nil, dialError(raddr, errnoOf(terr))
	}
	if laddr.IsValid() {
		if terr := ep.Bind(fullAddress(laddr)); terr != nil {
			ep.Close()
			return nil, dialError(raddr, errnoOf(terr))
		}
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	terr = ep.Connect(fullAddress(raddr))
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Close()
			return nil, dialError(raddr, ctx.Err())
		case <-connected:
		}
		terr = ep.LastError()
	}
	if terr != nil {
		ep.Close()
		return nil, dialError(raddr, errnoOf(terr))
	}
	return newConn(ep, &wq, loose{}), nil
}

func dialError(raddr netip.AddrPort, err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(raddr), Err: fmt.Errorf("connect: %w", err)}
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}
