package memory

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/netstack/memnet"
)

// TestF13KilledInTheMiddle kills P1 while bytes go both ways through it.
func TestF13KilledInTheMiddle(t *testing.T) {
	s := newStage(t, fleet.Config{})
	s.within(s.during(func() { try(t, s.Kill("p1")) }), time.Second)
	s.comes("client", "e2")
}

// TestF14F15Silence makes P1 fall silent, or unheard, or unreachable, while bytes go both ways.
func TestF14F15Silence(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]memnet.Way{"blackholed": memnet.Both, "inbound only": memnet.Out, "outbound only": memnet.In} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, fleet.Config{})
			s.within(s.during(func() { s.cut("p1", "client", way) }), 2500*time.Millisecond)
			s.comes("client", "e2")
		})
	}
}

// TestF14SilenceWhileIdle makes P1 fall silent while nobody says anything: the agent must notice by itself.
func TestF14SilenceWhileIdle(t *testing.T) {
	s := newStage(t, fleet.Config{})
	client, origin := s.joined()
	s.says(client, origin, "before")
	begin := time.Now()
	s.cut("p1", "client", memnet.Both)
	s.until("the session leaves the silent P1", func() (bool, string) {
		ss := s.agentOf("client").Sessions
		return len(ss) == 1 && ss[0].Edge == "e2" && ss[0].Links > 0, fmt.Sprintf("%+v", ss)
	})
	if took := time.Since(begin); took > 20*time.Second+busy {
		t.Errorf("the idle client noticed after %v", took)
	}
	s.says(origin, client, "after, from the origin")
	s.says(client, origin, "after, from the client")
}

// afterBytes calls then with the first of these nodes to whose link port that many bytes have gone from the client.
func (s *stage) afterBytes(limit int64, then func(node string), nodes ...string) {
	var once sync.Once
	for _, node := range nodes {
		var sent atomic.Int64
		s.Play(memnet.Fault{Host: "client", Peer: node, Way: memnet.Out, Only: func(packet []byte) bool {
			if _, to, _, payload, ok := tcp(packet); ok && to.Port() == lab.LinkPort && sent.Add(int64(len(payload))) > limit {
				once.Do(func() { then(node) })
			}
			return false
		}})
	}
}

// TestF16F17NextEdgeDies floods P1, and lets the proxy to which its client goes die or fall silent at different stages of
// the move: in the handshake, between RESUME and its answer, in the middle of what is replayed.
func TestF16F17NextEdgeDies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		after int64 // bytes that the client has sent to it
		kill  bool
	}{
		"F16 silent in the handshake": {0, false}, "F16 silent before RESUME_OK": {1500, false}, "F16 killed before RESUME_OK": {1500, true},
		"F17 silent in the replay": {100 << 10, false}, "F17 killed in the replay": {100 << 10, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, fleet.Config{RTT: 80 * time.Millisecond, LinkRate: 24e6, Nodes: oneEntry})
			died := make(chan string, 1)
			s.afterBytes(c.after, func(node string) {
				if !c.kill {
					s.cut(node, "", memnet.Both)
				}
				go func() { // not in the way of the packet that caused it
					if c.kill {
						_ = s.Kill(node) // it runs
					}
					died <- node
				}()
			}, "p2", "p3")
			end := s.begin(size)
			s.flood("p1")
			dead := <-died
			s.whole(end) // how long it stood still is told, and not judged: see docs/FAULTS.md
			t.Logf("%s died; the client is at %q", dead, s.edgeOf("client"))
		})
	}
}

// TestF21ResetStorm resets every link each 7 ms for a second, which is oftener than a link can be made.
func TestF21ResetStorm(t *testing.T) {
	s := newStage(t, fleet.Config{RTT: 2 * time.Millisecond, Restless: true})
	resets := 0
	s.during(func() {
		tick := time.NewTicker(7 * time.Millisecond)
		defer tick.Stop()
		for begin := time.Now(); time.Since(begin) < time.Second; <-tick.C {
			for _, edge := range []string{"p1", "e2"} {
				n, err := s.ResetLinks(edge)
				try(t, err)
				resets += n
			}
		}
	})
	if resets < 10 {
		t.Errorf("%d links were reset", resets)
	}
	s.until("what links are left over is closed", func() (bool, string) {
		st := s.agentOf("client")
		return len(st.Links) <= 6, fmt.Sprintf("%+v", st.Links)
	})
}

