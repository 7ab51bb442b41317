package anchor

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
)

// F47: an agent that takes all it can, over as many sessions as it likes, leaves room for another.
func TestF47OneAgentLeavesRoomForOthers(t *testing.T) {
	for name, edit := range map[string]func(*Config, *Service){
		"memory": func(cfg *Config, _ *Service) {
			cfg.Memory, cfg.MemoryOfOne = 400*streamCost, 100*streamCost
		},
		"streams": func(cfg *Config, _ *Service) { cfg.MaxStreams, cfg.MaxAllStreams = 10, 20 },
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, edit)
			n := 0
			for range 3 {
				var err error
				for err == nil && n < 400 {
					if _, err = w.open("web"); err == nil {
						n++
					}
				}
				wantCode(t, "the greedy one", err, proto.OpenBusy)
				w.connect()
			}
			if n == 0 {
				t.Fatal("it has no stream at all")
			}
			for range n { // those at the origin are its own
				if _, err := w.origin.AcceptTCP(); err != nil {
					t.Fatal(err)
				}
			}
			transfers(t, w)
		})
	}
}

// transfers has another agent open a stream, and an answer come back over it.
func transfers(t *testing.T, w *world) {
	t.Helper()
	near, far := tcpPair(t)
	s := session.New(session.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	served, pumped := make(chan struct{}), make(chan struct{})
	defer func() { cancel(); s.Close(nil); near.Close(); <-served; <-pumped }()
	go func() { defer close(served); _ = w.a.Serve(ctx, far, webUser, agentAddr) }()
	go func() { defer close(pumped); _ = link.Pump(ctx, near, s.Ask()) }()
	st, err := s.Open(ctx, "web")
	if err != nil {
		t.Fatalf("another agent: %v", err)
	}
	st.SetDeadline(time.Now().Add(patience))
	c, err := w.origin.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	var got [5]byte
	if _, err := io.ReadFull(st, got[:]); err != nil || string(got[:]) != "hello" {
		t.Errorf("another agent got %q, %v", got, err)
	}
}

var webUser = proto.Identity{Roles: []proto.Role{proto.RoleAgent}, Agent: proto.AgentID{0xC3}}

// F47: OPENs are limited by agent; a new session is no new account, even when the old ones are gone.
func TestF47OpensOfAnAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Config{})
		allowed := 0
		for range 4 {
			at, _, err := a.find(&dataLink{}, &proto.Session{}, agent, agentAddr)
			if err != nil {
				t.Fatal(err)
			}
			for range openBurst {
				if at.share.owner.mayOpen(time.Now()) {
					allowed++
				}
			}
			a.CloseAll(nil)
			for i := range 4 * idleAccounts { // others come, so that accounts are looked through
				a.account(proto.AgentID{1, byte(i >> 8), byte(i)})
			}
		}
		if allowed != openBurst {
			t.Errorf("%d OPENs at once over four sessions, want %d", allowed, openBurst)
		}
		if !a.account(stranger.Agent).mayOpen(time.Now()) {
			t.Error("another agent may open none")
		}
		time.Sleep(time.Second)
		for allowed = 0; a.account(agentID).mayOpen(time.Now()); allowed++ {
		}
		if allowed != openRate {
			t.Errorf("%d OPENs a second later, want %d", allowed, openRate)
		}
		time.Sleep(time.Minute)
		a.account(proto.AgentID{9})
		if n := len(a.accounts); n > 2*idleAccounts {
			t.Errorf("%d accounts are kept of agents that are gone", n)
		}
	})
}
