package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
)

var (
	noSandbox error
	stage     = sync.OnceValues(newStage)
	staged    *fleet.Fleet // what stage made
)

func TestMain(m *testing.M) {
	noSandbox = kernel.Enter()
	code := m.Run()
	if staged != nil {
		if err := staged.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the lab:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// wordPort and originWord are a service whose far end is the test itself.
const (
	wordPort   = 84
	originWord = 9000
)

// newStage makes the programs and one world, which all tests of faults share: it is whole again before each.
func newStage() (*fleet.Fleet, error) {
	dir, err := os.MkdirTemp("/run", "migrate-") // the sandbox's own, gone with it
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=auto", "-ldflags", "-s -w", "-o", dir,
		"./agent/cmd/ms-agent", "./proxyd/cmd/proxyd", "./examples/lab/cmd/ms-lab")
	cmd.Dir = "../../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	staged, err = fleet.New(ctx, fleet.Config{
		Bin: dir, Lab: dir + "/ms-lab", Logs: filepath.Join(dir, "logs"), RTT: 15 * time.Millisecond, Restless: true,
		Services: append(fleet.DefaultServices(), fleet.Service{Name: "word", Port: wordPort, Origin: originWord}),
		Edge:     fleet.Edge{Quiet: 5 * time.Second, Suspend: 30 * time.Second},
	}, func(string, ...any) {})
	if err == nil {
		err = startClient(ctx, staged)
	}
	return staged, err
}

// newTest gives a test the world, whole, with the client at P1.
func newTest(t *testing.T) *fleet.Fleet {
	t.Helper()
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	f, err := stage()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			keepLogs(t, f)
		}
		mend(t, f)
	})
	lead(t, f, "p1")
	return f
}

// keepLogs keeps what the programs said so far.
func keepLogs(t *testing.T, f *fleet.Fleet) {
	for _, name := range []string{"client", "p1", "p2", "p3", "e2", "a1"} {
		if b, err := os.ReadFile(f.Paths(name).Log); err == nil {
			_ = os.WriteFile(filepath.Join(t.ArtifactDir(), name+".log"), b, 0o644)
		}
	}
}

// mend starts what a test has killed.
func mend(t *testing.T, f *fleet.Fleet) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	for _, n := range f.Nodes() {
		if _, err := f.PID(n.Name); err != nil {
			if err := f.Revive(n.Name); err != nil {
				t.Error(err)
			}
		}
	}
	for _, n := range f.Nodes() {
		if err := f.WaitForPeers(ctx, n); err != nil {
			t.Error(err)
		}
	}
}

// lead brings the client to a proxy.
func lead(t *testing.T, f *fleet.Fleet, proxy string) {
	t.Helper()
	err := fleet.Wait(t.Context(), 40*time.Second, "the client comes to "+proxy, f.Children(), func() (bool, error) {
		now, err := whereIs(t.Context(), f)
		if err != nil || now == proxy {
			return err == nil, err
		}
		return false, errors.Join(fmt.Errorf("it is at %s", now), f.Migrate(t.Context(), now, proxy))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// whereIs is where the client is, both its links.
func whereIs(ctx context.Context, f *fleet.Fleet) (string, error) {
	st, err := f.AgentStatus(ctx, "client")
	if err != nil {
		return "", err
	}
	if st.Edge == nil || st.State != "connected" {
		return "", fmt.Errorf("the client is %q: %s", st.State, st.Why)
	}
	return fleet.NameOf(st.Edge.Addr), nil
}

// during runs a transfer and lets something happen when a third of it is done. It fails the test unless every byte arrived.
func during(t *testing.T, f *fleet.Fleet, size int64, happen func()) app.Transferred {
	t.Helper()
	to, _ := lab.P1.Port(lab.TransferPort)
	x, err := startTransfer(f, f.World.Client, to.String(), size, uint64(len(t.Name())))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if !x.last.Done {
			x.stop()
		}
	}()
	if err := x.until(t.Context(), 2*size/3); err != nil {
		t.Fatal(err)
	}
	if x.last.Done {
		t.Fatal("the transfer was over before anything happened")
	}
	happen()
	r, err := x.end(t.Context())
	if err != nil || r.Lost != 0 || r.Wrong != "" {
		t.Fatalf("%v: %d bytes lost, digests %q", err, r.Lost, r.Wrong)
	}
	t.Logf("%d MiB each way in %v, longest wait %v", size>>20, r.Took.Round(time.Millisecond), r.Longest.Round(time.Millisecond))
	return r
}

// within fails the test if a wait was longer than a fault allows; the machine may be busy with other things, so it gets grace.
func within(t *testing.T, r app.Transferred, limit time.Duration) {
	t.Helper()
	const grace = 3 * time.Second
	if r.Longest > limit+grace {
		t.Errorf("the longest wait is %v, want at most %v (and %v of grace)", r.Longest, limit, grace)
	}
}

// provoke has the client say something, whether or not anybody hears it.
func provoke(f *fleet.Fleet) {
	at, _ := lab.P1.Port(lab.EchoPort)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if c, err := f.World.Client.Dial(ctx, "tcp", at.String()); err == nil {
		c.Close()
	}
}

// try fails the test on an error.
func try(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// far is the far end of connections that the test itself serves.
func far(t *testing.T, f *fleet.Fleet) net.Listener {
	t.Helper()
	at, _ := lab.BackOrigin.Port(originWord)
	l, err := f.World.Origin.Listen("tcp", at.String())
	try(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// joined is a connection of the client's to the far end, through P1's address, and the far end's side of it.
func joined(t *testing.T, f *fleet.Fleet, l net.Listener) (client, origin *net.TCPConn) {
	t.Helper()
	at, _ := lab.P1.Port(wordPort)
	c, err := f.World.Client.Dial(t.Context(), "tcp", at.String())
	try(t, err)
	t.Cleanup(func() { c.Close() })
	o, err := l.Accept()
	try(t, err)
	t.Cleanup(func() { o.Close() })
	limit := time.Now().Add(2 * time.Minute)
	try(t, errors.Join(c.SetDeadline(limit), o.SetDeadline(limit)))
	return c.(*net.TCPConn), o.(*net.TCPConn)
}

// says has one end say something to the other.
func says(t *testing.T, from, to net.Conn, what string) {
	t.Helper()
	_, err := io.WriteString(from, what)
	try(t, err)
	b := make([]byte, len(what))
	if _, err := io.ReadFull(to, b); err != nil || string(b) != what {
		t.Fatalf("heard %q, %v, want %q", b, err, what)
	}
}

// silenced is for the time of a test.
func silenced(t *testing.T, f *fleet.Fleet, way lab.Way) {
	t.Helper()
	undo, err := f.World.Silence(lab.P1, way)
	try(t, err)
	t.Cleanup(func() {
		if err := undo(); err != nil {
			t.Error(err)
		}
	})
}

// stopped stops a program for the time of a test.
func stopped(t *testing.T, f *fleet.Fleet, name string) (goOn func()) {
	t.Helper()
	try(t, f.Signal(name, syscall.SIGSTOP))
	once := sync.OnceFunc(func() {
		if err := f.Signal(name, syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(once)
	return once
}
