package anchor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
)

const patience = 10 * time.Second

var (
	agentID   = proto.AgentID{0xA1}
	agentAddr = netip.MustParseAddrPort("198.18.0.9:40000")
)

// world is an agent's session with an Anchor over loopback, and an origin.
type world struct {
	t      testing.TB
	a      *Anchor
	s      *session.Session
	l      net.Conn // the agent's end of the link
	origin *net.TCPListener
	served chan error
}

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// tcpPair is a real connection: resets must be real.
func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l := listen(t)
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func start(t testing.TB, edit func(*Config, *Service)) *world {
	t.Helper()
	w := &world{t: t, origin: listen(t), served: make(chan error, 1)}
	svc := Service{Name: "web", Origin: w.origin.Addr().String(), Public: []netip.AddrPort{netip.MustParseAddrPort("198.18.0.1:443")}}
	cfg := Config{Begin: Begin} // as a proxy has it; each test's own Dial is without
	if edit != nil {
		edit(&cfg, &svc)
	}
	if cfg.Dial != nil {
		cfg.Begin = nil
	}
	if cfg.Services == nil {
		cfg.Services = func(name string) (Service, bool) { return svc, name == svc.Name }
	}
	w.a = run(t, cfg)
	w.connect()
	return w
}

// run makes an Anchor whose Run must end with the test, and leave nothing.
func run(t testing.TB, cfg Config) *Anchor {
	t.Helper()
	a := New(cfg)
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-ran:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("Run did not end")
		}
		if s := a.Stats(); s.Sessions != 0 || s.Detached != 0 || s.Links != 0 || s.Streams != 0 || s.Memory != 0 {
			t.Errorf("left: %+v", s)
		}
	})
	return a
}

// agent is the identity of the tests' agent.
var agent = proto.Identity{Roles: []proto.Role{proto.RoleAgent}, Agent: agentID, Groups: []string{"staff"}}

// connect makes the agent's session and its first link.
func (w *world) connect() {
	w.t.Helper()
	w.s = session.New(session.Config{})
	w.t.Cleanup(func() { w.s.Close(nil) })
	w.l, w.served, _ = w.link(w.s.Ask())
}

// link makes a link for a share of the session. It ends with its near end, or the session.
func (w *world) link(share *session.Link) (near net.Conn, served chan error, pumped chan error) {
	w.t.Helper()
	near, far := tcpPair(w.t)
	served, pumped = make(chan error, 1), make(chan error, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		served <- w.a.Serve(context.Background(), far, agent, agentAddr)
	}()
	go func() { pumped <- link.Pump(context.Background(), near, share) }()
	w.t.Cleanup(func() {
		near.Close()
		select {
		case <-over:
		case <-time.After(patience):
			w.t.Error("Serve did not end")
		}
	})
	return near, served, pumped
}

func (w *world) open(service string) (*session.Stream, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	st, err := w.s.Open(ctx, service)
	if err == nil {
		st.SetDeadline(time.Now().Add(patience))
	}
	return st, err
}

// pair opens a stream and returns it with the origin's end.
func (w *world) pair() (*session.Stream, *net.TCPConn) {
	w.t.Helper()
	st, err := w.open("web")
	if err != nil {
		w.t.Fatal(err)
	}
	w.origin.SetDeadline(time.Now().Add(patience))
	c, err := w.origin.AcceptTCP()
	if err != nil {
		w.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	w.t.Cleanup(func() { c.Close() })
	return st, c
}

func wantCode(t *testing.T, why string, err error, want proto.OpenCode) {
	t.Helper()
	oe, ok := errors.AsType[*session.OpenError](err)
	if !ok || oe.Code != want {
		t.Errorf("%s: got %v, want %s", why, err, want)
	}
}

func wantReset(t *testing.T, why string, r io.Reader) {
	t.Helper()
	if _, err := io.ReadAll(r); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: read got %v, want a reset", why, err)
	}
}

func TestBytesAreTheSameBothWays(t *testing.T) {
	w := start(t, nil)
	up, down := make([]byte, 3<<20), make([]byte, 5<<20)
	fill := rand.NewChaCha8([32]byte{1})
	fill.Read(up)
	fill.Read(down)
	for range 3 {
		st, origin := w.pair()
		var atOrigin, atAgent []byte
		var wg sync.WaitGroup
		wg.Go(func() { st.Write(up); st.CloseWrite() })
		wg.Go(func() { origin.Write(down); origin.CloseWrite() })
		wg.Go(func() { atOrigin, _ = io.ReadAll(origin) })
		wg.Go(func() { atAgent, _ = io.ReadAll(st) })
		wg.Wait()
		if sha256.Sum256(atOrigin) != sha256.Sum256(up) {
			t.Errorf("origin got %d bytes, other than the %d that the agent sent", len(atOrigin), len(up))
		}
		if sha256.Sum256(atAgent) != sha256.Sum256(down) {
			t.Errorf("agent got %d bytes, other than the %d that the origin sent", len(atAgent), len(down))
		}
		st.Close()
	}
	if s := w.a.Stats(); s.Opened != 3 || s.In != 9<<20 || s.Out != 15<<20 {
		t.Errorf("stats got %+v", s)
	}
}

