package link

import (
	"sync"

	"migrationsensor/proto"
)

// openingEach is how many of one agent's links count as opening: who begins links and leaves them so keeps few others out.
const openingEach = 4

// opening counts the links that are taken in and not answered yet: what stands before a newcomer.
type opening struct {
	mu  sync.Mutex // guards what follows
	n   int
	own map[proto.AgentID]int
}

// begin notes one; end has to be called once.
func (o *opening) begin(a proto.AgentID) (end func()) {
	o.add(a, 1)
	return sync.OnceFunc(func() { o.add(a, -1) })
}

func (o *opening) add(a proto.AgentID, d int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.own == nil {
		o.own = map[proto.AgentID]int{}
	}
	was := o.own[a]
	if o.own[a] += d; o.own[a] == 0 {
		delete(o.own, a)
	}
	o.n += min(was+d, openingEach) - min(was, openingEach)
}

// Opening is how many links wait for this node's or their anchor's first answer. It tells how much is to be done before a
// newcomer's turn, whatever this machine can do in a second.
func (a *Acceptor) Opening() int {
	a.opening.mu.Lock()
	defer a.opening.mu.Unlock()
	return a.opening.n
}
