package firewall

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const insideUserns = "FIREWALL_TEST_USERNS"

// The firewall must not need the host's root: a user namespace gives enough.
func TestUserNamespace(t *testing.T) {
	if os.Getenv(insideUserns) != "" || os.Getuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^(TestEntryDefending|TestHiddenHearsReplies)$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), insideUserns+"=1", "GOCOVERDIR="+t.TempDir())
	cmd.Dir = "/"
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: one, GidMappings: one, Pdeathsig: syscall.SIGKILL,
		Credential: &syscall.Credential{NoSetGroups: true}, // root in there, nobody out here
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
			t.Skipf("no user namespaces here: %v", err)
		}
		t.Fatalf("as nobody in a user namespace: %v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Errorf("skipped in a user namespace:\n%s", out)
	}
}

// Without the right the error says which.
func TestMissingRight(t *testing.T) {
	if os.Getenv(insideUserns) == "no rights" {
		f, err := New(Config{Interfaces: []string{"lo"}, Addrs: []netip.Addr{families[0].edge}, LinkPort: linkPort})
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Open()
		os.Stdout.WriteString(err.Error() + "\n")
		return
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestMissingRight$", "-test.count=1")
	cmd.Env = append(os.Environ(), insideUserns+"=no rights", "GOCOVERDIR="+t.TempDir())
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
		Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("needs CAP_NET_ADMIN; in docker compose: cap_add: [NET_ADMIN]")) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}
