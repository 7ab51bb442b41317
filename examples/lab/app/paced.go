package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Size is how many bytes Paced writes at once.
const Size = 32

// pattern is the byte at an offset of what Paced writes: a byte that is lost, doubled or out of place shows.
func pattern(offset int64) byte { return byte(offset ^ offset>>8 ^ offset>>16 ^ offset>>24) }

// conn is what Paced needs of a connection.
type conn interface {
	net.Conn
	CloseWrite() error
}

// Paced writes to an echo in a rhythm and checks what comes back.
type Paced struct {
	Trace

	conn       conn
	sent, back atomic.Int64
}

// NewPaced takes over a connection to an echo.
func NewPaced(c net.Conn) (*Paced, error) {
	half, ok := c.(conn)
	if !ok {
		return nil, fmt.Errorf("%T can't end one direction alone", c)
	}
	return &Paced{conn: half}, nil
}

// Run writes at each tick until ticks is closed or ctx is done, ends its direction and waits until all is back, limit at most.
// It returns what is wrong: nil means every byte that was sent came back, in order, and the far end's clean end after them.
func (p *Paced) Run(ctx context.Context, ticks <-chan struct{}, limit time.Duration) error {
	defer p.conn.Close()
	var reader sync.WaitGroup
	var readErr error
	reader.Go(func() { readErr = p.read() })
	writeErr := p.write(ctx, ticks)
	if writeErr == nil {
		writeErr = p.conn.CloseWrite()
	}
	err := errors.Join(writeErr, p.conn.SetReadDeadline(time.Now().Add(limit)))
	reader.Wait()
	if err = errors.Join(err, readErr); err != nil {
		return fmt.Errorf("after %d bytes of %d: %w", p.back.Load(), p.sent.Load(), err)
	}
	if lost := p.Lost(); lost != 0 {
		return fmt.Errorf("%d bytes of %d are lost", lost, p.sent.Load())
	}
	return nil
}

// Lost is how many bytes were sent and have not come back.
func (p *Paced) Lost() int64 { return p.sent.Load() - p.back.Load() }

// Sent is how many bytes were sent.
func (p *Paced) Sent() int64 { return p.sent.Load() }

func (p *Paced) write(ctx context.Context, ticks <-chan struct{}) error {
	b := make([]byte, Size)
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-ticks:
			if !ok {
				return nil
			}
		}
		begin := p.sent.Load()
		for i := range b {
			b[i] = pattern(begin + int64(i))
		}
		p.sent.Add(Size)
		if _, err := p.conn.Write(b); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
}

func (p *Paced) read() error {
	b := make([]byte, 4096)
	for {
		n, err := p.conn.Read(b)
		if n > 0 {
			p.Add(time.Now())
			begin := p.back.Load()
			for i, got := range b[:n] {
				if want := pattern(begin + int64(i)); got != want {
					return fmt.Errorf("byte %d is %#x, want %#x", begin+int64(i), got, want)
				}
			}
			p.back.Add(int64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
	}
}
