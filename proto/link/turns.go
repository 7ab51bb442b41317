package link

import (
	"container/list"
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"time"
)

// Bounds of handshakes that compute (ours).
const (
	turnsEach = 2               // for each processor, so that none waits for another's read
	turnWait  = 2 * time.Second // for the first turn: then there are too many, and the agent is told to come again
	turnsMax  = 1 << 13         // that wait
)

// errNoTurn is a handshake that was not begun: too many were before it.
var errNoTurn = errors.New("too many handshakes at once")

// turns have TLS handshakes compute a few at a time, first come first served. When thousands come at once and all
// share the processors, none is done before all are: each is late, its agent dials again, and that is one more. In turn,
// half of them are done in half of the time. Who has begun goes before those who have not.
type turns struct {
	max int

	mu           sync.Mutex // guards what follows
	busy         int
	begun, fresh list.List // of chan struct{}, closed when the turn has come
}

func newTurns() *turns { return &turns{max: turnsEach * runtime.GOMAXPROCS(0)} }

// take waits for a turn; give has to follow. A false one came too late, or ctx is done.
func (t *turns) take(ctx context.Context, begun bool) bool {
	t.mu.Lock()
	if t.busy < t.max {
		t.busy++
		t.mu.Unlock()
		return true
	}
	queue := &t.fresh
	if begun {
		queue = &t.begun
	} else if queue.Len() >= turnsMax {
		t.mu.Unlock()
		return false
	}
	turn := make(chan struct{})
	e := queue.PushBack(turn)
	t.mu.Unlock()
	var late <-chan time.Time // who has begun has the handshake's own limit
	if !begun {
		timer := time.NewTimer(turnWait)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-turn:
		return true
	case <-late:
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-turn: // it came at the same time
		return true
	default:
		queue.Remove(e)
		return false
	}
}

// give passes the turn on.
func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, queue := range []*list.List{&t.begun, &t.fresh} {
		if e := queue.Front(); e != nil {
			close(queue.Remove(e).(chan struct{}))
			return
		}
	}
	t.busy--
}

// inTurn is a connection under a server's TLS that lets its handshake compute only when its turn has come, and others
// while it waits for the network. After end it is the connection and no more. It is the handshake's goroutine's.
type inTurn struct {
	net.Conn
	turns *turns
	ctx   context.Context

	answered          func() // called when the first answer goes out, or none will
	begun, held, over bool
}

func (c *inTurn) Read(b []byte) (int, error) {
	if c.over {
		return c.Conn.Read(b)
	}
	c.give()
	n, err := c.Conn.Read(b)
	if err != nil {
		return n, err
	}
	if !c.turns.take(c.ctx, c.begun) {
		return 0, errNoTurn
	}
	c.begun, c.held = true, true
	return n, nil
}

// Write ends a turn: a peer that does not read is nobody else's loss. What is computed next follows a Read.
func (c *inTurn) Write(b []byte) (int, error) {
	if !c.over {
		c.give()
		c.answered()
	}
	return c.Conn.Write(b)
}

func (c *inTurn) give() {
	if c.held {
		c.held = false
		c.turns.give()
	}
}

// end is called when the handshake has ended, well or not.
func (c *inTurn) end() {
	c.give()
	c.answered()
	c.over = true
}
