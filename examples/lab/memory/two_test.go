package memory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
)

// TestTwoProxies is the paper's own set-up: a client, P1, P2 and a server, and no node of kind anchor. The session is
// anchored at P2 from the start, so the saturation of P1 loses nothing; nor does its death, if P2 is an entry too or its
// address was given ahead.
func TestTwoProxies(t *testing.T) {
	hidden := []fleet.Node{{Name: "p1", Kind: fleet.Entry}, {Name: "p2", Kind: fleet.Hidden}}
	entries := []fleet.Node{{Name: "p1", Kind: fleet.Entry}, {Name: "p2", Kind: fleet.Entry}}
	for name, tc := range map[string]struct {
		cfg fleet.Config
		do  func(t *testing.T, w *World)
	}{
		"P1 is flooded":                     {fleet.Config{Nodes: hidden}, floodP1},
		"P1 is killed, P2 is an entry":      {fleet.Config{Nodes: entries}, killP1},
		"P1 is killed, rescue is a standby": {fleet.Config{Nodes: hidden, Rescue: "standby"}, killP1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tc.cfg)
			if err := w.StartAgent("client", "warm"); err != nil {
				t.Fatal(err)
			}
			if err := w.WaitForAgent(t.Context(), "client", 20*time.Second); err != nil {
				t.Fatal(err)
			}
			at, _ := lab.P1.Port(lab.EchoPort)
			c, err := w.Dial(t.Context(), "client", at)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			moved := make(chan struct{})
			done := make(chan error, 1)
			go func() { done <- echoUntil(c, moved) }()
			tc.do(t, w)
			close(moved)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// served waits until the client is served by P2.
func served(t *testing.T, w *World) {
	t.Helper()
	err := w.Wait(t.Context(), 30*time.Second, "the client is served by P2", func() (bool, error) {
		st, err := w.AgentStatus(t.Context(), "client")
		if err != nil || st.Edge == nil {
			return false, err
		}
		by := fleet.NameOf(st.Edge.Addr)
		return by == "p2", errors.New("it is served by " + by)
	})
	if err != nil {
		t.Error(err)
	}
}

func floodP1(t *testing.T, w *World) {
	at, _ := lab.P1.Port(lab.WebPort)
	ctx, stop := context.WithCancel(t.Context())
	flooded := make(chan error, 1)
	go func() {
		_, err := w.Attack(ctx, fleet.Attack{Kind: flood.SYN, Rate: 2000, Time: time.Minute, Target: at})
		flooded <- err
	}()
	served(t, w)
	stop()
	if err := <-flooded; err != nil {
		t.Error(err)
	}
}

func killP1(t *testing.T, w *World) {
	if err := w.Kill("p1"); err != nil {
		t.Error(err)
	}
	served(t, w)
}

// echoUntil sends random bytes through the echo until a while after stop is closed, and wants the same back.
func echoUntil(c net.Conn, stop <-chan struct{}) error {
	sent, got := sha256.New(), sha256.New()
	back := make(chan error, 1)
	go func() {
		_, err := io.Copy(got, c)
		back <- err
	}()
	rnd := rand.NewChaCha8([32]byte{7})
	b := make([]byte, 20_000)
	var until time.Time
	for until.IsZero() || time.Now().Before(until) {
		rnd.Read(b)
		sent.Write(b)
		if _, err := c.Write(b); err != nil {
			return err
		}
		select {
		case <-stop:
			if until.IsZero() {
				until = time.Now().Add(200 * time.Millisecond)
			}
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	if err := <-back; err != nil {
		return err
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		return errors.New("the echo is not what was sent")
	}
	return nil
}
