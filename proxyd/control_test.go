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
		done <- ServeControl(ctx, l, func() Status { return Status{Node: "p1", State: Active, Agents: 3} }, stop)
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
