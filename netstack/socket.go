package netstack

import (
	"sync/atomic"
	"time"
)

// gate holds the calls of a stopped process.
type gate struct{ shutp atomic.Pointer[chan struct{}] }

func (g *gate) shut() {
	c := make(chan struct{})
	g.shutp.CompareAndSwap(nil, &c)
}

func (g *gate) lift() {
	if c := g.shutp.Swap(nil); c != nil {
		close(*c)
	}
}

func (g *gate) wait() {
	for c := g.shutp.Load(); c != nil; c = g.shutp.Load() {
		<-*c
	}
}

// socket is a process's connection: a conn that stops with it.
type socket struct {
	Conn
	gate *gate
	hard atomic.Bool // SO_LINGER with time 0
}

// SetLinger with 0 makes Close send a reset; with other times nothing changes.
func (s *socket) SetLinger(sec int) error {
	s.hard.Store(sec == 0)
	return nil
}

func (s *socket) Read(b []byte) (int, error) {
	s.gate.wait()
	n, err := s.Conn.Read(b)
	s.gate.wait() // the process was stopped in the call
	return n, err
}

func (s *socket) Write(b []byte) (int, error) {
	s.gate.wait()
	n, err := s.Conn.Write(b)
	s.gate.wait()
	return n, err
}

func (s *socket) CloseWrite() error {
	s.gate.wait()
	return s.Conn.CloseWrite()
}

func (s *socket) Close() error {
	s.gate.wait()
	if s.hard.Load() {
		s.Conn.Abort()
		return nil
	}
	return s.Conn.Close()
}

func (s *socket) Abort() {
	s.gate.wait()
	s.Conn.Abort()
}

func (s *socket) SetDeadline(t time.Time) error {
	s.gate.wait()
	return s.Conn.SetDeadline(t)
}
