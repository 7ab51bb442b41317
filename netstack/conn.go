package netstack

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Conn is an application's TCP connection. Its errors are those of a kernel socket: errors.Is finds ECONNRESET,
// EPIPE, ECONNABORTED (the stack stopped), os.ErrDeadlineExceeded and net.ErrClosed. A Read ends with io.EOF
// only if the application sent a FIN.
type Conn interface {
	net.Conn

	// CloseWrite sends a FIN; reading goes on.
	CloseWrite() error

	// Abort sends a reset.
	Abort()
}

// lingerTimeout is how long Close waits for the application's end before it forgets the connection.
const lingerTimeout = 5 * time.Second

// owner keeps track of connections.
type owner interface {
	forget(*conn)
	background(func())
}

// conn is a Conn. It is not gonet's: that one's errors are strings and its Close looks like a clean EOF to a
// blocked Read.
type conn struct {
	ep            tcpip.Endpoint
	wq            *waiter.Queue
	owner         owner
	local, remote net.Addr

	rd, wr  direction
	done    chan struct{} // closed by the first Close or Abort
	ending  atomic.Bool
	failure atomic.Pointer[error] // the first hard error: gVisor reports it once, then a clean EOF

	reader tcpip.SliceWriter // owned by rd.mu; here so that Read does not allocate
	writer bytes.Reader      // owned by wr.mu
}

// direction is one half of a connection; mu admits one call at a time, as the kernel does.
type direction struct {
	mu       sync.Mutex
	deadline deadline
	entry    waiter.Entry
	ready    chan struct{} // one token: look again
}

func (d *direction) init(wq *waiter.Queue, mask waiter.EventMask) {
	d.deadline.init()
	d.entry, d.ready = waiter.NewChannelEntry(mask | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&d.entry)
}

func newConn(ep tcpip.Endpoint, wq *waiter.Queue, o owner) *conn {
	c := &conn{ep: ep, wq: wq, owner: o, done: make(chan struct{})}
	if a, err := ep.GetLocalAddress(); err == nil {
		c.local = net.TCPAddrFromAddrPort(addrPort(a.Addr, a.Port))
	}
	if a, err := ep.GetRemoteAddress(); err == nil {
		c.remote = net.TCPAddrFromAddrPort(addrPort(a.Addr, a.Port))
	}
	ep.SocketOptions().SetDelayOption(false)
	c.rd.init(wq, waiter.ReadableEvents)
	c.wr.init(wq, waiter.WritableEvents)
	return c
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) Read(b []byte) (int, error) {
	c.rd.mu.Lock()
	defer c.rd.mu.Unlock()
	for {
		if err := c.rd.usable(c.done); err != nil || len(b) == 0 {
			return 0, c.opError("read", err)
		}
		n, terr := c.readSome(b)
		if n > 0 {
			return n, nil
		}
		switch terr.(type) {
		case nil, *tcpip.ErrWouldBlock:
			c.rd.wait(c.done)
		case *tcpip.ErrClosedForReceive:
			if err := c.failure.Load(); err != nil {
				return 0, c.opError("read", *err)
			}
			if c.ending.Load() {
				return 0, c.opError("read", net.ErrClosed)
			}
			return 0, io.EOF
		default:
			return 0, c.opError("read", c.fail(terr))
		}
	}
}

func (c *conn) readSome(b []byte) (int, tcpip.Error) {
	c.reader = b
	res, terr := c.ep.Read(&c.reader, tcpip.ReadOptions{})
	c.reader = nil
	if res.Count > 0 {
		c.ep.ModerateRecvBuf(res.Count)
	}
	return res.Count, terr
}

func (c *conn) Write(b []byte) (n int, err error) {
	c.wr.mu.Lock()
	defer c.wr.mu.Unlock()
	defer c.writer.Reset(nil)
	for {
		if err := c.wr.usable(c.done); err != nil || n == len(b) {
			return n, c.opError("write", err)
		}
		c.writer.Reset(b[n:])
		k, terr := c.ep.Write(&c.writer, tcpip.WriteOptions{})
		n += int(k)
		switch terr.(type) {
		case nil:
			if n == len(b) {
				return n, nil
			}
		case *tcpip.ErrWouldBlock:
			c.wr.wait(c.done)
		default:
			return n, c.opError("write", c.fail(terr))
		}
	}
}

// usable says why a call must not go on: closed, or past its deadline.
func (d *direction) usable(done <-chan struct{}) error {
	select {
	case <-done:
		return net.ErrClosed
	default:
	}
	select {
	case <-d.deadline.passed():
		return os.ErrDeadlineExceeded
	default:
		return nil
	}
}

func (d *direction) wait(done <-chan struct{}) {
	select {
	case <-d.ready:
	case <-d.deadline.passed():
	case <-done:
	}
}

// fail remembers the first hard error and returns it for good. A Close that came between wins.
func (c *conn) fail(terr tcpip.Error) error {
	if c.ending.Load() {
		return net.ErrClosed
	}
	err := errnoOf(terr)
	if _, ours := terr.(*tcpip.ErrClosedForSend); !ours {
		c.failure.CompareAndSwap(nil, &err)
	}
	if first := c.failure.Load(); first != nil {
		return *first
	}
	return err
}

func (c *conn) SetDeadline(t time.Time) error {
	return errFirst(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error  { return c.setDeadline(&c.rd.deadline, t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.wr.deadline, t) }

func (c *conn) setDeadline(d *deadline, t time.Time) error {
	if c.ending.Load() {
		return c.opError("set", net.ErrClosed)
	}
	d.set(t)
	return nil
}

func errFirst(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
