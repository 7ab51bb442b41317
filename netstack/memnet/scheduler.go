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

// scheduler delivers packets when they are due, all by one goroutine. Who sends holds the lock of a TCP endpoint, so add
// does next to nothing under the scheduler's own: whoever waited there would keep a gVisor processor spinning.
type scheduler struct {
	wake chan struct{} // 1-buffered: something is due before the goroutine would look
	quit chan struct{} // closed by stop
	wg   sync.WaitGroup

	mu    sync.Mutex // guards what follows
	inbox []delivery // as they were sent
	look  time.Time  // when the goroutine looks by itself
	seq   uint64
	done  bool

	queue deliveries // the goroutine's
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
	s.mu.Unlock()
	if again {
		s.wg.Wait()
		return
	}
	close(s.quit)
	s.wg.Wait()
	for _, d := range append(s.inbox, s.queue...) {
		d.pkt.DecRef()
	}
	s.inbox, s.queue = nil, nil
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
	s.inbox = append(s.inbox, delivery{due, s.seq, to, pkt})
	sooner := due.Before(s.look)
	if sooner {
		s.look = due
	}
	s.mu.Unlock()
	if !sooner {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// collect takes what was sent into the queue; spare is an empty inbox to go on with. It says until when there is nothing
// to do.
func (s *scheduler) collect(spare []delivery) (got []delivery, until time.Duration) {
	s.mu.Lock()
	got, s.inbox = s.inbox, spare
	s.mu.Unlock()
	for i, d := range got {
		heap.Push(&s.queue, d)
		got[i] = delivery{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	until = time.Hour
	if len(s.queue) > 0 {
		until = s.queue[0].due.Sub(now)
	}
	s.look = now.Add(until)
	if len(s.inbox) > 0 { // sent meanwhile: look again at once
		until = 0
	}
	return got[:0], until
}

// deliver delivers what is due, and reports whether anything was. It returns after a while: what was sent meanwhile may be
// due before.
func (s *scheduler) deliver() (any bool) {
	now := time.Now()
	for range 256 {
		if len(s.queue) == 0 || s.queue[0].due.After(now) {
			return any
		}
		d := heap.Pop(&s.queue).(delivery)
		d.to.deliver(d.pkt)
		any = true
	}
	return any
}

func (s *scheduler) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var spare []delivery
	for {
		var until time.Duration
		spare, until = s.collect(spare)
		if s.deliver() || until <= 0 {
			select {
			case <-s.quit:
				return
			default:
			}
			continue
		}
		timer.Reset(until)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.quit:
			return
		}
	}
}
