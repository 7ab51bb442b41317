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
// is valid. A Stack's flows do not use it; Sockets have one of their own.
func Dial(ctx context.Context, s *stack.Stack, laddr, raddr netip.AddrPort) (Conn, error) {
	ep, wq, err := connect(ctx, s, 0, laddr, raddr)
	if err != nil {
		return nil, err
	}
	return newConn(ep, wq, loose{}), nil
}

// connect makes the connection, through one interface if nic is not 0.
func connect(ctx context.Context, s *stack.Stack, nic tcpip.NICID, laddr, raddr netip.AddrPort) (tcpip.Endpoint, *waiter.Queue, error) {
	wq := new(waiter.Queue)
	ep, terr := s.NewEndpoint(tcp.ProtocolNumber, protocolOf(raddr.Addr()), wq)
	if terr != nil {
		return nil, nil, dialError(raddr, errnoOf(terr))
	}
	if laddr.IsValid() {
		if terr := ep.Bind(fullAddress(laddr)); terr != nil {
			ep.Close()
			return nil, nil, dialError(raddr, errnoOf(terr))
		}
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	to := fullAddress(raddr)
	to.NIC = nic
	terr = ep.Connect(to)
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Close()
			return nil, nil, dialError(raddr, ctx.Err())
		case <-connected:
		}
		terr = ep.LastError()
	}
	if terr != nil {
		ep.Close()
		return nil, nil, dialError(raddr, errnoOf(terr))
	}
	return ep, wq, nil
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is6() {
		return header.IPv6ProtocolNumber
	}
	return header.IPv4ProtocolNumber
}

func dialError(raddr netip.AddrPort, err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(raddr), Err: fmt.Errorf("connect: %w", err)}
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}
