package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// echo answers at P1's echo port and counts what it hears.
func echo(t *testing.T, w *World) (at netip.AddrPort, heard *atomic.Int64) {
	t.Helper()
	at, _ = P1.Port(EchoPort)
	heard = new(atomic.Int64)
	l, err := w.P1.Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(io.MultiWriter(c, counter{heard}), c)
			}()
		}
	}()
	return at, heard
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// said writes a byte and waits for it to come back.
func said(c net.Conn, wait time.Duration) error {
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

func TestSilenceIsOneWayOrBoth(t *testing.T) {
	w := newWorld(t, Config{RTT: 2 * time.Millisecond})
	at, heard := echo(t, w)
	for name, way := range map[string]Way{"both": Both, "toward": Toward, "from": From} {
		t.Run(name, func(t *testing.T) {
			c, err := w.Client.Dial(t.Context(), "tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := said(c, 5*time.Second); err != nil {
				t.Fatalf("before: %v", err)
			}
			undo, err := w.Silence(P1, way)
			if err != nil {
				t.Fatal(err)
			}
			before := heard.Load()
			if err := said(c, 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("through silence: %v, want nothing at all", err)
			}
			if got := heard.Load() > before; got != (way == From) {
				t.Errorf("P1 hears the client: %v", got)
			}
			if err := undo(); err != nil {
				t.Fatal(err)
			}
			if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Errorf("after it, TCP's own repetition: %v", err)
			}
		})
	}
}

func TestResetReachesTheFarEnd(t *testing.T) {
	w := newWorld(t, Config{RTT: 2 * time.Millisecond})
	at, _ := echo(t, w)
	c, err := w.Client.Dial(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := said(c, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if n, err := w.P1.ResetTCP(EchoPort + 1); err != nil || n != 0 {
		t.Fatalf("another port: %d connections, %v", n, err)
	}
	if n, err := w.P1.ResetTCP(EchoPort); err != nil || n != 1 {
		t.Fatalf("%d connections reset, %v, want 1", n, err)
	}
	if err := said(c, 5*time.Second); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

// TestNarrowLosesLongPacketsOnly holds that a connection comes about through the black hole and hangs on its first long segment.
func TestNarrowLosesLongPacketsOnly(t *testing.T) {
	w := newWorld(t, Config{RTT: 2 * time.Millisecond})
	at, _ := echo(t, w)
	undo, err := w.Narrow(w.P1, 1280)
	if err != nil {
		t.Fatal(err)
	}
	defer undo()
	c, err := w.Client.Dial(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := said(c, 5*time.Second); err != nil {
		t.Errorf("a short packet: %v", err)
	}
	if _, err := c.Write(make([]byte, 1400)); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(400 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 2000)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a long packet: %d bytes, %v, want a black hole", n, err)
	}
}

func TestCrowdMayHaveAnyAddress(t *testing.T) {
	w := newWorld(t, Config{RTT: 2 * time.Millisecond})
	at, _ := echo(t, w)
	ns, _, err := w.AddCrowd(2 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for _, src := range []string{"198.18.32.1", "198.18.40.77", "198.18.47.254"} {
		var c net.Conn
		err := ns.Block(func() (err error) {
			d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(src), 0))}
			c, err = d.DialContext(context.Background(), "tcp", at.String())
			return err
		})
		if err != nil {
			t.Fatalf("from %s: %v", src, err)
		}
		if err := said(c, 5*time.Second); err != nil {
			t.Errorf("from %s: %v", src, err)
		}
		c.Close()
	}
}

func TestRoamedClientIsReachedAtItsNewAddress(t *testing.T) {
	w := newWorld(t, Config{RTT: 2 * time.Millisecond})
	at, _ := echo(t, w)
	old, err := w.Client.Dial(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := w.Roam(Client, Roamed); err != nil {
		t.Fatal(err)
	}
	if err := said(old, 300*time.Millisecond); err == nil {
		t.Error("the old connection still works")
	}
	c, err := w.Client.Dial(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := said(c, 5*time.Second); err != nil || c.LocalAddr().(*net.TCPAddr).AddrPort().Addr() != Roamed.V4 {
		t.Errorf("from %s: %v", c.LocalAddr(), err)
	}
}
