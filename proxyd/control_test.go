package proxyd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestControl(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "p.sock")
	if _, err := ControlStatus(t.Context(), path); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "proxyd run") {
		t.Errorf("nobody there: got %v", err)
	}
	l, err := ListenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket is for its owner only, got %v %v", fi.Mode(), err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- ServeControl(ctx, l, &controlled{stop: stop})
	}()
	st, err := ControlStatus(t.Context(), path)
	if err != nil || st.Node != "p1" || st.State != Active || st.Agents != 3 {
		t.Errorf("got %+v, %v", st, err)
	}
	if _, err := ListenControl(path); err == nil || !strings.Contains(err.Error(), "another proxyd runs") {
		t.Errorf("a second proxyd: got %v", err)
	}
	if err := ControlDown(t.Context(), path); err != nil {
		t.Errorf("down: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("a stop that was asked for: got %v", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// controlled answers as told.
type controlled struct {
	stop  func()
	moves []MoveProgress
	err   error
	asked MoveRequest
}

func (c *controlled) Status() Status                { return Status{Node: "p1", State: Active, Agents: 3} }
func (c *controlled) Agents() []AgentStatus         { return []AgentStatus{{ID: "0a0b"}} }
func (c *controlled) Stop()                         { c.stop() }
func (c *controlled) Undrain(context.Context) error { return c.err }
func (c *controlled) Move(_ context.Context, req MoveRequest, report func(MoveProgress)) error {
	c.asked = req
	for _, m := range c.moves {
		report(m)
	}
	return c.err
}

func TestControlMove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.sock")
	l, err := ListenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	c := &controlled{}
	done := make(chan error, 1)
	go func() { done <- ServeControl(ctx, l, c) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	c.err = errors.New("there is no node \"px\" in this fleet")
	req := MoveRequest{Agents: []string{"0a"}, To: "px", Wait: Duration{3e9}}
	if _, err := ControlMove(t.Context(), path, req, func(MoveProgress) { t.Error("a refusal reports nothing") }); err == nil || err.Error() != c.err.Error() {
		t.Errorf("got %v, want the refusal's own sentence", err)
	}
	if err := ControlUndrain(t.Context(), path); err == nil || err.Error() != c.err.Error() {
		t.Errorf("undrain: got %v, want the refusal's own sentence", err)
	}
	if c.asked.To != "px" || c.asked.Wait.Duration != 3e9 || len(c.asked.Agents) != 1 {
		t.Errorf("asked %+v, want %+v", c.asked, req)
	}

	c.err, c.moves = nil, []MoveProgress{{Agents: 2, Told: 2}, {Agents: 2, Told: 2, Gone: 2, Over: true}}
	seen := 0
	last, err := ControlMove(t.Context(), path, req, func(MoveProgress) { seen++ })
	if err != nil || seen != 2 || last != c.moves[1] {
		t.Errorf("got %+v after %d reports, %v; want both and the last", last, seen, err)
	}
	c.err, c.moves = errors.New("the proxy broke down"), c.moves[:1]
	if _, err := ControlMove(t.Context(), path, req, func(MoveProgress) {}); err == nil || err.Error() != c.err.Error() {
		t.Errorf("got %v, want the error that came in the middle", err)
	}
	if a, err := ControlAgents(t.Context(), path); err != nil || len(a) != 1 || a[0].ID != "0a0b" {
		t.Errorf("agents: got %+v, %v", a, err)
	}
}

func TestControlRemovesAStaleSocketOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	again, err := ListenControl(path)
	if err != nil {
		t.Fatalf("after a SIGKILL: %v", err)
	}
	again.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenControl(path); err == nil {
		t.Error("a file of another kind was taken")
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("a file of another kind was removed")
	}
}
