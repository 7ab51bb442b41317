package migrate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
)

// size is what a transfer of a test moves each way: long enough for something to happen in the middle.
const size = 24 << 20

// TestF13KilledInTheMiddle kills P1 while bytes go both ways through it.
func TestF13KilledInTheMiddle(t *testing.T) {
	f := newTest(t)
	r := during(t, f, size, func() { try(t, f.Kill("p1")) })
	within(t, r, time.Second)
	if now, err := whereIs(t.Context(), f); err != nil || now == "p1" {
		t.Errorf("the client is at %q, %v", now, err)
	}
}

// TestF14SilenceWithDataOutstanding makes P1 fall silent while bytes go both ways.
func TestF14SilenceWithDataOutstanding(t *testing.T) {
	f := newTest(t)
	within(t, during(t, f, size, func() { silenced(t, f, lab.Both) }), 2500*time.Millisecond)
}

// TestF14SilenceWhileIdle makes P1 fall silent while a connection is idle: the agent must notice by itself.
func TestF14SilenceWhileIdle(t *testing.T) {
	f := newTest(t)
	client, origin := joined(t, f, far(t, f))
	says(t, client, origin, "before")
	silenced(t, f, lab.Both)
	const limit = 20 * time.Second
	err := fleet.Wait(t.Context(), limit+5*time.Second, "the idle client leaves the silent P1", f.Children(), func() (bool, error) {
		now, err := whereIs(t.Context(), f)
		return err == nil && now != "p1", errors.Join(fmt.Errorf("it is at %q", now), err)
	})
	try(t, err)
	says(t, origin, client, "after, from the origin")
	says(t, client, origin, "after, from the client")
}

// TestF15OneWayOnly makes P1 unheard, then unreachable.
func TestF15OneWayOnly(t *testing.T) {
	for name, way := range map[string]lab.Way{"nothing to P1": lab.Toward, "nothing from P1": lab.From} {
		t.Run(name, func(t *testing.T) {
			f := newTest(t)
			within(t, during(t, f, size, func() { silenced(t, f, way) }), 2500*time.Millisecond)
		})
	}
}

