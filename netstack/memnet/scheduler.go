package memnet

import (
	"container/heap"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// delivery is a packet on its way.
type delivery struct {
	due time.Time
	seq uint64 // packets that are due together arrive as they were sent
	to  *Interface
	pkt *stack.PacketBuffer
}

type deliveries []delivery

func (q deliveries) Len() int { return len(q) }
func (q deliveries) Less(i, j int) bool {
	if q[i].due.Equal(q[j].due) {
		return q[i].seq < q[j].seq
	}
	return q[i].due.Before(q[j].due)
}
func (q deliveries) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *deliveries) Push(x any)   { *q = append(*q, x.(delivery)) }
func (q *deliveries) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = delivery{}
	*q = old[:len(old)-1]
	return last
}

// scheduler delivers packets when they are due, all by one goroutine.
type scheduler struct {
	wake chan struct{} // 1-buffered: the first of the queue has changed
	quit chan struct{} // closed by stop
	wg   sync.WaitGroup

	mu    sync.Mutex
	queue deliveries
	seq   uint64
	done  bool
}

func newScheduler() *scheduler {
	s := &scheduler{wake: make(chan struct{}, 1), quit: make(chan struct{})}
	s.wg.Go(s.run)
	return s
}

// stop drops what is on its way.
func (s *scheduler) stop() {
	s.mu.Lock()
	again := s.done
	s.done = true
	for _, d := range s.queue {
		d.pkt.DecRef()
	}
	s.queue = nil
	s.mu.Unlock()
	if !again {
		close(s.quit)
	}
	s.wg.Wait()
}

// add takes over one reference to the packet.
func (s *scheduler) add(due time.Time, to *Interface, pkt *stack.PacketBuffer) {
	s.mu.Lock()
	if s.done {
		s.mu.Unlock()
		pkt.DecRef()
		return
	}
	s.seq++
	heap.Push(&s.queue, delivery{due, s.seq, to, pkt})
	first := s.queue[0].seq == s.seq
	s.mu.Unlock()
	if !first {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take moves what is due to batch, and says how long until the next is.
func (s *scheduler) take(batch []delivery, most int) ([]delivery, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for len(s.queue) > 0 && !s.queue[0].due.After(now) && len(batch) < most {
		batch = append(batch, heap.Pop(&s.queue).(delivery))
	}
	if len(s.queue) == 0 {
		return batch, time.Hour
	}
	return batch, s.queue[0].due.Sub(now)
}

func (s *scheduler) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var batch []delivery
	for {
		var next time.Duration
		batch, next = s.take(batch[:0], 256)
		for i, d := range batch {
			d.to.deliver(d.pkt)
			batch[i] = delivery{}
		}
		if len(batch) > 0 {
			continue
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.quit:
			return
		}
	}
}
