package compose

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/container"
	"migrationsensor/examples/lab/fleet"
)

// hands is the demo as a person starts it: without the label of a driver.
type hands struct {
	*testing.T
	*container.Engine
	told *bytes.Buffer
}

// byHand builds and starts it; at the end of the test nothing is left.
func byHand(t *testing.T) hands {
	t.Helper()
	if _, err := os.Stat("../../bin/proxyd"); err != nil {
		t.Skip("the programs are not built: run make")
	}
	h := hands{t, nil, &bytes.Buffer{}}
	var err error
	h.Engine, err = container.NewEngine(t.Context(), ".", h.told, "COMPOSE_PROJECT_NAME=migrationsensor")
	if errors.Is(err, container.ErrNoEngine) {
		t.Skip(err)
	}
	if err == nil {
		err = h.Clear(t.Context(), t.Logf)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			if err := h.SaveLogs(ctx, t.ArtifactDir()); err != nil {
				t.Log(err)
			}
			t.Logf("the containers' logs are in %s", t.ArtifactDir())
		}
		bridges, berr := h.Bridges(ctx)
		if err := errors.Join(berr, h.Down(ctx)); err != nil {
			t.Error(err)
		}
		if left, skipped := container.LeftOnHost(ctx, bridges); len(left) > 0 {
			t.Errorf("left on this machine: %v (%s)", left, skipped)
		}
	})
	for _, args := range [][]string{{"build", "router"}, {"up", "-d", "--no-build"}} {
		if _, err := h.Compose(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// must runs a docker command.
func (h hands) must(args ...string) string {
	h.Helper()
	out, err := h.Docker(h.Context(), args...)
	if err != nil {
		h.Fatal(err)
	}
	return out
}

// until waits for something, with a sentence for when it does not come.
func (h hands) until(limit time.Duration, what string, ok func() (bool, error)) {
	h.Helper()
	if err := fleet.Wait(h.Context(), limit, what, nil, ok); err != nil {
		h.Fatal(err)
	}
}

// fetches has the application fetch the file from P1's address.
func (h hands) fetches(what string) {
	h.Helper()
	var s fleet.Sample
	if err := h.Call(h.Context(), "app", "Fetch", netip.AddrPortFrom(lab.P1.V4, lab.WebPort), &s); err != nil || !s.OK() {
		h.Errorf("%s: the application's fetch: %+v, %v", what, s, err)
	}
}

// appSays is the application's log so far.
func (h hands) appSays() string { return h.must("logs", "ms-app") }

// lives looks whether ssh and download of the application went on without an end.
func (h hands) lives(what string) {
	h.Helper()
	if log := h.appSays(); strings.Contains(log, "ENDED") || strings.Contains(log, "FAILED") || strings.Contains(log, "WRONG") {
		h.Errorf("%s: the application says\n%s", what, log)
	}
}
