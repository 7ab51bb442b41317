package netstack_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"migrationsensor/netstack"
)

func TestConnIsANetConn(t *testing.T) {
	eachVersion(t, func(t *testing.T, to netip.AddrPort) {
		s := serve(t, netstack.Config{}, accept)
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			a, err := s.host.Dial(t.Context(), to)
			if err != nil {
				return nil, nil, nil, err
			}
			b := <-s.conns
			<-s.flows
			return a, b, func() { a.Abort(); b.Abort() }, nil
		})
	})
}

// fromEither runs f with the application's end first, then with the flow's end first.
func fromEither(t *testing.T, f func(t *testing.T, near, far netstack.Conn)) {
	s := serve(t, netstack.Config{}, accept)
	for name, swap := range map[string]bool{"application": false, "flow": true} {
		t.Run(name, func(t *testing.T) {
			near, far := s.connect(t, targets["IPv4"])
			if swap {
				near, far = far, near
			}
			for _, c := range []net.Conn{near, far} {
				if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
					t.Fatal(err)
				}
			}
			f(t, near, far)
		})
	}
}

func TestHalfCloseKeepsTheOtherDirection(t *testing.T) {
	fromEither(t, func(t *testing.T, near, far netstack.Conn) {
		mustWrite(t, near, "question")
		if err := near.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(far); string(got) != "question" || err != nil {
			t.Errorf("far end reads %q, %v; want the question and a clean EOF", got, err)
		}
		if _, err := near.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write after CloseWrite: got %v, want EPIPE", err)
		}
		mustWrite(t, far, "answer")
		if err := far.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(near); string(got) != "answer" || err != nil {
			t.Errorf("near end reads %q, %v; want the answer and a clean EOF", got, err)
		}
	})
}

func TestAbortIsAResetNeverAnEOF(t *testing.T) {
	fromEither(t, func(t *testing.T, near, far netstack.Conn) {
		mustWrite(t, near, "x")
		if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		near.Abort()
		for range 2 { // the second must not look like a clean end either
			if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("far end reads: got %v, want ECONNRESET", err)
			}
		}
		if _, err := far.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("far end writes: got %v, want ECONNRESET or EPIPE", err)
		}
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after own Abort: got %v, want net.ErrClosed", err)
		}
	})
}

func TestCloseWithUnreadBytesIsAReset(t *testing.T) {
	fromEither(t, func(t *testing.T, near, far netstack.Conn) {
		mustWrite(t, near, "a")
		if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, near, "lost")
		if err := far.Close(); err != nil { // the bytes are there or arrive while Close waits: both must be told
			t.Fatal(err)
		}
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
			t.Errorf("read: got %v, want ECONNRESET (or the FIN that came just before)", err)
		}
		if _, err := near.Read(make([]byte, 1)); err == nil {
			t.Error("second read: got nil, want an end")
		}
	})
}

func TestCloseFreesBlockedCalls(t *testing.T) {
	fromEither(t, func(t *testing.T, near, far netstack.Conn) {
		errs := make(chan error, 2)
		go func() {
			_, err := near.Read(make([]byte, 1))
			errs <- fmt.Errorf("read: %w", err)
		}()
		go func() {
			for { // until the far end's window and our buffer are full
				if _, err := near.Write(make([]byte, 1<<20)); err != nil {
					errs <- fmt.Errorf("write: %w", err)
					return
				}
			}
		}()
		time.AfterFunc(100*time.Millisecond, func() { _ = near.Close() }) // its error is always nil
		for range 2 {
			if err := receive(t, "end of a blocked call", errs); !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v, want net.ErrClosed", err)
			}
		}
		for name, err := range map[string]error{
			"SetDeadline": near.SetDeadline(time.Now()),
			"CloseWrite":  near.CloseWrite(),
		} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s after Close: got %v, want net.ErrClosed", name, err)
			}
		}
		if err := near.Close(); err != nil {
			t.Errorf("second Close: got %v, want nil", err)
		}
		far.Abort()
	})
}

func TestDeadlineErrorIsTheStandardOne(t *testing.T) {
	fromEither(t, func(t *testing.T, near, _ netstack.Conn) {
		if err := near.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, err := near.Read(make([]byte, 1))
		if ne, ok := errors.AsType[net.Error](err); !errors.Is(err, os.ErrDeadlineExceeded) || !ok || !ne.Timeout() {
			t.Errorf("got %v, want os.ErrDeadlineExceeded with Timeout", err)
		}
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "read" || op.Source == nil || op.Addr == nil {
			t.Errorf("got %#v, want a *net.OpError with both addresses", err)
		}
	})
}

func TestClosedConnectionsAreForgotten(t *testing.T) {
	s := serve(t, netstack.Config{}, accept)
	app, flow := s.connect(t, targets["IPv4"])
	for _, c := range []netstack.Conn{app, flow} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	eventually(t, "none open", func() bool { return s.stack.Stats().Open == 0 })
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %v: Close waited for its timeout, not for the end of the connection", took)
	}
}

func TestBulkArrivesWhole(t *testing.T) {
	size := 16 << 20
	if raceEnabled {
		size = 256 << 10 // gVisor is twenty times slower then
	}
	data := bytes.Repeat([]byte("0123456789abcdef\n"), size/17+1)[:size]
	want := sha256.Sum256(data)
	fromEither(t, func(t *testing.T, near, far netstack.Conn) {
		errs := make(chan error, 1)
		go func() {
			_, err := near.Write(data)
			errs <- errors.Join(err, near.CloseWrite())
		}()
		h := sha256.New()
		n, err := io.Copy(h, far) // by way of WriteTo
		if err != nil || n != int64(size) || !bytes.Equal(h.Sum(nil), want[:]) {
			t.Errorf("got %d bytes, %v, digest equal %v; want all %d", n, err, bytes.Equal(h.Sum(nil), want[:]), size)
		}
		if err := <-errs; err != nil {
			t.Errorf("write: %v", err)
		}
	})
}

func TestWriteToHoldsNoBufferWhileIdle(t *testing.T) {
	s := serve(t, netstack.Config{}, accept)
	app, flow := s.connect(t, targets["IPv4"])
	if _, ok := flow.(io.WriterTo); !ok {
		t.Fatal("a Conn is no io.WriterTo: io.Copy would hold a buffer for each idle connection")
	}
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, flow)
		done <- err
	}()
	app.Abort()
	if err := receive(t, "end of the copy", done); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want ECONNRESET", err)
	}
}

func TestReadAndWriteAllocateLittle(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	fromEither(t, func(t *testing.T, near, far netstack.Conn) {
		b := make([]byte, 1024)
		allocs := testing.AllocsPerRun(200, func() {
			if _, err := near.Write(b); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(far, b); err != nil {
				t.Fatal(err)
			}
		})
		if allocs > 40 { // gVisor's own, for two packets and two acknowledgements
			t.Errorf("got %.0f allocations for a write and a read, want at most 40", allocs)
		}
	})
}

func mustWrite(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatalf("write %q: %v", s, err)
	}
}
