package anchor

import (
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Shares of the memory budget (PROTOCOL, Timers and sizes), and what a stream costs before its windows (ours; a test
// holds it).
const (
	maxMemory  = 2 << 30
	streamCost = 8 << 10
)

// defaultMemory is a quarter of what there is.
func defaultMemory() int64 {
	return min(min(machineMemory(), debug.SetMemoryLimit(-1))/4, maxMemory)
}

// budget is the memory that all sessions share: windows when they are granted, what is kept or read ahead, and a fixed
// cost for each stream. Above half of it new streams get small windows and nothing grows; above nine tenths there are no
// new streams.
type budget struct {
	total    int64
	used     atomic.Int64
	detached atomic.Int64 // of this, by sessions without a link
}

// full reports whether there is no room for a new stream.
func (b *budget) full() bool { return b.used.Load() > b.total/10*9 }

// share is one session's part of the budget, and of what its agent may take of that; it is a session.Budget.
type share struct {
	budget *budget
	owner  *account

	mu       sync.Mutex // guards what follows
	used     int64
	detached bool
}

// Take takes n bytes if no more than half of the budget is taken then, and half of the agent's share.
func (s *share) Take(n int) bool {
	if s.budget.used.Load()+int64(n) > s.budget.total/2 || s.owner.used.Load()+int64(n) > s.owner.memory/2 {
		return false
	}
	s.Must(n)
	return true
}

// Must takes n bytes that a stream can't be without.
func (s *share) Must(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used += int64(n)
	s.budget.used.Add(int64(n))
	s.owner.used.Add(int64(n))
	if s.detached {
		s.budget.detached.Add(int64(n))
	}
}

// Give gives n bytes back.
func (s *share) Give(n int) { s.Must(-n) }

func (s *share) setDetached(now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.detached == now {
		return
	}
	s.detached = now
	if now {
		s.budget.detached.Add(s.used)
	} else {
		s.budget.detached.Add(-s.used)
	}
}
