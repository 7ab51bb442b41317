package app

import (
	"io"
	"net"
	"strings"
	"testing"
)

func served(t *testing.T) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go ServeTransfers(l)
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestTransferBothWays(t *testing.T) {
	p := &Progress{}
	r, err := Transfer(t.Context(), served(t), 3<<20+5, 7, p)
	if err != nil || r.Wrong != "" || r.Lost != 0 || p.Bytes() != 2*(3<<20+5) {
		t.Errorf("%+v, %d bytes, %v", r, p.Bytes(), err)
	}
}

// changed passes a connection on and changes one byte of one direction.
type changed struct {
	*net.TCPConn
	read, written int
	up            bool
}

func (c *changed) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b[:min(len(b), 1000)])
	if c.read += n; !c.up && c.read > 5000 && c.read-n <= 5000 {
		b[0]++
	}
	return n, err
}

func (c *changed) Write(b []byte) (int, error) {
	if c.written += len(b); c.up && c.written > 5000 && c.written-len(b) <= 5000 {
		b = append([]byte{b[0] + 1}, b[1:]...)
	}
	return c.TCPConn.Write(b)
}

func TestTransferSeesAChangedByte(t *testing.T) {
	for up, want := range map[bool]string{true: "went up", false: "came down"} {
		c := &changed{TCPConn: served(t).(*net.TCPConn), up: up}
		r, err := Transfer(t.Context(), c, 1<<20, 7, &Progress{})
		if err != nil || !strings.Contains(r.Wrong, want) {
			t.Errorf("up %v: %+v, %v, want %q", up, r, err, want)
		}
	}
}

func TestTransferThatIsCutOffHasLost(t *testing.T) {
	near, far := pair(t)
	go func() {
		io.ReadFull(far, make([]byte, transferHead+100))
		far.Write(make([]byte, 1000))
		far.Close()
	}()
	if r, err := Transfer(t.Context(), near, 4<<20, 7, &Progress{}); err == nil || r.Lost < 4<<20-1000 {
		t.Errorf("%+v, %v, want an error and what is missing", r, err)
	}
}
