package netstack

import (
	"net"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

func (c *conn) CloseWrite() error {
	if c.ending.Load() {
		return c.opError("close", net.ErrClosed)
	}
	if terr := c.ep.Shutdown(tcpip.ShutdownWrite); terr != nil {
		return c.opError("close", c.fail(terr))
	}
	return nil
}

// Close ends the connection as close(2) does: a FIN after what was written, a reset if the application's
// bytes were left unread. It does not wait for the application.
func (c *conn) Close() error {
	if c.ending.Swap(true) {
		return nil
	}
	if c.unread() || c.ep.Shutdown(tcpip.ShutdownWrite) != nil {
		c.release()
		return nil
	}
	close(c.done)
	c.owner.background(c.linger)
	return nil
}

// linger keeps the endpoint until both sides have ended: closing it at once can lose the FIN.
func (c *conn) linger() {
	t := time.NewTimer(lingerTimeout)
	defer t.Stop()
	entry, ended := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	for c.ep.Readiness(waiter.EventHUp)&waiter.EventHUp == 0 && !c.unread() {
		select {
		case <-ended:
		case <-t.C:
			c.release()
			return
		}
	}
	c.release()
}

// unread reports bytes that nobody will read any more.
func (c *conn) unread() bool {
	var b [1]byte
	w := tcpip.SliceWriter(b[:])
	res, _ := c.ep.Read(&w, tcpip.ReadOptions{Peek: true})
	return res.Count > 0
}

// Abort sends a reset and ends the connection.
func (c *conn) Abort() {
	if c.ending.Swap(true) {
		return
	}
	c.ep.Abort()
	c.release()
}

// kill is the stack's abort: blocked calls see ECONNABORTED, not their own Close.
func (c *conn) kill() {
	c.ep.Abort()
	c.owner.forget(c)
}

// release closes the endpoint (with a reset if bytes are unread) and leaves the registry.
func (c *conn) release() {
	select {
	case <-c.done:
	default:
		close(c.done)
	}
	c.ep.Close()
	c.wq.EventUnregister(&c.rd.entry)
	c.wq.EventUnregister(&c.wr.entry)
	c.rd.deadline.set(time.Time{})
	c.wr.deadline.set(time.Time{})
	c.owner.forget(c)
}

// background runs what a connection still has to do after Close; stop waits for it.
func (s *Stack) background(f func()) {
	s.mu.Lock()
	late := s.closing
	if !late {
		s.lingers.Add(1)
	}
	s.mu.Unlock()
	if late {
		f()
		return
	}
	go func() {
		defer s.lingers.Done()
		f()
	}()
}
