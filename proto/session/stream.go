package session

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"migrationsensor/proto"
)

// errReset is what both ends see of a stream that was given up.
var errReset error = syscall.ECONNRESET

type streamState int

const (
	opening   streamState = iota // OPEN is not answered
	open                         // bytes flow
	resetting                    // given up here: it stays until the other end knows, by an RST that answers ours
	failed                       // anchor: OPEN_FAIL was sent; as resetting
	over                         // removed
)

// minSend is how much a writer may leave in the send buffer beyond its credit.
const minSend = 64 << 10

// Stream is one application's connection. It is a net.Conn; CloseWrite is a half-close, Abort a reset.
// Close is as TCP's: what was written is still delivered, and more from the peer is answered by a reset.
type Stream struct {
	s       *Session
	id      uint32
	service string
	opened  chan struct{} // closed when OPEN is answered, or the stream is given up
	done    chan struct{} // closed when the stream is over

	first int // first window towards us

	// all below guarded by s.mu
	cond     *sync.Cond
	link     *Link // on which our direction is written; nil: it waits for one
	state    streamState
	openErr  *OpenError // the answer to OPEN that there is no connection
	err      error      // what ended it; nil while it lives
	accepted bool       // OPEN was answered with OPEN_OK

	// offsets, absolute: sendAcked ≤ sendNext ≤ sendAcked + len(send), sendNext ≤ sendLimit; a new link begins again
	// at sendAcked
	send      buffer
	sendAcked uint64
	sendNext  uint64
	sentMax   uint64 // the highest sendNext so far
	sendLimit uint64
	finQueued bool // the writer has ended
	finSent   bool // on this link
	finEver   bool // on any
	finAcked  bool
	rstQueued bool
	rstSent   bool // on this link
	rstUntil  time.Time

	// recvRead ≤ recvNext ≤ recvLimit
	recv       buffer
	recvRead   uint64
	recvNext   uint64
	recvLimit  uint64
	window     uint64
	grownAt    uint64 // recvRead when the window last grew
	ackedNext  uint64 // what the last ACK said
	ackedLimit uint64
	ackAt      time.Time // an ACK is due then; zero: none
	ackFin     bool      // the FIN's ACK has been sent
	finAt      int64     // the peer's final offset; −1: unknown
	readClosed bool
	closed     bool

	queued  bool // in link.queue
	inAcks  bool // in link.acks
	known   bool // anchor: the agent has shown that it knows the stream is open
	here    bool // the next ACK asks the other end to follow to this link
	starved bool // in s.starved

	readDeadline, writeDeadline deadline
}

func newStream(s *Session, id uint32, first int) *Stream {
	return &Stream{
		s: s, id: id, cond: sync.NewCond(&s.mu),
		opened: make(chan struct{}), done: make(chan struct{}), finAt: -1,
		first: first, window: uint64(first), recvLimit: uint64(first), ackedLimit: uint64(first),
		sendLimit: uint64(s.cfg.PeerWindow),
	}
}

// ID is the stream's number in its session.
func (st *Stream) ID() uint32 { return st.id }

// Service is the service that was asked for.
func (st *Stream) Service() string { return st.service }

// Done is closed when the stream is over in both directions, or was given up.
func (st *Stream) Done() <-chan struct{} { return st.done }

// Opened is closed when the OPEN has been answered, or the stream was given up.
func (st *Stream) Opened() <-chan struct{} { return st.opened }

// Answer is what came of the OPEN, once Opened is closed; nil: the origin has accepted.
func (st *Stream) Answer() error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	switch {
	case st.openErr != nil:
		return st.openErr
	case st.s.err != nil:
		return st.s.err
	case !st.accepted:
		return st.err
	}
	return nil
}

// sendEnd is the offset after the last byte written.
func (st *Stream) sendEnd() uint64 { return st.sendAcked + uint64(st.send.n) }

