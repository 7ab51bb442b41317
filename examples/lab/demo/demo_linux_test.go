package demo

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/kernel"
)

var noSandbox error

func TestMain(m *testing.M) {
	noSandbox = kernel.Enter()
	os.Exit(m.Run())
}

// TestDemoOnTheRealKernel plays it with the real programs, curl and ssh.
func TestDemoOnTheRealKernel(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	bin := t.TempDir()
	// The Makefile's flags, so that its cache is used.
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=auto", "-ldflags", "-s -w", "-o", bin,
		"./agent/cmd/ms-agent", "./proxyd/cmd/proxyd", "./examples/lab/cmd/ms-lab")
	cmd.Dir = "../../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	played(t, "kernel", func(ctx context.Context, o Options, out *os.File) error {
		o.Bin, o.lab = bin, filepath.Join(bin, "ms-lab")
		return Run(ctx, o, out)
	})
}

// newPlainWorld is the lab with a plain forwarder in P1's place and no program of ours.
func newPlainWorld(t *testing.T) (*lab.World, *fleet.Origin) {
	t.Helper()
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	w, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	o, err := fleet.ServeOrigin(w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	v4, v6 := lab.P1.Port(lab.WebPort)
	to, _ := lab.BackOrigin.Port(lab.OriginWeb)
	for _, at := range []netip.AddrPort{v4, v6} {
		l, err := w.P1.Listen("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go forward(l, w.P1, to.String())
	}
	return w, o
}

func forward(l net.Listener, from *kernel.Namespace, to string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			o, err := from.Dial(context.Background(), "tcp", to)
			if err != nil {
				return
			}
			defer o.Close()
			go io.Copy(o, c)
			io.Copy(c, o)
		}()
	}
}

// TestFetchTellsWholeFromWrong fetches through the plain forwarder by curl (or ms-lab's stand-in
// for it) and by system calls.
func TestFetchTellsWholeFromWrong(t *testing.T) {
	w, o := newPlainWorld(t)
	curl, err := newFetcher(o.Digest)
	if err != nil {
		t.Fatal(err)
	}
	v4, v6 := lab.P1.Port(lab.WebPort)
	for _, at := range []netip.AddrPort{v4, v6} {
		for name, s := range map[string]fleet.Sample{"curl": curl.fetch(t.Context(), w.Client, at), "system calls": o.Fetch(t.Context(), w.Client, at)} {
			if !s.Connected || !s.Whole || s.Wrong {
				t.Fatalf("%s from %s: %+v", name, at, s)
			}
			if s.Connect < 15*time.Millisecond || s.Total <= s.Connect {
				t.Errorf("%s from %s: connect %v, total %v over a link of 15 ms round trip", name, at, s.Connect, s.Total)
			}
		}
	}
	other := *curl
	other.digest[0] ^= 1
	if s := other.fetch(t.Context(), w.Client, v4); !s.Wrong || s.OK() {
		t.Errorf("another digest: %+v, want wrong", s)
	}
	closed, _ := lab.P1.Port(lab.EchoPort)
	if s := curl.fetch(t.Context(), w.Client, closed); s.Connected || s.Whole || s.Err == "" {
		t.Errorf("a closed port: %+v, want a failure with its reason", s)
	}
}

// TestPlainCollapsesUnderTheFlood is the paper's starting point: with 128 half-open connections and
// no SYN cookies, 1,000 SYN/s with invented sources keep a plain client out.
func TestPlainCollapsesUnderTheFlood(t *testing.T) {
	w, o := newPlainWorld(t)
	v4, _ := lab.P1.Port(lab.WebPort)
	if s := o.Fetch(t.Context(), w.Plain, v4); !s.OK() {
		t.Fatalf("before the flood: %+v", s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var attack sync.WaitGroup
	attack.Go(func() {
		w.Attacker.Block(func() error {
			_, err := flood.Run(ctx, flood.Config{Kind: flood.SYN, Target: v4, Sources: lab.FloodSources4, Rate: 1000, Time: time.Minute})
			return err
		})
	})
	defer attack.Wait()
	defer cancel()
	before, err := w.P1.Traffic(lab.Uplink)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		now, err := w.P1.Traffic(lab.Uplink)
		if err != nil {
			t.Fatal(err)
		}
		if now.RxPackets > before.RxPackets+300 { // more than the backlog holds
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the flood does not arrive")
		}
		time.Sleep(10 * time.Millisecond)
	}
	failed := 0
	for range 3 {
		short, stop := context.WithTimeout(t.Context(), time.Second)
		if s := o.Fetch(short, w.Plain, v4); !s.OK() {
			failed++
		}
		stop()
	}
	if failed < 2 {
		t.Errorf("%d of 3 fetches failed under the flood, want a collapse", failed)
	}
}
