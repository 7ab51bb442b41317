package memory

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"

	"migrationsensor/netstack/memnet"
	"migrationsensor/proxyd/synchecker"
)

const (
	etherLen = 14
	ringSize = 4096 // frames; as the real port's, claims and the rest have one each
)

// port is a synchecker.Port at an interface in memory.
type port struct {
	proc   *memnet.Process
	i      *memnet.Interface
	filter synchecker.Filter
	mode   atomic.Int32
	lost   atomic.Uint64

	mu     sync.Mutex
	cond   sync.Cond
	claims []synchecker.Frame // UDP, and TCP with data
	plain  []synchecker.Frame // other SYNs, and FINs
	closed bool
}

func newPort(proc *memnet.Process, i *memnet.Interface, f synchecker.Filter) *port {
	p := &port{proc: proc, i: i, filter: f}
	p.cond.L = &p.mu
	return p
}

// see takes in a packet that the checker could want; it judges more closely itself.
func (p *port) see(head []byte) {
	mode := synchecker.Mode(p.mode.Load())
	if mode == synchecker.Off {
		return
	}
	proto, s := transport(head)
	if len(s) < 4 || binary.BigEndian.Uint16(s[2:]) != p.filter.LinkPort {
		return
	}
	claim := proto == protoUDP
	if proto == protoTCP && len(s) > 13 {
		claim = len(s) > int(s[12]>>4)*4
		if s[13]&flagRST != 0 || !claim && s[13]&(flagSYN|flagFIN) == 0 {
			return
		}
	}
	if mode == synchecker.Dark && !claim {
		return
	}
	p.put(claim, append(ether(head), head...))
}

func (p *port) put(claim bool, frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ring := &p.plain
	if claim {
		ring = &p.claims
	}
	switch {
	case p.closed:
	case len(*ring) >= ringSize:
		p.lost.Add(1)
	default:
		*ring = append(*ring, synchecker.Frame{Data: frame})
		p.cond.Signal()
	}
}

// ether is an Ethernet header of nobody for nobody: there is none in memory.
func ether(packet []byte) []byte {
	b := make([]byte, etherLen, etherLen+memnet.HeadSize)
	kind := uint16(0x0800)
	if packet[0]>>4 == 6 {
		kind = 0x86dd
	}
	binary.BigEndian.PutUint16(b[12:], kind)
	return b
}

func (p *port) Read(buf []synchecker.Frame) (int, error) {
	p.proc.Yield()
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.claims)+len(p.plain) == 0 && !p.closed {
		p.cond.Wait()
	}
	if p.closed {
		return 0, net.ErrClosed
	}
	n := copy(buf[:max(1, len(buf)*3/4)], p.claims)
	p.claims = p.claims[n:]
	k := copy(buf[n:], p.plain)
	p.plain = p.plain[k:]
	return n + k, nil
}

func (p *port) Write(frames [][]byte) (int, error) {
	p.proc.Yield()
	if p.over() {
		return 0, net.ErrClosed
	}
	for _, f := range frames {
		p.i.Send(f[etherLen:])
	}
	return len(frames), nil
}

func (p *port) Arm(m synchecker.Mode) error {
	if p.over() {
		return net.ErrClosed
	}
	p.mode.Store(int32(m))
	return nil
}

func (p *port) Lost() uint64 { return p.lost.Load() }

func (p *port) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

func (p *port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.mode.Store(int32(synchecker.Off))
	p.cond.Broadcast()
	return nil
}
