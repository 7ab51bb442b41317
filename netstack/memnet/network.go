package memnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Config is what can be chosen about a network.
type Config struct {
	Seed uint64

	// Unreachable answers packets to addresses that nobody has with an ICMP error instead of silence.
	Unreachable bool

	Log *slog.Logger // nil discards
}

// Network joins hosts. Close ends it and them.
type Network struct {
	cfg    Config
	sched  *scheduler
	counts struct{ sent, lost, nobody atomic.Uint64 }
	faults atomic.Pointer[[]*playing]

	mu      sync.RWMutex
	hosts   []*Host
	names   map[string]*Host
	owners  map[place]*Interface
	streams uint64 // of random numbers that were given out
	closed  bool
}

// place is an address on a segment.
type place struct {
	segment string
	addr    tcpip.Address
}

// Counts are packets since New.
type Counts struct {
	Sent   uint64 // by hosts
	Lost   uint64 // by conditions and faults
	Nobody uint64 // to addresses that nobody has
}

// New makes a network without hosts.
func New(cfg Config) *Network {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	n := &Network{cfg: cfg, sched: newScheduler(), names: map[string]*Host{}, owners: map[place]*Interface{}}
	n.faults.Store(new([]*playing))
	return n
}

// Seed is what its faults are drawn from.
func (n *Network) Seed() uint64 { return n.cfg.Seed }

// Host finds a host by its name; nil: there is none.
func (n *Network) Host(name string) *Host {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.names[name]
}

// Counts says what became of packets.
func (n *Network) Counts() Counts {
	return Counts{Sent: n.counts.sent.Load(), Lost: n.counts.lost.Load(), Nobody: n.counts.nobody.Load()}
}

// Close ends every host. It returns when their goroutines have.
func (n *Network) Close() {
	n.mu.Lock()
	n.closed = true
	hosts := n.hosts
	n.hosts = nil
	n.mu.Unlock()
	for _, h := range hosts {
		for _, s := range h.all() {
			s.Close() // while the links still carry the resets
		}
	}
	n.sched.stop()
	for _, h := range hosts {
		h.end()
	}
}

var errClosed = errors.New("the network is closed")

// join adds a host with its interfaces.
func (n *Network) join(h *Host) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return errClosed
	}
	if n.names[h.Name] != nil {
		return fmt.Errorf("there is a host %q already", h.Name)
	}
	for _, i := range h.ifs {
		for _, a := range i.Addrs() {
			if o := n.owners[place{i.segment, tcpAddr(a)}]; o != nil {
				return fmt.Errorf("%s has the address %s already", o.host.Name, a)
			}
		}
	}
	for _, i := range h.ifs {
		for _, a := range i.Addrs() {
			n.owners[place{i.segment, tcpAddr(a)}] = i
		}
	}
	n.names[h.Name] = h
	n.hosts = append(n.hosts, h)
	return nil
}

// move makes an interface the owner of other addresses.
func (n *Network) move(i *Interface, addrs []netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addrs {
		if o := n.owners[place{i.segment, tcpAddr(a)}]; o != nil {
			return fmt.Errorf("%s has the address %s already", o.host.Name, a)
		}
	}
	for _, a := range i.Addrs() {
		delete(n.owners, place{i.segment, tcpAddr(a)})
	}
	for _, a := range addrs {
		n.owners[place{i.segment, tcpAddr(a)}] = i
	}
	addrs = slices.Clone(addrs)
	i.addrs.Store(&addrs)
	return nil
}

// stream is the number of a fresh stream of random numbers.
func (n *Network) stream() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams++
	return n.streams
}

// carry takes a packet from one interface to whoever has its destination. It does not keep the packet.
func (n *Network) carry(from *Interface, pkt *stack.PacketBuffer) {
	n.counts.sent.Add(1)
	dst, ok := destinationOf(pkt)
	if !ok {
		return
	}
	n.mu.RLock()
	to := n.owners[place{from.segment, dst}]
	n.mu.RUnlock()
	now := time.Now()
	at, copies := n.judge(from, to, pkt, now)
	if copies == 0 {
		n.counts.lost.Add(1)
		return
	}
	if to == nil {
		n.counts.nobody.Add(1)
		if n.cfg.Unreachable {
			from.unreachable(pkt)
		}
		return
	}
	for range copies {
		in := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: pkt.ToBuffer()})
		in.NetworkProtocolNumber = pkt.NetworkProtocolNumber
		if at.After(now) {
			n.sched.add(at, to, in)
		} else {
			to.deliver(in)
		}
	}
}

// judge asks all conditions on a packet's way when it arrives, and how often.
func (n *Network) judge(from, to *Interface, pkt *stack.PacketBuffer, now time.Time) (at time.Time, copies int) {
	at, copies = now, 1
	size := pkt.Size()
	through := func(l *lane) {
		if l == nil || copies == 0 {
			return
		}
		next, twice, ok := l.pass(size, at)
		switch at = next; {
		case !ok:
			copies = 0
		case twice:
			copies++
		}
	}
	through(from.out)
	for _, p := range *n.faults.Load() {
		through(p.lane(from, to, pkt, now))
	}
	if to != nil {
		through(to.in)
	}
	return at, copies
}

func destinationOf(pkt *stack.PacketBuffer) (tcpip.Address, bool) {
	b := pkt.NetworkHeader().Slice()
	if len(b) == 0 {
		b, _ = pkt.Data().PullUp(min(header.IPv6MinimumSize, pkt.Data().Size()))
	}
	switch pkt.NetworkProtocolNumber {
	case header.IPv4ProtocolNumber:
		if len(b) >= header.IPv4MinimumSize {
			return header.IPv4(b).DestinationAddress(), true
		}
	case header.IPv6ProtocolNumber:
		if len(b) >= header.IPv6MinimumSize {
			return header.IPv6(b).DestinationAddress(), true
		}
	}
	return tcpip.Address{}, false
}

// packetOf makes a packet of bytes that begin with an IP header; nil: they do not.
func packetOf(b []byte) *stack.PacketBuffer {
	if len(b) == 0 {
		return nil
	}
	proto := header.IPv4ProtocolNumber
	switch b[0] >> 4 {
	case header.IPv4Version:
	case header.IPv6Version:
		proto = header.IPv6ProtocolNumber
	default:
		return nil
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	pkt.NetworkProtocolNumber = proto
	return pkt
}

func tcpAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }
