package session

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"migrationsensor/proto"
)

// delayed carries frames to the other session half a round trip later.
type delayed struct {
	at time.Time
	b  []byte
}

// delay pumps from one session to the other over a link of unlimited rate.
func delay(from, to *Link, half time.Duration) {
	line := make(chan delayed, 1<<16)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for d := range line {
			time.Sleep(time.Until(d.at))
			for b := d.b; len(b) > 0; {
				h, _ := proto.ParseHeader(b)
				n := proto.HeaderLen + int(h.Length)
				if to.Handle(h, b[proto.HeaderLen:n], time.Now()) != nil {
					break
				}
				b = b[n:]
			}
		}
	})
	defer close(line)
	for from.Err() == nil {
		next := from.Advance(time.Now())
		if b := from.Next(make([]byte, 0, proto.HeaderLen+proto.MaxPayload)); len(b) > 0 {
			line <- delayed{time.Now().Add(half), b}
			continue
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-from.Ready():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// TestCreditIsNotInTheWay: on a link of 15 ms a page of 760 KB waits for credit less than a plain TCP
// connection waits for its own slow start (ten segments first, doubled each round trip: six of them).
func TestCreditIsNotInTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rtt, size = 15 * time.Millisecond, 760 << 10
		streams := make(chan *Stream, 1)
		agent := New(Config{})
		anchor := New(Config{Server: true, Accept: func(st *Stream, _ string) { st.AcceptOK(); streams <- st }})
		var wg sync.WaitGroup
		defer wg.Wait()
		near, far := liveLink(agent), liveLink(anchor)
		wg.Go(func() { delay(near, far, rtt/2) })
		wg.Go(func() { delay(far, near, rtt/2) })
		start := time.Now()
		st, err := agent.Open(t.Context(), "web")
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != rtt {
			t.Errorf("opening took %v, want one round trip", took)
		}
		start = time.Now()
		go func() {
			origin := <-streams
			origin.Read(make([]byte, 100))
			origin.Write(make([]byte, size))
			origin.Close()
		}()
		st.Write([]byte("GET /"))
		if n, err := io.Copy(io.Discard, st); n != size || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if took := time.Since(start); took > 3*rtt {
			t.Errorf("%d bytes took %v, want at most three round trips of %v", size, took, rtt)
		}
		st.Close()
		agent.Close(nil)
		anchor.Close(nil)
	})
}
