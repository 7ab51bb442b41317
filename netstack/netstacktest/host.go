package netstacktest

import (
	"context"
	"net/netip"
	"testing"

	"migrationsensor/netstack"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Addresses of a Host, from the ranges for benchmarks (RFC 2544, RFC 5180).
var (
	Addr4 = netip.MustParseAddr("198.18.0.1")
	Addr6 = netip.MustParseAddr("2001:2::1")
)

// Host is a machine in memory whose default route leads into a Device.
type Host struct{ ip *stack.Stack }

// NewHost puts a host with Addr4 and Addr6 on d. It ends with the test.
func NewHost(tb testing.TB, d *Device) *Host {
	tb.Helper()
	ip, err := netstack.NewIPStack()
	if err != nil {
		tb.Fatal(err)
	}
	if err := ip.CreateNIC(1, d.LinkEndpoint()); err != nil {
		tb.Fatal(err)
	}
	for proto, a := range map[tcpip.NetworkProtocolNumber]netip.Addr{
		header.IPv4ProtocolNumber: Addr4, header.IPv6ProtocolNumber: Addr6,
	} {
		pa := tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}
		if err := ip.AddProtocolAddress(1, pa, stack.AddressProperties{}); err != nil {
			tb.Fatal(err)
		}
	}
	ip.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: 1},
		{Destination: header.IPv6EmptySubnet, NIC: 1},
	})
	tb.Cleanup(func() {
		ip.Close()
		_ = d.Close() // never fails
		// Before gVisor's Wait, which waits for the reader while it holds a lock that the reader may want.
		d.LinkEndpoint().Wait()
		ip.Wait()
	})
	return &Host{ip: ip}
}

// Dial connects as an application on the host would.
func (h *Host) Dial(ctx context.Context, to netip.AddrPort) (netstack.Conn, error) {
	return netstack.Dial(ctx, h.ip, netip.AddrPort{}, to)
}

// DialFrom connects from a given port.
func (h *Host) DialFrom(ctx context.Context, port uint16, to netip.AddrPort) (netstack.Conn, error) {
	from := Addr4
	if to.Addr().Is6() {
		from = Addr6
	}
	return netstack.Dial(ctx, h.ip, netip.AddrPortFrom(from, port), to)
}

// Start runs a stack with this handler and returns a host whose connections are its flows. Both end with the
// test.
func Start(tb testing.TB, cfg netstack.Config) (*Host, *netstack.Stack) {
	tb.Helper()
	near, far := Pair(1500)
	cfg.Device = far
	s, err := netstack.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	h := NewHost(tb, near)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	tb.Cleanup(func() { // before the host's
		stop()
		if err := <-done; err != nil {
			tb.Errorf("netstack stopped: %v", err)
		}
	})
	return h, s
}
