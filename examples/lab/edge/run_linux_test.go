package edge

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/kernel"
)

var noSandbox error

func TestMain(m *testing.M) {
	noSandbox = kernel.Enter()
	os.Exit(m.Run())
}

// TestSmallRun plays the bench with as little of everything as there can be, and reads what it wrote.
func TestSmallRun(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	if os.Getuid() != 0 {
		t.Skip("storms need root: eBPF programs")
	}
	bin, err := os.MkdirTemp("/run", "edge-") // the sandbox's own, gone with it
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-trimpath", "-o", bin, "./agent/cmd/ms-agent", "./proxyd/cmd/proxyd", "./examples/lab/cmd/ms-lab")
	build.Dir = "../../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	out, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	o := Options{Bin: bin, Lab: bin + "/ms-lab", Out: t.TempDir(), Only: []string{haproxy}, Command: "a test", small: &sizes{
		connects: 5, gap: time.Millisecond, patience: 3 * time.Second, fetch: 100 * time.Millisecond, warm: 50 * time.Millisecond,
		cost: 100 * time.Millisecond, costs: 1,
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	ran := Run(ctx, o, out)
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	if ran != nil {
		t.Fatalf("%v:\n%s", ran, text)
	}
	json, err := os.ReadFile(o.Out + "/edge.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"haproxy 1000/s fresh                            100.0 %", "backlog max/s fresh                            not run: not asked for", "PASS"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the table does not say %q:\n%s", want, text)
		}
	}
	if !strings.Contains(string(json), `"`+figures.Schema+`"`) || !strings.Contains(string(json), "cpu.syn.program") {
		t.Errorf("edge.json: %.300s", json)
	}
}

// served is a listener on loopback with a server of one connection's life.
func served(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); serve(c) }()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestConnectCountsAnswersOnly(t *testing.T) {
	at := served(t, func(c net.Conn) {
		b := make([]byte, len(question))
		if _, err := io.ReadFull(c, b); err == nil && string(b) == question {
			io.WriteString(c, "H")
		}
	})
	mute := served(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	v := NewVisitor(t.Context())
	for to, ok := range map[netip.AddrPort]bool{at: true, mute: false} {
		var all []Visit
		if err := v.Connect(Plan{To: to, N: 4, Patience: 300 * time.Millisecond}, &all); err != nil {
			t.Fatal(err)
		}
		for _, x := range all {
			if (x.Error == "") != ok || ok && (x.Took <= 0 || x.All < x.Took) {
				t.Errorf("answered %v: %+v", ok, x)
			}
		}
	}
}

func TestHeldSessionsAreLostWhenTheyAreReset(t *testing.T) {
	cut := make(chan struct{})
	at := served(t, func(c net.Conn) {
		go func() { <-cut; c.Close() }()
		io.Copy(c, c)
	})
	v := NewVisitor(t.Context())
	var held Held
	if err := v.Release(struct{}{}, &held); err == nil {
		t.Error("released what is not held")
	}
	open := 0
	if err := v.Hold(HoldArgs{To: at, N: 1}, &open); err != nil {
		t.Fatal(err)
	}
	if err := v.Release(struct{}{}, &held); err != nil || held.Lost != 0 || held.Sessions != 1 {
		t.Errorf("%v, %+v: want none lost", err, held)
	}
	if err := v.Hold(HoldArgs{To: at, N: 1}, &open); err != nil {
		t.Fatal(err)
	}
	close(cut)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		v.holding.mu.Lock()
		lost := v.holding.held.Lost
		v.holding.mu.Unlock()
		if lost == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody notices that the session was cut")
		}
	}
	if err := v.Release(struct{}{}, &held); err != nil || held.Lost != 1 || held.Why == "" {
		t.Errorf("%v, %+v: want the one that was cut", err, held)
	}
}

func TestNobodyComesWithoutAKey(t *testing.T) {
	v := NewVisitor(t.Context())
	var all []Visit
	if err := v.Come(Plan{N: 1}, &all); err == nil {
		t.Error("agents that have not joined come")
	}
	v.members = []member{{}}
	if err := v.Come(Plan{N: 1, Patience: time.Second, To: netip.MustParseAddrPort("198.18.72.11:7443")}, &all); err != nil || !strings.Contains(all[0].Error, "no key") {
		t.Errorf("%v, %+v", err, all)
	}
	var proofs [][]byte
	if err := v.Proofs(Plan{N: 1}, &proofs); err == nil {
		t.Error("proofs for an edge that nobody knows")
	}
}

func TestDownloadCountsWholeOnes(t *testing.T) {
	var n atomic.Int64
	at := served(t, func(c net.Conn) {
		b := make([]byte, 4096)
		if _, err := c.Read(b); err == nil {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
			io.WriteString(c, "0123456789"[:5+5*(n.Add(1)%2)]) // every second one is cut off
		}
	})
	var got Got
	if err := NewVisitor(t.Context()).Download(Fetch{URL: "http://" + at.String(), Time: 100 * time.Millisecond, Patience: time.Second}, &got); err != nil {
		t.Fatal(err)
	}
	if got.Whole == 0 || got.Broken == 0 || got.Bytes < int64(10*got.Whole+5*got.Broken) || got.Bytes > int64(10*got.Whole+5*got.Broken)+10 || got.Took < 100*time.Millisecond {
		t.Errorf("got %+v", got)
	}
}
