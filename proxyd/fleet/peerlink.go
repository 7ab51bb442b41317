package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"migrationsensor/proto"
)

// peerLink is one TLS connection with a peer. One goroutine reads it, one writes; a message with a
// stream number asks, and its answer has the same number.
type peerLink struct {
	node proto.FleetNode
	conn *tls.Conn
	key  relayKeyOf    // of what is relayed from one end to the other
	out  chan []byte   // any goroutine sends; the writer takes; when full a message is refused
	done chan struct{} // closed by close

	mu      sync.Mutex
	err     error
	next    uint32
	pending map[uint32]chan proto.Message // 1-buffered; the reader sends at most once
}

var (
	errQueue = errors.New("the peer does not read: send queue full")
	errLink  = errors.New("the peer link ended")
)

func newPeerLink(node proto.FleetNode, conn *tls.Conn) *peerLink {
	return &peerLink{
		node: node, conn: conn,
		out: make(chan []byte, sendQueue), done: make(chan struct{}), pending: map[uint32]chan proto.Message{},
	}
}

// close is idempotent; the first error stays.
func (l *peerLink) close(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	close(l.done)
	l.conn.NetConn().Close() // not tls.Conn.Close: it waits for a writer that may be stuck
}

// enqueue reports whether the message will be sent unless the link ends.
func (l *peerLink) enqueue(b []byte) bool {
	select {
	case l.out <- b:
		return true
	default:
		return false
	}
}

// request sends m and waits for the answer.
func (l *peerLink) request(ctx context.Context, m proto.Message) (proto.Message, error) {
	answer := make(chan proto.Message, 1)
	l.mu.Lock()
	if l.err != nil || len(l.pending) >= 1<<16 {
		l.mu.Unlock()
		return nil, errors.Join(errLink, l.err)
	}
	l.next++
	if l.next == 0 { // 0 is a message without an answer
		l.next++
	}
	id := l.next
	l.pending[id] = answer
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.pending, id)
	}()
	if !l.enqueue(proto.AppendMessage(nil, m, id)) {
		return nil, errQueue
	}
	select {
	case a := <-answer:
		return a, nil
	case <-l.done:
		return nil, errLink
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// deliver gives an answer to whoever waits for it. One that nobody waits for came too late.
func (l *peerLink) deliver(id uint32, m proto.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.pending[id]; c != nil {
		delete(l.pending, id)
		c <- m
	}
}

// write is the link's writer.
func (l *peerLink) write() {
	for {
		select {
		case b := <-l.out:
			if err := l.conn.SetWriteDeadline(time.Now().Add(silence)); err != nil {
				l.close(err)
				return
			}
			if _, err := l.conn.Write(b); err != nil {
				l.close(err)
				return
			}
		case <-l.done:
			return
		}
	}
}

// read is the link's reader: handle sees every message that is no answer.
func (l *peerLink) read(handle func(l *peerLink, id uint32, m proto.Message) error) error {
	r := proto.NewReader(deadlineReader{l.conn}, maxMessage)
	for {
		m, id, err := r.Read()
		if err != nil {
			return err
		}
		switch m.(type) {
		case *proto.UserInfoOK, *proto.RatifyOK, *proto.Busy, *proto.SignOK, *proto.RenewOK, *proto.EnrolFail:
			l.deliver(id, m)
			continue
		}
		if err := handle(l, id, m); err != nil {
			return fmt.Errorf("%T: %w", m, err)
		}
	}
}

// deadlineReader ends a link that is silent: heartbeats come each second.
type deadlineReader struct{ net.Conn }

func (d deadlineReader) Read(b []byte) (int, error) {
	if err := d.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return d.Conn.Read(b)
}
