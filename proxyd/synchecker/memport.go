package synchecker

import (
	"net"
	"slices"
	"sync"
)

// MemPort is a Port in memory, for tests and labs. It hands Inject's frames to the reader and keeps
// what is written. Off, it lets nothing in, as a real one; it filters no further.
type MemPort struct {
	mu     sync.Mutex
	cond   sync.Cond
	mode   Mode
	in     []Frame
	sent   [][]byte
	closed bool
}

// NewMemPort returns a port that is off.
func NewMemPort() *MemPort {
	p := &MemPort{}
	p.cond.L = &p.mu
	return p
}

// Inject queues a frame as if it had arrived.
func (p *MemPort) Inject(frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode != Off {
		p.in = append(p.in, Frame{Data: slices.Clone(frame)})
		p.cond.Broadcast()
	}
}

// Sent waits until n frames were written and returns all of them; fewer if the port is closed.
func (p *MemPort) Sent(n int) [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.sent) < n && !p.closed {
		p.cond.Wait()
	}
	return slices.Clone(p.sent)
}

// Mode is what Arm was last told.
func (p *MemPort) Mode() Mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

func (p *MemPort) Read(buf []Frame) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.in) == 0 && !p.closed {
		p.cond.Wait()
	}
	if p.closed {
		return 0, net.ErrClosed
	}
	n := copy(buf, p.in)
	p.in = p.in[n:]
	return n, nil
}

func (p *MemPort) Write(frames [][]byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, net.ErrClosed
	}
	for _, f := range frames {
		p.sent = append(p.sent, slices.Clone(f))
	}
	p.cond.Broadcast()
	return len(frames), nil
}

func (p *MemPort) Arm(m Mode) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.mode = m
	return nil
}

func (p *MemPort) Lost() uint64 { return 0 }

func (p *MemPort) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.cond.Broadcast()
	return nil
}
