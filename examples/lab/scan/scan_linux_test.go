package scan

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/kernel"
)

var noSandbox error

func TestMain(m *testing.M) {
	noSandbox = kernel.Enter()
	os.Exit(m.Run())
}

func TestRefusesOutsideTheLab(t *testing.T) {
	c := Config{Target: lab.P2.V4, Unused: lab.Unused.V4}
	if _, err := Run(t.Context(), c); !errors.Is(err, kernel.ErrOutside) {
		t.Errorf("got %v, want ErrOutside", err)
	}
	c.Target = netip.MustParseAddr("192.0.2.1")
	if _, err := Run(t.Context(), c); !errors.Is(err, flood.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
}

// TestFindsWhoAnswersAndNobodyElse: a proxy without a firewall is found by its kernel's answers,
// two addresses that nobody has look alike, and the router's own answers are not taken for theirs.
func TestFindsWhoAnswersAndNobodyElse(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	w, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, v6 := range []bool{false, true} {
		open, unused, other := lab.P2.V4, lab.Unused.V4, netip.MustParseAddr("198.18.72.201")
		if v6 {
			open, unused, other = lab.P2.V6, lab.Unused.V6, netip.MustParseAddr("2001:2:0:72::201")
		}
		found := scan(t, w, Config{Target: open, Unused: unused})
		// An open kernel resets every SYN, ACK and FIN, refuses UDP and answers echo.
		if found.Target.Replies < found.Probes/2 || found.Unused.Replies != 0 || found.Alike() {
			t.Errorf("a proxy without a firewall: %+v, want answers from it alone", found)
		}
		if found.Target.First == "" {
			t.Error("the first answer is not described")
		}
		dark := scan(t, w, Config{Target: other, Unused: unused})
		if dark.Replies() != 0 || !dark.Alike() {
			t.Errorf("two unused addresses don't look alike: %+v", dark)
		}
		if len(dark.Target.Others) == 0 {
			t.Errorf("the router did not answer TTL 1: %+v, so the scan would miss others' answers", dark)
		}
	}
}

func scan(t *testing.T, w *lab.World, c Config) (r Result) {
	t.Helper()
	c.Ports, c.Rate = []uint16{22, 80, 443}, MaxRate
	err := w.Attacker.Block(func() (err error) { r, err = Run(t.Context(), c); return err })
	if err != nil {
		t.Fatal(err)
	}
	return r
}