func TestHalfCloseKeepsTheOtherDirection(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	st.CloseWrite()
	if b, err := io.ReadAll(origin); err != nil || len(b) != 0 {
		t.Fatalf("agent's end: origin got %q, %v", b, err)
	}
	origin.Write([]byte("answer"))
	origin.Close()
	if b, err := io.ReadAll(st); err != nil || string(b) != "answer" {
		t.Errorf("agent got %q, %v", b, err)
	}

	st, origin = w.pair()
	origin.CloseWrite()
	if b, err := io.ReadAll(st); err != nil || len(b) != 0 {
		t.Fatalf("origin's end: agent got %q, %v", b, err)
	}
	st.Write([]byte("question"))
	st.Close()
	if b, err := io.ReadAll(origin); err != nil || string(b) != "question" {
		t.Errorf("origin got %q, %v", b, err)
	}
}

func TestResetPassesOn(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	origin.Write([]byte("half"))
	if _, err := io.ReadFull(st, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	origin.SetLinger(0)
	origin.Close()
	wantReset(t, "origin reset", st)

	st, origin = w.pair()
	st.Abort()
	wantReset(t, "agent reset", origin)

	st, origin = w.pair()
	st.CloseWrite()
	io.ReadAll(origin)
	st.Abort()
	origin.SetWriteBuffer(4 << 10)
	for end := time.Now().Add(patience); ; {
		if _, err := origin.Write(make([]byte, 64<<10)); errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			break
		} else if err != nil || time.Now().After(end) {
			t.Fatalf("agent reset after its end: origin's write got %v, want a reset", err)
		}
	}
}

func TestAgentResetFreesABlockedOrigin(t *testing.T) {
	w := start(t, func(cfg *Config, _ *Service) { cfg.Grace = 10 * time.Millisecond })
	st, origin := w.pair()
	go func() { // the origin does not read: the anchor's writer blocks
		for b := make([]byte, 64<<10); ; {
			if _, err := st.Write(b); err != nil {
				return
			}
		}
	}()
	last := uint64(0)
	for stable := 0; stable < 20; time.Sleep(5 * time.Millisecond) {
		if in := w.a.Stats().In; in != last || in == 0 {
			last, stable = in, 0
		} else {
			stable++
		}
	}
	w.s.Close(nil) // and the link goes, and the grace
	w.until("the origin is let go, though it reads and says nothing", func() bool { return w.a.Streams() == 0 })
	wantReset(t, "session gone", origin)
}

func TestConnectTellsTheTruth(t *testing.T) {
	silent := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, c := range []struct {
		name string
		fail func(ctx context.Context) error
		want proto.OpenCode
	}{
		{"refused", func(context.Context) error { return syscall.ECONNREFUSED }, proto.OpenRefused},
		{"silent", silent, proto.OpenTimedOut},
		{"kernel gave up", func(context.Context) error { return syscall.ETIMEDOUT }, proto.OpenTimedOut},
		{"no route", func(context.Context) error { return syscall.EHOSTUNREACH }, proto.OpenUnreachable},
		{"no network", func(context.Context) error { return syscall.ENETUNREACH }, proto.OpenUnreachable},
		{"no name", func(context.Context) error { return &net.DNSError{Err: "no such host", IsNotFound: true} }, proto.OpenUnreachable},
		{"name server silent", func(context.Context) error { return &net.DNSError{Err: "timeout", IsTimeout: true} }, proto.OpenTimedOut},
		{"no descriptors", func(context.Context) error { return os.NewSyscallError("socket", syscall.EMFILE) }, proto.OpenBusy},
		{"no ports", func(context.Context) error { return syscall.EADDRNOTAVAIL }, proto.OpenBusy},
	} {
		w := start(t, func(cfg *Config, _ *Service) {
			cfg.DialTimeout = 20 * time.Millisecond
			cfg.Dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: c.fail(ctx)}
			}
		})
		_, err := w.open("web")
		wantCode(t, c.name, err, c.want)
		if err != nil && bytes.Contains([]byte(err.Error()), []byte("127.0.0.1")) {
			t.Errorf("%s: the agent is told the origin's address: %v", c.name, err)
		}
	}
	w := start(t, nil)
	w.origin.Close()
	_, err := w.open("web")
	wantCode(t, "closed port of the real kernel", err, proto.OpenRefused)
}

