package link

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/session"
)

// echoSession serves one session whose streams echo.
func echoSession() *session.Session {
	return session.New(session.Config{Server: true, Accept: func(st *session.Stream, _ string) {
		st.AcceptOK()
		go func() {
			io.Copy(st, st)
			st.CloseWrite()
		}()
	}})
}

func TestPumpCarriesASessionOverALink(t *testing.T) {
	f := newFleet(t, "lab")
	ended := make(chan error, 1)
	n := f.node(func(n *node) {
		n.Data = func(ctx context.Context, l *Link, _ proto.Verified) {
			first, err := proto.NewReader(l, 0).Message()
			if err != nil {
				t.Error(err)
			}
			s := echoSession()
			share, _ := s.Serve(first, time.Now())
			err = Pump(ctx, l, share)
			s.Close(err)
			ended <- err
		}
	})
	creds, id := f.agent()
	l, err := (&Dialer{Creds: creds}).Dial(t.Context(), n.target(id), proto.KindData, n.id)
	if err != nil {
		t.Fatal(err)
	}
	s := session.New(session.Config{})
	share := s.Ask()
	pumped := make(chan error, 1)
	go func() { pumped <- Pump(t.Context(), l, share) }()

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { echo(t, s, byte(i)) })
	}
	wg.Wait()
	s.Close(nil)
	if err := <-pumped; !errors.Is(err, session.ErrClosed) {
		t.Errorf("agent's pump ended with %v, want %v", err, session.ErrClosed)
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("node's pump ended with %v, want %v", err, io.EOF)
	}
}

func echo(t *testing.T, s *session.Session, seed byte) {
	st, err := s.Open(t.Context(), "web")
	if err != nil {
		t.Error(err)
		return
	}
	defer st.Close()
	b := make([]byte, 2<<20)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	go func() { st.Write(b); st.CloseWrite() }()
	h := sha256.New()
	if n, err := io.Copy(h, st); err != nil || n != int64(len(b)) || [32]byte(h.Sum(nil)) != sha256.Sum256(b) {
		t.Errorf("stream %d: echo of %d bytes, %v, differs", seed, n, err)
	}
}

// A link whose other end took all it could and says nothing blocks the writer: it must end all the same.
func TestPumpGivesUpALinkThatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		s := session.New(session.Config{})
		go s.Open(t.Context(), "web")
		began := time.Now()
		err := Pump(t.Context(), near, s.Ask()) // nobody reads far: the first write blocks
		if took := time.Since(began); !errors.Is(err, session.ErrSilent) || took > 5*time.Second {
			t.Errorf("got %v after %v, want %v within seconds", err, took, session.ErrSilent)
		}
		s.Close(err)
	})
}

func TestPumpGivesUpASilentLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		var read atomic.Int64
		go func() {
			n, _ := io.Copy(io.Discard, far)
			read.Store(n)
		}()
		s, _ := session.New(session.Config{Server: true}).Serve(&proto.Session{}, time.Now())
		began := time.Now()
		err := Pump(t.Context(), near, s)
		if took := time.Since(began); !errors.Is(err, session.ErrSilent) || took < 10*time.Second || took > 25*time.Second {
			t.Errorf("idle and silent: got %v after %v, want %v within 10 s and 25 s", err, took, session.ErrSilent)
		}
		synctest.Wait()
		if read.Load() == 0 {
			t.Error("it was given up without being asked")
		}
	})
}

func TestPumpEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("moved")
		go func() { time.Sleep(time.Second); cancel(why) }()
		if err := Pump(ctx, near, session.New(session.Config{}).Ask()); !errors.Is(err, why) {
			t.Errorf("got %v, want %v", err, why)
		}
	})
}

func TestPumpEndsOnGarbage(t *testing.T) {
	near, far := net.Pipe()
	go io.Copy(io.Discard, far)
	go far.Write(proto.Header{Type: proto.TypeMigrate}.Append(nil))
	if err := Pump(t.Context(), near, session.New(session.Config{}).Ask()); !errors.Is(err, session.ErrProtocol) {
		t.Errorf("got %v, want %v", err, session.ErrProtocol)
	}
}
