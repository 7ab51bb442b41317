package anchor

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
)

// A service that is pointed at another origin takes its new streams there; those that flow stay where they are.
func TestMovedServiceTakesNewStreamsOnly(t *testing.T) {
	var at atomic.Pointer[string]
	w := start(t, func(cfg *Config, _ *Service) {
		cfg.Services = func(string) (Service, bool) { return Service{Name: "web", Origin: *at.Load()}, true }
	})
	next := listen(t)
	old, moved := w.origin.Addr().String(), next.Addr().String()
	at.Store(&old)
	first, origin := w.pair()
	at.Store(&moved)
	w.origin.Close()
	w.origin = next
	second, origin2 := w.pair()
	for _, c := range []struct {
		why    string
		st, at net.Conn
	}{{"a stream from before", first, origin}, {"a new one", second, origin2}} {
		if _, err := c.st.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 8)
		if _, err := io.ReadFull(c.at, got); err != nil || string(got) != "question" {
			t.Errorf("%s: origin got %q, %v", c.why, got, err)
		}
		if _, err := c.at.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c.st, got[:6]); err != nil || string(got[:6]) != "answer" {
			t.Errorf("%s: agent got %q, %v", c.why, got[:6], err)
		}
	}
}

// An origin that stands still for 10 s, as one that is paused or migrates live, breaks nothing (F23 from its side): the
// agent's writer waits, its link stays up, and every byte arrives.
func TestPausedOriginBreaksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		anchors, origin := net.Pipe()
		ctx, stop := context.WithCancel(t.Context())
		a := New(Config{
			Services: func(string) (Service, bool) { return Service{Name: "web", Origin: "origin:1"}, true },
			Dial:     func(context.Context, string, string) (net.Conn, error) { return anchors, nil },
		})
		var wg sync.WaitGroup
		wg.Go(func() { a.Run(ctx) })
		wg.Go(func() { a.Serve(ctx, far, agent, agentAddr) })
		s := session.New(session.Config{})
		share := s.Ask()
		var ended error
		wg.Go(func() { ended = link.Pump(ctx, near, share) })

		st, err := s.Open(t.Context(), "web")
		if err != nil {
			t.Fatal(err)
		}
		sent := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{2}).Read(sent)
		var wrote sync.WaitGroup
		wrote.Go(func() {
			if _, err := st.Write(sent); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(10 * time.Second)
		if in := a.Stats().In; in != 0 {
			t.Fatalf("the origin took %d bytes while it was paused", in)
		}
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(origin, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("after the pause: %v, or other bytes", err)
		}
		wrote.Wait()
		answered := make(chan error, 1)
		go func() { _, err := origin.Write(sent); answered <- err }()
		if _, err := io.ReadFull(st, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("the answer: %v, or other bytes", err)
		}
		if err := <-answered; err != nil {
			t.Error(err)
		}
		if ended != nil {
			t.Errorf("the link ended: %v", ended)
		}
		s.Close(nil)
		stop()
		wg.Wait()
	})
}

// other is a connection to an origin of another kind than the kernel's, as of an in-memory host: the anchor waits for it
// with a small buffer.
type other struct{ *net.TCPConn }

func TestOriginsOfOtherKinds(t *testing.T) {
	w := start(t, func(cfg *Config, _ *Service) {
		cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return other{c.(*net.TCPConn)}, nil
		}
	})
	st, origin := w.pair()
	sent := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{5}).Read(sent)
	for _, n := range []int{1, smallSize, smallSize + 1, len(sent)} {
		go origin.Write(sent[:n])
		wantBytes(t, "down", st, sent[:n])
		go st.Write(sent[:n])
		wantBytes(t, "up", origin, sent[:n])
	}
	origin.SetLinger(0)
	origin.Close()
	wantReset(t, "origin reset", st)
}

// BenchmarkBulk is what one stream carries through the anchor, over loopback: link and origin are plain TCP.
func BenchmarkBulk(b *testing.B) {
	for _, up := range []bool{true, false} {
		name := "down"
		if up {
			name = "up"
		}
		b.Run(name, func(b *testing.B) {
			w := start(b, nil)
			st, origin := w.pair()
			st.SetDeadline(time.Time{})
			origin.SetDeadline(time.Time{})
			from, to := net.Conn(origin), net.Conn(st)
			if up {
				from, to = st, origin
			}
			chunk := make([]byte, 1<<20)
			in := make([]byte, 1<<20)
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				var wg sync.WaitGroup
				wg.Go(func() {
					if _, err := from.Write(chunk); err != nil {
						b.Error(err)
					}
				})
				if _, err := io.ReadFull(to, in); err != nil {
					b.Fatal(err)
				}
				wg.Wait()
			}
		})
	}
}