// TestF24HalfCloseAndMove: the client has said all, the origin answers with a long download, and the session moves in between.
func TestF24HalfCloseAndMove(t *testing.T) {
	f := newTest(t)
	client, origin := joined(t, f, far(t, f))
	says(t, client, origin, "give me all")
	try(t, client.CloseWrite())
	if n, err := origin.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || n != 0 {
		t.Fatalf("the origin reads %d bytes, %v, want the client's end", n, err)
	}
	const size = 16 << 20
	sent := sha256.New()
	wrote := make(chan error, 1)
	half := make(chan struct{})
	go func() {
		b := make([]byte, 64<<10)
		for i := range size / len(b) {
			if i == size/len(b)/2 {
				close(half)
			}
			for j := range b {
				b[j] = byte(i + j*7)
			}
			sent.Write(b)
			if _, err := origin.Write(b); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- origin.CloseWrite()
	}()
	got := sha256.New()
	read := make(chan error, 1)
	var n int64
	go func() {
		var err error
		n, err = io.Copy(got, client)
		read <- err
	}()
	<-half
	lead(t, f, "p2")
	if err := errors.Join(<-wrote, <-read); err != nil || n != size || string(got.Sum(nil)) != string(sent.Sum(nil)) {
		t.Errorf("%d bytes of %d, %v, the same %v", n, size, err, string(got.Sum(nil)) == string(sent.Sum(nil)))
	}
}

// TestF27AnotherAddress gives the client another address while bytes go both ways.
func TestF27AnotherAddress(t *testing.T) {
	f := newTest(t)
	t.Cleanup(func() {
		if err := f.World.Roam(lab.Roamed, lab.Client); err != nil {
			t.Error(err)
		}
		provoke(f) // an idle agent would notice after 20 s
	})
	within(t, during(t, f, size, func() { try(t, f.World.Roam(lab.Client, lab.Roamed)) }), 2500*time.Millisecond)
}

// TestF30ServerFirst moves a connection on which nobody has said anything.
func TestF30ServerFirst(t *testing.T) {
	f := newTest(t)
	l := far(t, f)
	client, origin := joined(t, f, l)
	empty, emptyFar := joined(t, f, l)
	lead(t, f, "p2")
	says(t, origin, client, "SSH-2.0-first\r\n")
	says(t, client, origin, "SSH-2.0-second\r\n")
	try(t, emptyFar.CloseWrite())
	if n, err := empty.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || n != 0 {
		t.Errorf("a connection without a byte: %d bytes, %v, want a clean end", n, err)
	}
	try(t, empty.CloseWrite())
	if n, err := emptyFar.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || n != 0 {
		t.Errorf("a connection without a byte, at the origin: %d bytes, %v, want a clean end", n, err)
	}
}

// TestF31BothDirectionsThroughMoves is the bench's transfer, smaller: P1 → P2 → P3 → P1 → …
func TestF31BothDirectionsThroughMoves(t *testing.T) {
	f := newTest(t)
	r, err := Moved(t.Context(), f, f.World.Client, 64<<20, 31, 7)
	if err != nil || r.Lost != 0 || r.Wrong != "" {
		t.Errorf("%v: %d bytes lost, digests %q", err, r.Lost, r.Wrong)
	}
	t.Logf("%v, longest wait %v", r.Took, r.Longest)
}

// TestF32BlackHole moves to P2, towards which long packets vanish and nobody says so.
func TestF32BlackHole(t *testing.T) {
	f := newTest(t)
	undo, err := f.World.Narrow(f.World.P2, 1280)
	t.Cleanup(func() {
		if err := undo(); err != nil {
			t.Error(err)
		}
	})
	try(t, err)
	if r := during(t, f, size, func() { lead(t, f, "p2") }); r.Longest > time.Second {
		t.Errorf("the longest wait is %v, want at most 1s: a segment was too long for the path", r.Longest)
	}
	if now, err := whereIs(t.Context(), f); err != nil || now != "p2" {
		t.Errorf("the client is at %q, %v", now, err)
	}
}

// TestF38PeerLinkCut cuts P1 off from another proxy, not from its clients: nobody may move them.
func TestF38PeerLinkCut(t *testing.T) {
	f := newTest(t)
	before, err := f.AgentStatus(t.Context(), "client")
	try(t, err)
	undo, err := f.CutPeers("p1", "p2")
	t.Cleanup(func() {
		if err := undo(); err != nil {
			t.Error(err)
		}
	})
	try(t, err)
	during(t, f, size, func() {
		err := fleet.Wait(t.Context(), 40*time.Second, "P2 sees that the link is gone", f.Children(), func() (bool, error) {
			st, err := f.ProxyStatus(t.Context(), "p2")
			for _, p := range st.Peers {
				if p.Name == "p1" && !p.Up {
					return true, nil
				}
			}
			return false, err
		})
		try(t, err)
	})
	after, err := f.AgentStatus(t.Context(), "client")
	try(t, err)
	if now, err := whereIs(t.Context(), f); err != nil || now != "p1" || after.Counts.Moves != before.Counts.Moves {
		t.Errorf("the client is at %q, %v, after %d moves, want none", now, err, after.Counts.Moves-before.Counts.Moves)
	}
	if st, err := f.ProxyStatus(t.Context(), "p1"); err != nil || st.State != "active" {
		t.Errorf("P1 is %q, %v", st.State, err)
	}
}

// TestF52Restart restarts P1 while bytes go both ways, in the three ways there are.
func TestF52Restart(t *testing.T) {
	for name, restart := range map[string]func(*testing.T, *fleet.Fleet){
		"SIGTERM": func(t *testing.T, f *fleet.Fleet) { try(t, f.Stop("p1")) },
		"SIGKILL and start": func(t *testing.T, f *fleet.Fleet) {
			try(t, f.Kill("p1"))
			try(t, f.Revive("p1"))
		},
		"upgrade": func(t *testing.T, f *fleet.Fleet) {
			try(t, f.Stop("p1"))
			try(t, f.Revive("p1"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTest(t)
			within(t, during(t, f, size, func() { restart(t, f) }), time.Second)
		})
	}
}

// TestF66Stopped stops P1 by SIGSTOP, whose kernel goes on acknowledging: in a transfer, and P2 while the client moves to it.
func TestF66Stopped(t *testing.T) {
	t.Run("in a transfer", func(t *testing.T) {
		f := newTest(t)
		goOn := func() {}
		within(t, during(t, f, size, func() { goOn = stopped(t, f, "p1") }), 2500*time.Millisecond)
		goOn()
	})
	t.Run("in a move", func(t *testing.T) {
		f := newTest(t)
		during(t, f, size, func() {
			stopped(t, f, "p2")
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_ = f.Migrate(ctx, "p1", "p2") // it can't go there; where it stays is no matter
		})
	})
}

// TestOriginPaused pauses the origin's program for 10 s, as a machine that is moved stands still.
func TestOriginPaused(t *testing.T) {
	f := newTest(t)
	const pause = 10 * time.Second
	r := during(t, f, size, func() {
		goOn := stopped(t, f, "origin")
		timer := time.NewTimer(pause)
		defer timer.Stop()
		<-timer.C
		goOn()
	})
	if r.Longest < pause-time.Second {
		t.Errorf("the longest wait is %v: the origin did not stand still", r.Longest)
	}
}
