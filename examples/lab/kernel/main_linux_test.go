package kernel

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

var noSandbox error

func TestMain(m *testing.M) {
	noSandbox = Enter()
	os.Exit(m.Run())
}

func TestSandboxHasNoWayOut(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	if os.Getpid() != 1 {
		t.Errorf("pid %d inside, want 1: a kill of it must end everything", os.Getpid())
	}
	routes, err := os.ReadFile("/proc/self/net/route")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(routes), "\n"); lines != 1 {
		t.Errorf("the sandbox has routes:\n%s", routes)
	}
}

func TestNamespaceIsMarkedAndTheSandboxIsNot(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	if err := CheckInside(); !errors.Is(err, ErrOutside) {
		t.Errorf("outside a lab namespace: got %v, want ErrOutside", err)
	}
	n, err := NewNamespace("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Do(CheckInside); err != nil {
		t.Errorf("inside a lab namespace: %v", err)
	}
	if out, err := n.Output(t.Context(), "cat", "/proc/sys/net/ipv4/ip_forward"); err != nil || strings.TrimSpace(out) != "0" {
		t.Errorf("a child sees ip_forward %q (%v), want 0 whatever the host has", out, err)
	}
}

func TestChildrenDieWithTheNamespace(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	n, err := NewNamespace("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	n.Close()
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("child ended with %v, want killed", err)
	}
}
