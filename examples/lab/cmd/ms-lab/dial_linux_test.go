package main

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/examples/lab/kernel"
)

var noSandbox error

// TestMain is ms-lab itself where a test starts it as `ms-lab dial …`.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "dial" {
		main()
		return
	}
	noSandbox = kernel.Enter()
	os.Exit(m.Run())
}

const greeting = "SSH-2.0-lab\r\n" // an ssh server speaks first

// newServer is a machine with a server that greets, wants a line and says which it was.
func newServer(t *testing.T) (ns *kernel.Namespace, at string, lines <-chan string) {
	t.Helper()
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	ns, err := kernel.NewNamespace("server", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	if err := ns.Up("lo", netip.MustParsePrefix("198.18.80.30/32")); err != nil {
		t.Fatal(err)
	}
	l, err := ns.Listen("tcp", "198.18.80.30:2222")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	got := make(chan string, 8)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(greeting))
			line, _ := bufio.NewReader(c).ReadString('\n')
			got <- line
			c.Close()
		}
	}()
	return ns, l.Addr().String(), got
}

// flagSets are the two ways to connect, with what the server sees first.
func flagSets(t *testing.T) map[string][]string {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(strings.Repeat("0f", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string][]string{"plain": nil, "paper": {"--paper", "--rtt=0s", "--key-file=" + key}}
}

func TestDialPassesTheConnectionOn(t *testing.T) {
	ns, at, lines := newServer(t)
	for name, flags := range flagSets(t) {
		t.Run(name, func(t *testing.T) {
			c := received(t, ns, append([]string{"dial", at}, flags...))
			if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(c).ReadString('\n'); line != greeting {
				t.Errorf("the server says %q, %v", line, err)
			}
			if _, err := c.Write([]byte("hello\n")); err != nil {
				t.Fatal(err)
			}
			if name == "paper" { // its first handshake
				if line := next(t, lines); line != "" {
					t.Errorf("the first connection carried %q", line)
				}
			}
			if line := next(t, lines); line != "hello\n" {
				t.Errorf("the server heard %q", line)
			}
		})
	}
}

// received runs ms-lab with a unix socket as standard output and returns the connection out of it.
func received(t *testing.T, ns *kernel.Namespace, args []string) net.Conn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "standard output")
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdout, cmd.Stderr = theirs, os.Stderr
	err = ns.Start(cmd)
	theirs.Close()
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatal(err)
	}
	b, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, rn, _, _, err := unix.Recvmsg(pair[0], b, rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n != 1 {
		t.Fatalf("%d bytes, %v, want one", n, err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors %v, %v", fds, err)
	}
	f := os.NewFile(uintptr(fds[0]), "connection")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func next(t *testing.T, lines <-chan string) string {
	t.Helper()
	select {
	case line := <-lines:
		return line
	case <-time.After(20 * time.Second):
		t.Fatal("the server heard nothing for 20 s")
		return ""
	}
}

// TestSSHTakesTheConnection: a real ssh sends its version over what ms-lab connected.
func TestSSHTakesTheConnection(t *testing.T) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("no ssh here: apt-get install openssh-client")
	}
	ns, at, lines := newServer(t)
	for name, flags := range flagSets(t) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			proxy := strings.Join(append([]string{self(t), "dial", at}, flags...), " ")
			said, _ := ns.Output(ctx, ssh, "-F", "none", "-o", "BatchMode=yes", "-o", "ProxyUseFdpass=yes", "-o", "ProxyCommand="+proxy, "server")
			if name == "paper" {
				_ = next(t, lines)
			}
			if line := next(t, lines); !strings.HasPrefix(line, "SSH-2.0-OpenSSH") {
				t.Errorf("the server heard %q; ssh said %s", line, said)
			}
		})
	}
}

func self(t *testing.T) string {
	t.Helper()
	name, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return name
}
