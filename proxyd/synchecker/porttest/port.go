// Package porttest has a synchecker.Port in memory.
package porttest

import (
	"net"
	"slices"
	"sync"

	"migrationsensor/proxyd/synchecker"
)

// Port hands Inject's frames to the reader and keeps what is written. Off, it lets nothing in, as a
// real one; it filters no further.
type Port struct {
	mu     sync.Mutex
	cond   sync.Cond
	mode   synchecker.Mode
	in     []synchecker.Frame
	sent   [][]byte
	closed bool
}

// New returns a port that is off.
func New() *Port {
	p := &Port{}
	p.cond.L = &p.mu
	return p
}

// Inject queues a frame as if it had arrived.
func (p *Port) Inject(frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode != synchecker.Off {
		p.in = append(p.in, synchecker.Frame{Data: slices.Clone(frame)})
		p.cond.Broadcast()
	}
}

// Sent waits until n frames were written and returns all of them; fewer if the port is closed.
func (p *Port) Sent(n int) [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.sent) < n && !p.closed {
		p.cond.Wait()
	}
	return slices.Clone(p.sent)
}

// Mode is what Arm was last told.
func (p *Port) Mode() synchecker.Mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

func (p *Port) Read(buf []synchecker.Frame) (int, error) {
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

func (p *Port) Write(frames [][]byte) (int, error) {
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

func (p *Port) Arm(m synchecker.Mode) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.mode = m
	return nil
}

func (p *Port) Lost() uint64 { return 0 }

func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.cond.Broadcast()
	return nil
}
