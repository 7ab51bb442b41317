package lab

import (
	"os"
	"testing"

	"migrationsensor/examples/lab/kernel"
)

// noSandbox says why the tests on the real kernel are skipped.
var noSandbox error

func TestMain(m *testing.M) {
	noSandbox = kernel.Enter() // returns inside the sandbox, or with the reason why there is none
	os.Exit(m.Run())
}

func newWorld(t *testing.T, c Config) *World {
	t.Helper()
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	return w
}