// AcceptOK answers the OPEN: the origin has accepted.
func (st *Stream) AcceptOK() {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.state != opening {
		return
	}
	if st.rstQueued {
		return // given up before it was answered
	}
	st.state = open
	st.openedLocked()
	st.answerLocked(&proto.OpenOK{Credit: uint32(st.first)})
	st.queueLocked() // what was written before
}

// answerLocked answers OPEN where the stream is written; where that is nowhere, the agent will ask again.
func (st *Stream) answerLocked(m proto.Message) {
	if l := st.link; l != nil {
		l.control = proto.AppendMessage(l.control, m, st.id)
		l.signal()
	}
}

// Fail answers the OPEN: there is no connection, and why.
func (st *Stream) Fail(code proto.OpenCode, text string) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.state != opening || st.rstQueued {
		return
	}
	st.openErr = &OpenError{code, text[:min(len(text), maxText)]}
	st.answerLocked(st.openErr.message())
	st.failLocked(errReset)
	st.buryLocked(failed)
}

// Read reads received bytes. After the peer's reset it gives what came before, then ECONNRESET; io.EOF
// only after the peer's end and all bytes before it.
func (st *Stream) Read(p []byte) (int, error) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	for {
		switch {
		case st.closed, st.rstQueued:
			return 0, net.ErrClosed
		case st.readDeadline.passed:
			return 0, os.ErrDeadlineExceeded
		case st.recv.n > 0:
			if len(p) == 0 {
				return 0, nil
			}
			n := st.recv.read(p)
			st.recvRead += uint64(n)
			st.grantLocked()
			st.maybeRemoveLocked()
			return n, nil
		case st.finAt >= 0 && st.recvRead == uint64(st.finAt):
			return 0, io.EOF // the end was whole, whatever became of the session after it
		case st.err != nil:
			return 0, st.err
		case len(p) == 0:
			return 0, nil
		}
		st.cond.Wait()
	}
}

// Write queues bytes; it blocks while neither credit nor a small buffer has room.
func (st *Stream) Write(p []byte) (total int, err error) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	for {
		switch {
		case st.closed:
			return total, net.ErrClosed
		case st.err != nil:
			return total, st.err
		case st.finQueued:
			return total, syscall.EPIPE
		case st.writeDeadline.passed:
			return total, os.ErrDeadlineExceeded
		case len(p) == 0:
			return total, nil
		}
		if n := st.takeLocked(min(st.roomLocked(), len(p))); n > 0 {
			st.send.write(p[:n])
			st.s.held += n
			total += n
			p = p[n:]
			st.queueLocked()
			continue
		}
		st.cond.Wait()
	}
}

// roomLocked is how much may be written now: within the peer's credit or a small buffer, within what one
// stream keeps however much credit there is, and within the session's share of memory. Where only the
// last is in the way, the stream is woken when it falls.
func (st *Stream) roomLocked() int {
	s := st.s
	ahead := max(st.sendLimit, st.sendAcked+minSend) - st.sendAcked
	room := int(min(ahead, uint64(max(s.cfg.MaxWindow, minSend)))) - st.send.n
	budget := max(s.cfg.MaxSession-s.held, tightWindow-st.send.n)
	if room > 0 && budget <= 0 && !st.starved {
		st.starved = true
		s.starved = append(s.starved, st)
	}
	return max(min(room, budget), 0)
}

// takeLocked charges n bytes to keep to the shared budget. Where that has not enough, the stream keeps no more than a small
// window: its own ACKs wake its writer.
func (st *Stream) takeLocked(n int) int {
	if n <= 0 || st.s.cfg.Budget.Take(n) {
		return n
	}
	n = max(min(n, tightWindow-st.send.n), 0)
	st.s.cfg.Budget.Must(n)
	return n
}

// dropSentLocked forgets the first n bytes of the send buffer.
func (st *Stream) dropSentLocked(n int) {
	s := st.s
	st.send.drop(n)
	s.held -= n
	s.cfg.Budget.Give(n)
	if len(s.starved) == 0 || s.held >= s.cfg.MaxSession {
		return
	}
	for i, w := range s.starved {
		w.starved = false
		w.cond.Broadcast()
		s.starved[i] = nil
	}
	s.starved = s.starved[:0]
}

