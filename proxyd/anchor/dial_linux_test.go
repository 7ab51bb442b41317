package anchor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// descriptors counts the open ones.
func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// socket is a bound TCP socket of loopback.
func socket(t *testing.T) (fd int, at netip.AddrPort) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
}

func TestBeginTellsTheTruth(t *testing.T) {
	l := listen(t)
	refused, nobody := socket(t) // bound, so nobody else listens there
	defer unix.Close(refused)
	before := descriptors(t)
	for _, tt := range []struct {
		rule string
		to   string
		want error
	}{
		{"an origin that listens", l.Addr().String(), nil},
		{"one that does not", nobody.String(), syscall.ECONNREFUSED},
	} {
		d, ok := Begin(tt.to)
		if !ok {
			t.Fatalf("%s: an address was left to Dial", tt.rule)
		}
		answered, err := d.Now()
		if !answered || !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v %v, want an answer and %v", tt.rule, answered, err, tt.want)
		}
		if err != nil {
			continue
		}
		c, err := d.Conn()
		if err != nil || c.RemoteAddr().String() != tt.to {
			t.Fatalf("%s: %v", tt.rule, err)
		}
		c.Close()
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors, before %d", n, before)
	}
}

func TestBeginLeavesNamesToDial(t *testing.T) {
	for _, to := range []string{"origin.example:80", "[fe80::1%lo]:80", "127.0.0.1", ""} {
		if _, ok := Begin(to); ok {
			t.Errorf("%q was not left to Dial", to)
		}
	}
}

// TestAnchorDoesNotMeetItself: a socket that chooses its own destination as its port connects to itself (RFC 9293,
// simultaneous open). The port is bound here so that it is sure to.
func TestAnchorDoesNotMeetItself(t *testing.T) {
	fd, at := socket(t)
	a4 := at.Addr().As4()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: a4, Port: int(at.Port())}); err != nil && err != unix.EINPROGRESS {
		t.Fatal(err)
	}
	c := &connecting{fd: fd, to: at}
	if answered, err := c.Now(); !answered || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v %v, want %v: nobody listens at %v", answered, err, syscall.ECONNREFUSED, at)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	fd, at := socket(t)
	defer unix.Close(fd)
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	var waiting Dialing
	for range 8 { // until nobody takes another one in
		d, _ := Begin(at.String())
		answered, err := d.Now()
		if err != nil {
			t.Fatal(err)
		}
		if !answered {
			waiting = d
			break
		}
		c, err := d.Conn()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if waiting == nil {
		t.Fatal("a full backlog takes in everybody")
	}
	before := descriptors(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if c, err := waiting.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || c != nil {
		t.Errorf("got %v %v, want the context's end", c, err)
	}
	if n := descriptors(t); n >= before {
		t.Errorf("%d descriptors, before %d: the socket is still open", n, before)
	}
}

func TestWaitGetsALateAnswer(t *testing.T) {
	l := listen(t)
	d, _ := Begin(l.Addr().String())
	c, err := d.Wait(t.Context()) // as if it had not answered at once
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	far.Write([]byte("x"))
	far.Close()
	c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("got %d %v", n, err)
	}
	if _, is := c.(*net.TCPConn); !is {
		t.Errorf("got a %T, want what half-closes and resets", c)
	}
}
