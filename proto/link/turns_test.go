package link

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"migrationsensor/proto"
)

func TestTurnsAreFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &turns{max: 1}
		if !x.take(t.Context(), false) {
			t.Fatal("nobody is there, and no turn")
		}
		var order []string
		come := func(name string, begun bool) {
			go func() {
				if x.take(t.Context(), begun) {
					order = append(order, name)
				}
			}()
			synctest.Wait()
		}
		come("first", false)
		come("second", false)
		come("begun", true)
		for range 3 {
			x.give()
			synctest.Wait()
		}
		if want := []string{"begun", "first", "second"}; !slices.Equal(order, want) {
			t.Errorf("served %v, want %v: who has begun first, then in the order of coming", order, want)
		}
		if x.give(); x.busy != 0 {
			t.Errorf("%d turns are taken at the end", x.busy)
		}
	})
}

func TestTurnThatDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &turns{max: 1}
		x.take(t.Context(), false)
		start := time.Now()
		if x.take(t.Context(), false) || time.Since(start) != turnWait {
			t.Errorf("waited %v, want %v in vain", time.Since(start), turnWait)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start = time.Now()
		if x.take(ctx, true) || time.Since(start) != 5*time.Second {
			t.Errorf("one that has begun waited %v, want as long as its handshake may take", time.Since(start))
		}
		x.give()
		if !x.take(t.Context(), false) {
			t.Error("those that gave up left the turn to nobody")
		}
	})
}

// TestHandshakesInTurn has every turn of a proxy taken: a newcomer is told to come again, and then comes in.
func TestHandshakesInTurn(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	n := f.node(nil)
	n.init()
	for range n.turns.max {
		n.turns.take(t.Context(), false)
	}
	d := &Dialer{Creds: creds}
	_, err := d.Dial(t.Context(), n.target(id), proto.KindControl, n.id)
	if se := (*SealedError)(nil); !errors.As(err, &se) || se.Reply.Kind != proto.ReplyRetry || se.Reply.After <= 0 {
		t.Errorf("got %v, want RETRY", err)
	}
	if s := n.Stats(); s.NoTurn != 1 || s.TLSFailed != 0 || s.Sealed != 1 {
		t.Errorf("counted %d without a turn, %d failed, %d sealed; want 1, 0, 1", s.NoTurn, s.TLSFailed, s.Sealed)
	}
	for range n.turns.max {
		n.turns.give()
	}
	l, err := d.Dial(t.Context(), n.target(id), proto.KindControl, n.id)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ping(t, l)
	if n.turns.busy != 0 {
		t.Errorf("%d turns are taken when every handshake is done", n.turns.busy)
	}
}

// TestSlowHandshakesTakeNoTurn: clients that stop in the middle of theirs keep nobody out.
func TestSlowHandshakesTakeNoTurn(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	n := f.node(nil)
	n.init()
	for range 2 * n.turns.max {
		slow := &Dialer{Creds: creds, Timeout: patience, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			return deaf{c, t.Context().Done()}, err
		}}
		go slow.Dial(t.Context(), n.target(id), proto.KindControl, n.id)
	}
	until(t, "all have said hello", func() bool {
		n.pending.mu.Lock()
		defer n.pending.mu.Unlock()
		return n.Stats().Accepted >= uint64(2*n.turns.max) && len(n.pending.all) == 0
	})
	l, err := (&Dialer{Creds: creds}).Dial(t.Context(), n.target(id), proto.KindControl, n.id)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ping(t, l)
}

// deaf writes, and does not read.
type deaf struct {
	net.Conn
	done <-chan struct{}
}

func (d deaf) Read([]byte) (int, error) { <-d.done; return 0, net.ErrClosed }
