package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"migrationsensor/proxyd"
)

// controlled is a proxyd that says what it is told, and notes what it was asked.
type controlled struct {
	moves  []proxyd.MoveProgress
	err    error
	asked  proxyd.MoveRequest
	undone int
}

func (c *controlled) Status() proxyd.Status { return proxyd.Status{Node: "p1"} }
func (c *controlled) Agents() []proxyd.AgentStatus {
	return []proxyd.AgentStatus{{ID: "3f2a", Addr: "198.18.0.9:4000", Since: time.Now(), Links: 2, Streams: 5, Told: "p2"}}
}
func (c *controlled) Stop()                         {}
func (c *controlled) Undrain(context.Context) error { c.undone++; return c.err }
func (c *controlled) Move(_ context.Context, req proxyd.MoveRequest, report func(proxyd.MoveProgress)) error {
	c.asked = req
	for _, m := range c.moves {
		report(m)
	}
	return c.err
}

func TestMovesFromTheCommandLine(t *testing.T) {
	m := newMachine(t)
	l, err := proxyd.ListenControl(m.path("p1.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	c := &controlled{}
	done := make(chan error, 1)
	go func() { done <- proxyd.ServeControl(ctx, l, c) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	told := proxyd.MoveProgress{Agents: 2, Told: 2, Plain: 3}
	gone := proxyd.MoveProgress{Agents: 2, Told: 2, Acknowledged: 2, Gone: 2, Plain: 3, Over: true}
	c.moves = []proxyd.MoveProgress{told, gone}
	if out := m.must("", "migrate", "-c", "@p1.toml", "3f2a", "77", "--to", "p2", "--wait", "9s"); out != "2 of 2 agents told, 0 acknowledged, 0 gone; 3 plain connections stay\n"+
		"2 of 2 agents told, 2 acknowledged, 2 gone; 3 plain connections stay\n" {
		t.Errorf("printed:\n%s", out)
	}
	if c.asked.To != "p2" || strings.Join(c.asked.Agents, " ") != "3f2a 77" || c.asked.Wait.Duration != 9*time.Second {
		t.Errorf("asked %+v", c.asked)
	}
	c.moves[1].Held = 4
	m.must("4 streams are held here", "drain", "-c", "@p1.toml")
	if !c.asked.Drain || c.asked.To != "" {
		t.Errorf("drain asked %+v", c.asked)
	}
	m.must("2 gone", "home", "-c", "@p1.toml")
	if !c.asked.All || !c.asked.Entries || c.asked.Drain {
		t.Errorf("home asked %+v", c.asked)
	}
	m.must("back in service", "drain", "-c", "@p1.toml", "--undo")
	m.refused("leave out --to", "drain", "-c", "@p1.toml", "--undo", "--to", "p2")
	if c.undone != 1 {
		t.Errorf("undone %d times, want once", c.undone)
	}

	told.Over = true
	c.moves = []proxyd.MoveProgress{told}
	m.refused("2 of 2 agents are still here after 30s", "migrate", "-c", "@p1.toml", "--all")
	told.Nowhere = 1
	c.moves = []proxyd.MoveProgress{told}
	m.refused("1 of 2 agents stay: no neighbour may take them", "migrate", "-c", "@p1.toml", "--all")
	c.moves = []proxyd.MoveProgress{{Over: true}}
	m.must("no agent is connected\n", "drain", "-c", "@p1.toml")
	c.moves = []proxyd.MoveProgress{{Links: 3, Over: true}}
	m.refused("3 data links of agents that are not connected here still go through this proxy", "drain", "-c", "@p1.toml")
	c.asked = proxyd.MoveRequest{}
	m.refused("--wait -1s: it can't be less than nothing", "drain", "-c", "@p1.toml", "--wait=-1s")
	if c.asked.Drain {
		t.Error("it was asked all the same")
	}
	c.moves, c.err = nil, errors.New(`there is no node "px" in this fleet`)
	m.refused(`there is no node "px" in this fleet`, "migrate", "-c", "@p1.toml", "--all", "--to", "px")

	m.must("3f2a   198.18.0.9:4000  0s   2      5             p2, no answer yet\n", "agents", "-c", "@p1.toml")
	m.must(`"id": "3f2a"`, "agents", "--json", "-c", "@p1.toml")
	for _, cmd := range []string{"drain", "migrate", "home", "agents"} {
		m.must("proxyd "+cmd, cmd, "--help")
	}
}

func TestAgentsOfNobody(t *testing.T) {
	var b strings.Builder
	if err := printAgents(&b, nil, time.Now()); err != nil || b.String() != "no agent is connected\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}