// TestF22SlowReader has an application that does not read, while the other direction of its connection runs.
func TestF22SlowReader(t *testing.T) {
	s := newStage(t, fleet.Config{LinkRate: 80e6})
	client, origin := s.joined()
	down := make(chan int64, 1)
	go func() { // until nothing was taken for a second
		b := make([]byte, 64<<10)
		var n int64
		for {
			_ = origin.SetWriteDeadline(time.Now().Add(time.Second))
			m, err := origin.Write(b)
			if n += int64(m); err != nil {
				down <- n
				return
			}
		}
	}()
	var key [32]byte
	up, got := sha256.New(), sha256.New()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.MultiWriter(client, up), io.LimitReader(rand.NewChaCha8(key), size))
		sent <- errors.Join(err, client.CloseWrite())
	}()
	if n, err := io.Copy(got, origin); err != nil || n != size {
		t.Fatalf("the origin got %d bytes, %v", n, err)
	}
	try(t, <-sent)
	if string(up.Sum(nil)) != string(got.Sum(nil)) {
		t.Error("what went up is not what was received")
	}
	n := <-down
	const window, buffers = 4 << 20, 12 << 20 // of four sockets and two stacks on the way
	if n > window+buffers {
		t.Errorf("%d MiB were taken for a reader who does not read", n>>20)
	}
	try(t, origin.CloseWrite())
	if m, err := io.Copy(io.Discard, client); err != nil || m != n {
		t.Errorf("the slow reader got %d bytes of %d, %v", m, n, err)
	}
}

// TestF24F30HalfCloseAndServerFirst moves connections: one that nobody has said anything on, whose origin speaks first
// then; one without a byte; one whose client has said all and that has a long answer under way.
func TestF24F30HalfCloseAndServerFirst(t *testing.T) {
	s := newStage(t, fleet.Config{})
	silent, silentFar := s.joined()
	empty, emptyFar := s.joined()
	client, origin := s.joined()
	s.says(client, origin, "give me all")
	try(t, client.CloseWrite())
	atEnd(t, "the client's end at the origin", origin)
	var key [32]byte
	sent, got := sha256.New(), sha256.New()
	wrote, read := make(chan error, 1), make(chan error, 1)
	half := make(chan struct{})
	go func() {
		_, err := io.Copy(io.MultiWriter(origin, sent), io.LimitReader(rand.NewChaCha8(key), size))
		wrote <- errors.Join(err, origin.CloseWrite())
	}()
	go func() {
		_, err := io.CopyN(got, client, size/3)
		close(half)
		if err == nil {
			_, err = io.Copy(got, client)
		}
		read <- err
	}()
	<-half
	s.lead("client", "p2")
	s.says(silentFar, silent, "SSH-2.0-first\r\n")
	s.says(silent, silentFar, "SSH-2.0-second\r\n")
	try(t, emptyFar.CloseWrite())
	atEnd(t, "a connection without a byte", empty)
	try(t, empty.CloseWrite())
	atEnd(t, "a connection without a byte, at the origin", emptyFar)
	if err := errors.Join(<-wrote, <-read); err != nil || string(sent.Sum(nil)) != string(got.Sum(nil)) {
		t.Errorf("the long answer: %v, or its digest differs", err)
	}
}

func atEnd(t *testing.T, what string, c io.Reader) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || n != 0 {
		t.Errorf("%s: %d bytes, %v, want a clean end", what, n, err)
	}
}

func wasReset(t *testing.T, what string, c io.Reader) {
	t.Helper()
	if n, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %v after %d bytes, want a reset", what, err, n)
	}
}

// TestF23F25F26Detached has the client without any network: its origin waits, or ends, or resets; an application resets.
// Everything arrives when it is back, the bytes first.
func TestF23F25F26Detached(t *testing.T) {
	s := newStage(t, fleet.Config{})
	waits, waitsFar := s.joined()
	ends, endsFar := s.joined()
	resets, resetsFar := s.joined()
	gone, goneFar := s.joined()
	s.says(waits, waitsFar, "all are there")
	back := s.cut("client", "", memnet.Both)
	s.until("the anchor has no link of it", func() (bool, string) {
		st := s.proxyOf("a1")
		return st.Links == 0, fmt.Sprintf("%d links", st.Links)
	})
	const last = 100 << 10
	bytes := make([]byte, last)
	for _, c := range []io.Writer{waitsFar, endsFar} {
		_, err := c.Write(bytes)
		try(t, err)
	}
	try(t, endsFar.CloseWrite())
	resetsFar.Abort()
	gone.Abort()
	back()
	for what, c := range map[string]io.Reader{"of the origin that waits": waits, "of the origin that ends": ends} {
		if _, err := io.ReadFull(c, bytes); err != nil {
			t.Errorf("the bytes %s: %v", what, err)
		}
	}
	atEnd(t, "F25: the origin's end", ends)
	wasReset(t, "F25: the origin's reset", resets)
	wasReset(t, "F26: the application's reset", goneFar)
	s.says(waitsFar, waits, "F23: it goes on")
	s.says(waits, waitsFar, "both ways")
}

