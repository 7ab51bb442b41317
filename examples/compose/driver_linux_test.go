package compose

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrationsensor/examples/lab/container"
	"migrationsensor/examples/lab/figures"
)

// driver is `ms-lab compose` as make compose-demo runs it.
type driver struct {
	*testing.T
	cmd   *exec.Cmd
	lines chan string // what it prints; closed at its end
	said  strings.Builder
}

func command(t *testing.T, out string) *exec.Cmd {
	cmd := exec.Command("../../bin/ms-lab", "compose", "--dir", ".", "--out", out)
	cmd.Env = append(os.Environ(), "BENCH=quick")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func start(t *testing.T) *driver {
	t.Helper()
	d := &driver{T: t, cmd: command(t, t.ArtifactDir()), lines: make(chan string, 1000)}
	out, err := d.cmd.StdoutPipe()
	if err == nil {
		d.cmd.Stderr = d.cmd.Stdout
		err = d.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			d.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = d.cmd.Process.Signal(os.Interrupt) // it has ended, mostly
		for range d.lines {
		}
		_ = d.cmd.Wait() // waited for already, mostly
	})
	return d
}

// until reads its output up to a line with a text.
func (d *driver) until(text string) {
	d.Helper()
	limit := time.After(90 * time.Second)
	for {
		select {
		case line, ok := <-d.lines:
			d.said.WriteString(line + "\n")
			if strings.Contains(line, text) {
				return
			}
			if !ok {
				d.Fatalf("it ended before it said %q:\n%s", text, d.said.String())
			}
		case <-limit:
			d.Fatalf("it has not said %q:\n%s", text, d.said.String())
		}
	}
}

// end waits for its end.
func (d *driver) end() error {
	for line := range d.lines {
		d.said.WriteString(line + "\n")
	}
	return d.cmd.Wait()
}

// TestDriverLeavesNothing: a driver that is stopped removes all, one that is killed leaves it to the next, and a second one does not
// begin.
func TestDriverLeavesNothing(t *testing.T) {
	if _, err := os.Stat("../../bin/ms-lab"); err != nil {
		t.Skip("the programs are not built: run make")
	}
	e, err := container.NewEngine(t.Context(), ".", io.Discard, "COMPOSE_PROJECT_NAME=migrationsensor")
	if errors.Is(err, container.ErrNoEngine) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Down(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	nothing := func(when string) {
		t.Helper()
		if left, err := e.Left(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("%s there are %v, %v: want nothing", when, left, err)
		}
	}

	killed := start(t)
	killed.until("all containers run")
	if said, err := command(t, t.TempDir()).CombinedOutput(); err == nil || !strings.Contains(string(said), "another one runs (process ") {
		t.Errorf("a second driver: %v, %s: want it refused with a sentence", err, said)
	}
	if err := killed.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.end() // of SIGKILL
	if left, err := e.Left(t.Context()); err != nil || len(left) == 0 {
		t.Fatalf("a killed driver left %v, %v: the test tests nothing", left, err)
	}

	stopped := start(t)
	stopped.until("an earlier run was killed")
	stopped.until("peace: everybody is served by P1")
	if err := stopped.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	exit, ok := errors.AsType[*exec.ExitError](stopped.end())
	if !ok || exit.ExitCode() != 1 {
		t.Errorf("a driver that was stopped ends with %v, want status 1", exit)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %v to end", took)
	}
	nothing("after Ctrl-C")
	var f figures.File
	b, err := os.ReadFile(filepath.Join(t.ArtifactDir(), "compose.json"))
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil || f.Verdict == "pass" || f.Host.World != "compose" {
		t.Errorf("compose.json of a run that was stopped: %v, verdict %q in world %q", err, f.Verdict, f.Host.World)
	}

	early := start(t)
	early.until("starting the containers")
	if err := early.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = early.end() // its status says that it was stopped
	nothing("after Ctrl-C while the containers start")

	if _, err := e.Docker(t.Context(), "network", "create", "--subnet", "198.18.72.128/25", "ms-test-stale"); err != nil {
		t.Fatal(err)
	}
	said, err := command(t, t.TempDir()).CombinedOutput()
	if err == nil || !strings.Contains(string(said), "docker network rm ms-test-stale") {
		t.Errorf("beside a network with the same addresses: %v, %s: want it refused, and what to do", err, said)
	}
	if _, err := e.Docker(t.Context(), "network", "rm", "ms-test-stale"); err != nil {
		t.Error(err)
	}
	nothing("at the end")
}
