package memnet

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// numbered is a packet that a test knows again.
func numbered(from, n int) []byte {
	b := make([]byte, 28)
	b[0], b[1] = 0x45, byte(from)
	binary.BigEndian.PutUint16(b[2:], 28)
	binary.BigEndian.PutUint32(b[20:], uint32(n))
	return b
}

// TestSchedulerLosesNothing: packets of many senders that are due together, at once or later, all arrive, none before its
// time, and each sender's as they were sent.
func TestSchedulerLosesNothing(t *testing.T) {
	const senders, packets = 8, 2000
	s := newScheduler()
	defer s.stop()
	var mu sync.Mutex
	got, due := [senders][]int{}, [senders][packets]time.Time{}
	all := make(chan struct{})
	left := senders * packets
	to := &Interface{}
	to.SetTap(Tap{In: func(head []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		from, n := int(head[1]), int(binary.BigEndian.Uint32(head[20:]))
		got[from] = append(got[from], n)
		if early := time.Until(due[from][n]); early > 0 {
			t.Errorf("packet %d of %d came %v too early", n, from, early)
		}
		if left--; left == 0 {
			close(all)
		}
		return false
	}})
	var wg sync.WaitGroup
	for from := range senders {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(from), 1))
			at := time.Now()
			for n := range packets {
				if now := time.Now(); at.Before(now) {
					at = now
				}
				if r.IntN(3) == 0 { // else together with the one before
					at = at.Add(time.Duration(r.IntN(300)) * time.Microsecond)
				}
				mu.Lock()
				due[from][n] = at
				mu.Unlock()
				s.add(at, to, packetOf(numbered(from, n)))
				if r.IntN(100) == 0 {
					time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond) // the scheduler goes to sleep
				}
			}
		})
	}
	wg.Wait()
	select {
	case <-all:
	case <-time.After(20 * time.Second):
		mu.Lock()
		defer mu.Unlock()
		t.Fatalf("%d packets have not arrived", left)
	}
	for from := range got {
		for i, n := range got[from] {
			if i != n {
				t.Fatalf("packet %d of %d came as number %d", n, from, i)
			}
		}
	}
}

// TestStoppedSchedulerKeepsNoPacket that is on its way, or comes later.
func TestStoppedSchedulerKeepsNoPacket(t *testing.T) {
	s := newScheduler()
	to := &Interface{}
	to.SetTap(Tap{In: func([]byte) bool { return false }})
	soon, later, after := packetOf(numbered(0, 0)), packetOf(numbered(0, 1)), packetOf(numbered(0, 2))
	s.add(time.Now(), to, soon)
	s.add(time.Now().Add(time.Hour), to, later)
	s.stop()
	s.stop()
	s.add(time.Now(), to, after)
	for i, p := range []interface{ ReadRefs() int64 }{soon, later, after} {
		if n := p.ReadRefs(); n != 0 {
			t.Errorf("packet %d has %d references left", i, n)
		}
	}
}
