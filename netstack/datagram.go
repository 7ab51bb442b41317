package netstack

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// datagrams is a UDP socket.
type datagrams struct {
	s     *Sockets
	ep    tcpip.Endpoint
	wq    waiter.Queue
	rd    direction
	local *net.UDPAddr
	nic   tcpip.NICID
	once  sync.Once
	done  chan struct{}
}

// ListenPacket opens a UDP socket at an address of the host: its unspecified address with port 0 is any. The host
// needs UDP (NewIPStack with udp.NewProtocol).
func (s *Sockets) ListenPacket(from From) (net.PacketConn, error) {
	s.gate.wait()
	fail := func(err error) error {
		return &net.OpError{Op: "listen", Net: "udp", Addr: net.UDPAddrFromAddrPort(from.Local), Err: err}
	}
	d := &datagrams{s: s, done: make(chan struct{}), nic: from.NIC}
	var terr tcpip.Error
	if d.ep, terr = s.ip.NewEndpoint(udp.ProtocolNumber, protocolOf(from.Local.Addr()), &d.wq); terr != nil {
		return nil, fail(errnoOf(terr))
	}
	local := fullAddress(from.Local)
	if from.Local.Addr().IsUnspecified() {
		local.Addr = tcpip.Address{}
	}
	if terr = d.ep.Bind(local); terr != nil {
		d.ep.Close()
		return nil, fail(errnoOf(terr))
	}
	got, _ := d.ep.GetLocalAddress() // a bound endpoint has one
	d.local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from.Local.Addr(), got.Port))
	d.rd.init(&d.wq, waiter.ReadableEvents)
	if !s.keep(d) {
		d.kill()
		return nil, fail(net.ErrClosed)
	}
	return d, nil
}

func (d *datagrams) LocalAddr() net.Addr { return d.local }

func (d *datagrams) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: d.local, Err: err}
}

func (d *datagrams) ReadFrom(b []byte) (int, net.Addr, error) {
	d.rd.mu.Lock()
	defer d.rd.mu.Unlock()
	for {
		d.s.gate.wait()
		if err := d.rd.usable(d.done); err != nil {
			return 0, nil, d.opError("read", err)
		}
		w := tcpip.SliceWriter(b)
		res, terr := d.ep.Read(&w, tcpip.ReadOptions{NeedRemoteAddr: true})
		switch terr.(type) {
		case nil:
			return res.Count, net.UDPAddrFromAddrPort(addrPort(res.RemoteAddr.Addr, res.RemoteAddr.Port)), nil
		case *tcpip.ErrWouldBlock:
			d.rd.wait(d.done)
		default:
			return 0, nil, d.opError("read", errnoOf(terr))
		}
	}
}

func (d *datagrams) WriteTo(b []byte, a net.Addr) (int, error) {
	d.s.gate.wait()
	to, ok := a.(*net.UDPAddr)
	if !ok {
		return 0, d.opError("write", net.InvalidAddrError("no UDP address"))
	}
	if err := d.rd.usable(d.done); err == net.ErrClosed {
		return 0, d.opError("write", err)
	}
	at := to.AddrPort()
	full := fullAddress(netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
	full.NIC = d.nic
	n, terr := d.ep.Write(bytes.NewReader(b), tcpip.WriteOptions{To: &full})
	if terr != nil {
		return 0, d.opError("write", errnoOf(terr))
	}
	return int(n), nil
}

func (d *datagrams) SetDeadline(t time.Time) error { return d.SetReadDeadline(t) }

func (d *datagrams) SetReadDeadline(t time.Time) error {
	if d.rd.usable(d.done) == net.ErrClosed {
		return d.opError("set", net.ErrClosed)
	}
	d.rd.deadline.set(t)
	return nil
}

// SetWriteDeadline changes nothing: a write never waits.
func (d *datagrams) SetWriteDeadline(time.Time) error { return nil }

func (d *datagrams) Close() error {
	d.s.gate.wait()
	d.kill()
	return nil
}

func (d *datagrams) kill() {
	d.once.Do(func() {
		close(d.done)
		d.wq.EventUnregister(&d.rd.entry)
		d.ep.Close()
		d.rd.deadline.set(time.Time{})
		d.s.drop(d)
	})
}
