package app

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// pair is a TCP connection on loopback.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// run runs a Paced of n messages against what the far end does.
func run(t *testing.T, n int, far func(net.Conn)) error {
	t.Helper()
	near, theirs := pair(t)
	go far(theirs)
	p, err := NewPaced(near)
	if err != nil {
		t.Fatal(err)
	}
	ticks := make(chan struct{}, n)
	for range n {
		ticks <- struct{}{}
	}
	close(ticks)
	return p.Run(context.Background(), ticks, 5*time.Second)
}

func TestPacedSeesWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		rule string
		far  func(net.Conn)
		want string // in the error; empty is none
	}{
		{"an echo", func(c net.Conn) { io.Copy(c, c); c.Close() }, ""},
		{"a byte is lost in the middle", func(c net.Conn) {
			b, _ := io.ReadAll(c)
			c.Write(append(b[:40:40], b[41:]...))
			c.Close()
		}, "byte 40 is"},
		{"a byte is changed", func(c net.Conn) {
			b, _ := io.ReadAll(c)
			b[70]++
			c.Write(b)
			c.Close()
		}, "byte 70 is"},
		{"the end is missing, after a clean end", func(c net.Conn) {
			b, _ := io.ReadAll(c)
			c.Write(b[:64])
			c.Close()
		}, "256 bytes of 320 are lost"},
		{"a reset", func(c net.Conn) {
			io.ReadFull(c, make([]byte, 10))
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}, "reset"},
	} {
		err := run(t, 10, c.far)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.rule, err, c.want)
		}
	}
}