// CloseWrite ends our direction after what was written; reading goes on.
func (st *Stream) CloseWrite() error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	switch {
	case st.closed:
		return net.ErrClosed
	case st.err != nil:
		return st.err
	}
	st.finLocked()
	return nil
}

func (st *Stream) finLocked() {
	if !st.finQueued {
		st.finQueued = true
		st.cond.Broadcast()
		st.queueLocked()
	}
}

// Close ends both directions; what was written is still delivered. Bytes that nobody read, or that come
// later, are answered by a reset.
func (st *Stream) Close() error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.closed {
		return net.ErrClosed
	}
	st.closed, st.readClosed = true, true
	st.readDeadline.stop()
	st.writeDeadline.stop()
	st.cond.Broadcast()
	if st.err != nil {
		return nil
	}
	if st.state == opening || st.recv.n > 0 {
		st.abortLocked()
		return nil
	}
	st.finLocked()
	st.maybeRemoveLocked()
	return nil
}

// Abort ends the stream with a reset, after the bytes that were written, which it waits for at most 5 s.
func (st *Stream) Abort() {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.abortLocked()
}

func (st *Stream) abortLocked() {
	if st.err != nil || st.rstQueued {
		return
	}
	st.rstQueued = true
	st.s.resets = append(st.s.resets, st)
	st.err = net.ErrClosed
	st.readClosed = true
	st.recv.reset()
	st.openedLocked()
	st.cond.Broadcast()
	st.queueLocked()
	if st.link != nil {
		st.link.signal()
	}
}

// openedLocked frees whoever waits for the answer to OPEN.
func (st *Stream) openedLocked() {
	select {
	case <-st.opened:
	default:
		st.accepted = st.state == open
		close(st.opened)
	}
}

// failLocked gives the stream up: err is what both directions see.
func (st *Stream) failLocked(err error) {
	if st.err == nil {
		st.err = err
	}
	st.openedLocked()
	st.dropSentLocked(st.send.n)
	st.cond.Broadcast()
}

// ackedLocked forgets what the peer has received.
func (st *Stream) ackedLocked(off uint64) {
	if off > st.sendAcked {
		st.dropSentLocked(int(off - st.sendAcked))
		st.sendAcked = off
	}
	st.sendNext = max(st.sendNext, off)
}

// maybeRemoveLocked forgets a stream that is over in both directions.
func (st *Stream) maybeRemoveLocked() {
	if st.state == open && st.finAcked && st.finAt >= 0 && (st.recvRead == uint64(st.finAt) || st.readClosed) && st.ackFin {
		st.removeLocked()
	}
}

// buryLocked ends the stream for its user. It stays known, with the bytes before its reset, until the other end has said
// that it knows, however many links that takes.
func (st *Stream) buryLocked(as streamState) {
	if st.state == resetting || st.state == failed || st.state == over {
		return
	}
	st.endLocked()
	st.state = as
	st.s.dead++
}

func (st *Stream) removeLocked() {
	switch st.state {
	case over:
		return
	case resetting, failed:
		st.s.dead--
	default:
		st.endLocked()
	}
	st.state = over
	st.dropSentLocked(st.send.n)
	if st.link != nil {
		st.link.streams--
		st.link = nil
	} else {
		st.s.orphans--
	}
	delete(st.s.streams, st.id)
}

// endLocked gives back what the stream was granted, and tells its user.
func (st *Stream) endLocked() {
	st.s.granted -= st.first
	st.s.grown -= int(st.window) - st.first
	st.s.cfg.Budget.Give(int(st.window))
	close(st.done)
}

// LocalAddr and RemoteAddr name the stream; the anchor alone knows the origin's address.
func (st *Stream) LocalAddr() net.Addr  { return addr{"local"} }
func (st *Stream) RemoteAddr() net.Addr { return addr{st.service} }

type addr struct{ name string }

func (addr) Network() string  { return "migrationsensor" }
func (a addr) String() string { return a.name }
