package link

import (
	"net"
	"testing"
	"time"
)

func TestUnreadAsksTheKernel(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	link := &Link{raw: near}
	if link.Unread() {
		t.Error("nothing was said, and something is unread")
	}
	if _, err := far.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !link.Unread(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a byte lies in the socket, and the kernel does not say so")
		}
	}
	if _, err := near.Read(make([]byte, 1)); err != nil || link.Unread() {
		t.Errorf("read: %v, and something is still unread", err)
	}
}