// TestF27AnotherNetwork gives the client other addresses, of both families, in the middle of a transfer: Wi-Fi to LTE, or a
// NAT that binds anew.
func TestF27AnotherNetwork(t *testing.T) {
	s := newStage(t, fleet.Config{})
	r := s.during(func() { try(t, s.Network().Host("client").Readdress(lab.Uplink, lab.Roamed.V4, lab.Roamed.V6)) })
	s.within(r, 2500*time.Millisecond)
	if st := s.agentOf("client"); st.Counts.Moves != 0 {
		t.Errorf("%d moves; the last proxy is asked first", st.Counts.Moves)
	}
}

// TestF27Sleep lets the machine sleep in the middle of a transfer: the program stands still, and nothing comes in.
func TestF27Sleep(t *testing.T) {
	s := newStage(t, fleet.Config{})
	const sleep = 8 * time.Second // longer than every timer of a link with data outstanding, shorter than grace
	r := s.during(func() {
		wake := s.cut("client", "", memnet.Both)
		try(t, s.Freeze("client"))
		timer := time.NewTimer(sleep)
		defer timer.Stop()
		<-timer.C
		wake()
		try(t, s.Thaw("client"))
	})
	if r.Longest < sleep-time.Second {
		t.Errorf("the longest wait is %v: it did not sleep", r.Longest)
	}
	s.within(r, sleep+2500*time.Millisecond)
}

// TestF31BothDirectionsThroughMoves is a transfer whose session moves all the time: P1 → P2 → P3 → E2 → P1 → …
func TestF31BothDirectionsThroughMoves(t *testing.T) {
	s := newStage(t, fleet.Config{Restless: true})
	s.tour(s.begin(2*size), 3)
}

// tour moves the client round while a transfer runs, as often as there is time, and at least this often.
func (s *stage) tour(end <-chan ended, least int) {
	s.t.Helper()
	moves := 0
	for next := range roundabout("p2", "p3", "p1") {
		if len(end) > 0 {
			break
		}
		s.lead("client", next)
		moves++
	}
	s.whole(end)
	if moves < least {
		s.t.Errorf("%d moves while bytes flowed, want %d at least", moves, least)
	}
	s.t.Logf("%d moves", moves)
}

func roundabout(names ...string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := 0; yield(names[i%len(names)]); i++ {
		}
	}
}

// TestLossyLinksAndMoves is F31 over a bad line: loss, reordering, duplicates.
func TestLossyLinksAndMoves(t *testing.T) {
	s := newStage(t, fleet.Config{RTT: 20 * time.Millisecond, Restless: true})
	s.Play(memnet.Fault{Host: "client", Conditions: memnet.Conditions{Loss: 0.01, Reorder: 0.02, Duplicate: 0.02}})
	s.tour(s.begin(2<<20), 1)
}

// TestF52Restart restarts P1 while bytes go both ways.
func TestF52Restart(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*stage) error{
		"SIGTERM": func(s *stage) error { return s.Stop("p1") },
		"SIGKILL": func(s *stage) error { return s.Kill("p1") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, fleet.Config{})
			s.within(s.during(func() { try(t, errors.Join(end(s), s.Start("p1"))) }), time.Second)
		})
	}
}

// TestF66Stopped stops programs as SIGSTOP does, whose kernels go on acknowledging: P1 in a transfer, P2 in the move to
// it, P2 when RESUME has come to it.
func TestF66Stopped(t *testing.T) {
	t.Parallel()
	t.Run("in a transfer", func(t *testing.T) {
		s := newStage(t, fleet.Config{})
		s.within(s.during(func() { try(t, s.Freeze("p1")) }), 2500*time.Millisecond)
		s.comes("client", "e2")
		try(t, s.Thaw("p1"))
	})
	t.Run("in a move", func(t *testing.T) {
		s := newStage(t, fleet.Config{})
		try(t, s.Freeze("p2"))
		s.during(func() { _ = s.order("p1", "p2") }) // it can't go there; where it stays is no matter
		try(t, s.Thaw("p2"))
	})
	t.Run("in a resume", func(t *testing.T) {
		s := newStage(t, fleet.Config{})
		s.afterBytes(1500, func(string) { _ = s.Freeze("p2") }, "p2")
		s.during(func() { _ = s.order("p1", "p2") })
		try(t, s.Thaw("p2"))
	})
}
