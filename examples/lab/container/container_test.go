package container

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab/app"
)

func TestProgressSaysWhatIsFelt(t *testing.T) {
	var p progress
	now := time.Now()
	if got := p.text(now, now.Add(time.Second)); got != "begins" {
		t.Errorf("before anything: %q", got)
	}
	trace := p.start(100 * time.Millisecond)
	p.since = now
	for second, want := range []string{"goes on for 1 s", "goes on for 2 s, stood still for 500 ms", "goes on for 3 s"} {
		from := now.Add(time.Duration(second) * time.Second)
		for i := range 10 {
			if second != 1 || i >= 5 {
				trace.Add(from.Add(time.Duration(i) * 100 * time.Millisecond))
			}
		}
		if got := p.text(from, from.Add(time.Second)); got != want {
			t.Errorf("second %d: %q, want %q", second, got, want)
		}
	}
	if n := trace.Count(); n > 12 {
		t.Errorf("%d arrivals are kept; what was told should be forgotten", n)
	}
	p.stop()
	if got := p.text(now, now); got != "begins" {
		t.Errorf("after its end: %q", got)
	}
}

// TestSSHEndsWithItsInput: what is piped into it comes back, and it ends.
func TestSSHEndsWithItsInput(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := app.NewSSHServer(l, true)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	in, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := typed.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	typed.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out strings.Builder
	if err := SSH(ctx, l.Addr().(*net.TCPAddr).AddrPort(), in, &out); err != nil {
		t.Errorf("it ends with %v", err)
	}
	if !strings.Contains(out.String(), "hello") {
		t.Errorf("the far end said %q", out.String())
	}
}

// TestHandEndsWithItsConnection: what a driver does in a container ends with the driver.
func TestHandEndsWithItsConnection(t *testing.T) {
	near, far := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- ServeHand(t.Context(), far) }()
	near.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestLeftOnHostSeesAnInterface(t *testing.T) {
	ifs, err := net.Interfaces()
	if err != nil || len(ifs) == 0 {
		t.Fatalf("interfaces %v, %v", ifs, err)
	}
	if left, _ := LeftOnHost(t.Context(), []string{ifs[0].Name}); len(left) == 0 || left[0] != "interface "+ifs[0].Name {
		t.Errorf("got %v, want %s", left, ifs[0].Name)
	}
	if left, _ := LeftOnHost(t.Context(), []string{"br-nosuch"}); len(left) != 0 {
		t.Errorf("got %v of a bridge that never was", left)
	}
}

func TestNoEngineSaysWhatToDo(t *testing.T) {
	if _, err := NewEngine(t.Context(), t.TempDir(), io.Discard); err == nil || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("a folder without compose.yaml: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := NewEngine(t.Context(), "../../compose", io.Discard); err == nil || !strings.Contains(err.Error(), "apt-get install docker.io") {
		t.Errorf("without docker: %v", err)
	}
}
