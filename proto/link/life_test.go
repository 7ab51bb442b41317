// Not with the race detector: with it Go 1.26's runtime itself has crashed in these bubbles, which begin thousands of timers.

//go:build !race

package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/session"
)

// line carries bytes both ways with a delay, and can be cut so that both ends are told, or go silent so that neither is.
type line struct {
	near, far net.Conn
	cut       chan struct{}
	silent    chan struct{}
}

func newLine(r *roads, delay time.Duration) *line {
	near, a := net.Pipe()
	b, far := net.Pipe()
	l := &line{near: near, far: far, cut: make(chan struct{}), silent: make(chan struct{})}
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		queue := make(chan flying, 1024)
		r.wg.Go(func() { l.take(way[0], queue, delay) })
		r.wg.Go(func() { l.give(way[1], queue) })
	}
	return l
}

type flying struct {
	at time.Time
	b  []byte
}

func (l *line) take(from net.Conn, queue chan flying, delay time.Duration) {
	defer close(queue)
	for {
		b := make([]byte, 20_000)
		n, err := from.Read(b)
		select {
		case <-l.cut:
			return
		case <-l.silent:
			n = 0
		default:
		}
		if n > 0 {
			queue <- flying{time.Now().Add(delay), b[:n]}
		}
		if err != nil {
			return
		}
	}
}

func (l *line) give(to net.Conn, queue chan flying) {
	defer to.Close()
	for f := range queue {
		select {
		case <-time.After(time.Until(f.at)):
		case <-l.cut:
			return
		}
		select {
		case <-l.silent:
			continue
		default:
		}
		if _, err := to.Write(f.b); err != nil {
			for range queue { // the reader of the other end must not wait for us
			}
			return
		}
	}
}

// end closes the line from outside.
func (l *line) end() {
	select {
	case <-l.cut:
	default:
		close(l.cut)
	}
	l.near.Close()
	l.far.Close()
}

// life is an agent that does to its links what happens in a bad year.
type life struct {
	*roads
	rnd   *rand.Rand
	lines map[*session.Link]*line
}

func (f *life) carry(share *session.Link) {
	l := newLine(f.roads, time.Duration(f.rnd.IntN(30))*time.Millisecond)
	f.lines[share] = l
	f.wg.Go(func() { Pump(context.Background(), l.near, share) })
	f.wg.Go(func() { f.serve(&road{refused: make(chan proto.ResumeCode, 1)}, l.far) })
}

// any is a line that is up, and its link.
func (f *life) any() (*session.Link, *line) {
	for share, l := range f.lines {
		if share.Err() != nil {
			l.end()
			delete(f.lines, share)
			continue
		}
		return share, l
	}
	return nil, nil
}

// step does one thing.
func (f *life) step() {
	share, l := f.any()
	switch what := f.rnd.IntN(11); {
	case share == nil, f.agent.Links() == 0, what < 2:
		f.carry(f.agent.Resume())
	case what < 4:
		l.end()
	case what < 5:
		select {
		case <-l.silent:
		default:
			close(l.silent)
		}
	case what < 7:
		f.carry(f.agent.Attach())
	case what < 8:
		share.Resume() // whichever it is
	case what < 9:
		share.Warm(f.rnd.IntN(100_000), f.rnd.IntN(100_000))
	default: // the owner closes what a newer one has replaced
		for share, l := range f.lines {
			select {
			case <-share.Confirmed():
				if f.rnd.IntN(3) == 0 && len(f.lines) > 1 {
					l.end()
				}
			default:
			}
		}
	}
}

// TestLife does random things to the links of a session while streams come and go: every byte arrives, in order, every end
// is the right one, and nothing is left behind (F16, F17, F20, F21, F24).
func TestLife(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoads(t, session.Config{Window: 16 << 10, PeerWindow: 16 << 10, MaxWindow: 64 << 10})
				f := &life{roads: r, rnd: rand.New(rand.NewPCG(seed, 3)), lines: make(map[*session.Link]*line)}
				first := r.agent.Ask()
				f.carry(first)
				<-first.Confirmed()
				var wg sync.WaitGroup
				for i := range 6 {
					wg.Go(func() { f.use(t, seed, i) })
				}
				done := make(chan struct{})
				go func() { wg.Wait(); close(done) }()
				for over := false; !over; {
					select {
					case <-done:
						over = true
					case <-time.After(time.Duration(f.rnd.IntN(80)) * time.Millisecond):
						f.step()
					}
				}
				t.Logf("epoch %d", r.agent.Epoch())
				last := r.agent.Resume()
				f.carry(last)
				time.Sleep(time.Minute)
				if n, m := r.agent.Streams(), r.anchor.Streams(); n+m != 0 {
					t.Errorf("%d and %d streams left", n, m)
				}
				if n, m := r.agent.Held(), r.anchor.Held(); n+m != 0 {
					t.Errorf("%d and %d bytes left", n, m)
				}
				r.agent.Close(nil)
				r.anchor.Close(nil)
				for _, l := range f.lines {
					l.end()
				}
				r.wg.Wait()
			})
		})
	}
}

// use is an application that opens connections one after the other: transfers, a reset after last words, an early goodbye.
func (f *life) use(t *testing.T, seed uint64, i int) {
	for n := range 4 {
		a, err := f.agent.Open(context.Background(), "web")
		if err != nil {
			t.Errorf("open: %v", err)
			return
		}
		var b *session.Stream
		for b == nil { // each of us waits for its own
			c := <-f.accepted
			if c.ID() == a.ID() {
				b = c
			} else {
				f.accepted <- c
				time.Sleep(time.Millisecond)
			}
		}
		switch n % 4 {
		case 0, 2:
			var wg sync.WaitGroup
			wg.Go(func() { transfer(t, a, b, 400_000, seed+uint64(i)) })
			wg.Go(func() { transfer(t, b, a, 500_000, seed+uint64(i)+99) })
			wg.Wait()
			a.Close()
			b.Close()
		case 1:
			want := make([]byte, 10_000)
			go func() { a.Write(want); a.Abort() }()
			got, err := io.ReadAll(b)
			if len(got) != len(want) || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("last words: %d bytes, %v", len(got), err)
			}
			b.Close()
		case 3:
			go func() { b.Write([]byte("bye")); b.Close() }()
			got, err := io.ReadAll(a)
			if string(got) != "bye" || err != nil {
				t.Errorf("goodbye: %q, %v", got, err)
			}
			a.Close()
		}
	}
}
