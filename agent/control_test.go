package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestControlSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "a.sock")
	l, err := listenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("got %v %v, want a socket that only its owner may use", fi, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	refusal := errors.New("not connected yet")
	forget := func(context.Context) error { err := refusal; refusal = nil; return err }
	go func() {
		served <- serveControl(ctx, l, func() Status { return Status{State: stateConnected, Fleet: "test"} }, forget, cancel)
	}()
	c := Control{path}
	s, err := c.Status(t.Context())
	if err != nil || s.State != stateConnected || s.Fleet != "test" {
		t.Errorf("got %+v %v, want the status", s, err)
	}
	if _, err := listenControl(path); !errors.Is(err, ErrRunning) {
		t.Errorf("second agent on the socket: got %v, want %v", err, ErrRunning)
	}
	if err := c.Forget(t.Context()); err == nil || !strings.Contains(err.Error(), "not connected yet") {
		t.Errorf("forget: got %v, want the agent's own reason", err)
	}
	if err := c.Forget(t.Context()); err != nil {
		t.Errorf("forget: %v", err)
	}
	dctx, dcancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer dcancel()
	if err := c.Down(dctx); err != nil {
		t.Errorf("down: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("serve ended with %v", err)
	}
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "no agent is running") {
		t.Errorf("status of nobody: got %v", err)
	}
}

func TestStaleControlSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as SIGKILL leaves it
	l.Close()
	l, err = listenControl(path)
	if err != nil {
		t.Fatalf("a socket that nobody answers on is in nobody's way: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenControl(path); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("got %v: a file that is no socket is never removed", err)
	}
}

func TestEventsKeepTheLast(t *testing.T) {
	var r events
	for i := range maxEvents + 3 {
		r.add(Event{What: "n", Detail: strconv.Itoa(i)})
	}
	r.add(Event{What: "n", Detail: strconv.Itoa(maxEvents + 2)})
	got := r.list()
	if len(got) != maxEvents || got[0].Detail != "3" || got[maxEvents-1].Detail != strconv.Itoa(maxEvents+2) {
		t.Errorf("got %d events from %v to %v, want the last %d, repeats counted once", len(got), got[0], got[len(got)-1], maxEvents)
	}
}
