package kernel

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
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

// TestContainerWithOurAddressesIsInside: it has no mark, and nothing in it leads to the outside.
func TestContainerWithOurAddressesIsInside(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	n, err := NewNamespace("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	unmark := func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetAlias(lo, "no mark")
	}
	if err := n.Do(unmark); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		address string
		inside  bool
	}{{"", false}, {"198.18.9.1/32", true}, {"2001:2:0:9::1/128", true}, {"192.0.2.1/32", false}} {
		if tt.address != "" {
			if err := n.Up("lo", netip.MustParsePrefix(tt.address)); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.Do(CheckInside); (err == nil) != tt.inside {
			t.Errorf("with %q besides: got %v, want inside %v", tt.address, err, tt.inside)
		}
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