func TestGroups(t *testing.T) {
	for _, c := range []struct {
		name    string
		groups  []string
		service string
		denied  bool
	}{
		{"for everybody", nil, "web", false},
		{"one of the agent's", []string{"admin", "staff"}, "web", false},
		{"none of the agent's", []string{"admin"}, "web", true},
		{"unknown service", nil, "secret", true},
	} {
		w := start(t, func(_ *Config, s *Service) { s.Groups = c.groups })
		st, err := w.open(c.service)
		if c.denied {
			wantCode(t, c.name, err, proto.OpenDenied)
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else {
			st.Close()
		}
	}
}

func TestCaps(t *testing.T) {
	w := start(t, func(cfg *Config, _ *Service) { cfg.MaxAllStreams, cfg.MaxSessionsOfOne = 1, 1 })
	w.pair()
	_, err := w.open("web")
	wantCode(t, "stream over the cap", err, proto.OpenBusy)

	near, far := tcpPair(t)
	done := make(chan error, 1)
	go func() { done <- w.a.Serve(t.Context(), far, proto.Identity{Agent: agentID}, agentAddr) }()
	s := session.New(session.Config{})
	share := s.Ask()
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.Close(link.Pump(t.Context(), near, share))
	}()
	if _, err := s.Open(t.Context(), "web"); err == nil {
		t.Error("a stream in a session over the cap was opened")
	}
	if err := <-done; !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want %v", err, ErrFull)
	}
	<-over
}

func TestAgentThatGivesUpEndsTheDial(t *testing.T) {
	ended := make(chan struct{})
	w := start(t, func(cfg *Config, _ *Service) {
		cfg.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			close(ended)
			return nil, ctx.Err()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	w.s.Open(ctx, "web")
	select {
	case <-ended:
	case <-time.After(patience / 2):
		t.Error("the dial goes on")
	}
}

func TestSessions(t *testing.T) {
	w := start(t, nil)
	w.pair()
	got := w.a.Sessions()
	if len(got) != 1 || got[0].Agent != agentID || got[0].Addr != agentAddr || got[0].Streams != 1 ||
		len(got[0].Services) != 1 || got[0].Services[0] != "web" {
		t.Fatalf("got %+v", got)
	}
	why := errors.New("suspended")
	w.a.CloseAll(why)
	select {
	case err := <-w.served:
		if !errors.Is(err, why) {
			t.Errorf("Serve got %v, want %v", err, why)
		}
	case <-time.After(patience):
		t.Fatal("CloseAll left a session")
	}
	if got := w.a.Sessions(); len(got) != 0 {
		t.Errorf("left: %+v", got)
	}
}

func TestLinkMustBeginWithSession(t *testing.T) {
	near, far := tcpPair(t)
	defer near.Close()
	go proto.WriteMessage(near, &proto.Open{Service: "web"})
	if err := New(Config{}).Serve(t.Context(), far, proto.Identity{}, agentAddr); !errors.Is(err, proto.ErrMessage) {
		t.Errorf("got %v, want %v", err, proto.ErrMessage)
	}
}

func TestProxyHeader(t *testing.T) {
	public := []netip.AddrPort{netip.MustParseAddrPort("198.18.0.1:443"), netip.MustParseAddrPort("[2001:2::1]:444")}
	id := hex.EncodeToString([]byte(agentID.String()))
	for _, c := range []struct {
		name, src string
		public    []netip.AddrPort
		want      string
	}{
		{"IPv4", "198.18.0.9:40000", public, "2111002f" + "c6120009" + "c6120001" + "9c40" + "01bb"},
		{"IPv6", "[2001:2::9]:40000", public, "21210047" + "20010002000000000000000000000009" + "20010002000000000000000000000001" + "9c40" + "01bc"},
		{"families differ", "[2001:2::9]:40000", public[:1], "21210047" + "20010002000000000000000000000009" + "00000000000000000000ffffc6120001" + "9c40" + "01bb"},
	} {
		got := hex.EncodeToString(appendProxyHeader(nil, netip.MustParseAddrPort(c.src), c.public, agentID))
		if want := "0d0a0d0a000d0a515549540a" + c.want + "e00020" + id; got != want {
			t.Errorf("%s: got\n%s, want\n%s", c.name, got, want)
		}
	}
}

func TestProxyHeaderComesFirst(t *testing.T) {
	w := start(t, func(_ *Config, s *Service) { s.ProxyProtocol = true })
	st, origin := w.pair()
	st.Write([]byte("hello"))
	want := append(appendProxyHeader(nil, agentAddr, []netip.AddrPort{netip.MustParseAddrPort("198.18.0.1:443")}, agentID), "hello"...)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(origin, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %x, %v, want %x", got, err, want)
	}
}
