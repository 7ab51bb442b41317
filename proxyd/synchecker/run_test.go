package synchecker_test

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"

	"migrationsensor/proto"
	"migrationsensor/proxyd/synchecker"
)

// syn is a SYN without options from 198.18.2.2:40000 to 198.18.1.1:7443, checksums left out.
var syn = []byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x09\x08\x00" +
	"\x45\x00\x00\x28\x00\x00\x40\x00\x40\x06\x00\x00\xc6\x12\x02\x02\xc6\x12\x01\x01" +
	"\x9c\x40\x1d\x13\x00\x00\x00\x07\x00\x00\x00\x00\x50\x02\xfa\xf0\x00\x00\x00\x00")

// TestRun drives the loop: modes take effect, more frames than a batch are answered each, and a stop
// that was asked for is no error.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		port := synchecker.NewMemPort()
		c, err := synchecker.New(synchecker.Config{
			Port: port, Addrs: []netip.Addr{netip.MustParseAddr("198.18.1.1")}, LinkPort: 7443, Budget: synchecker.BudgetConfig{Probability: 1},
			Keys: new(proto.Keyring), Nonces: proto.NewNonceSet(),
			Verified: func(synchecker.Client) (proto.Reply, bool) { return proto.Reply{}, false },
			Admit:    func(proto.Verified, netip.Addr) {},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()

		port.Inject(syn) // off
		want := 0
		for _, step := range []struct {
			mode synchecker.Mode
			n    int // answers to 150 SYNs
		}{{synchecker.Dark, 0}, {synchecker.Defend, 150}, {synchecker.Dark, 0}, {synchecker.Off, 0}} {
			if err := c.SetMode(step.mode); err != nil {
				t.Fatal(err)
			}
			for range 150 {
				port.Inject(syn)
			}
			synctest.Wait()
			want += step.n
			if got := len(port.Sent(want)); got != want {
				t.Errorf("after mode %v: %d answers, want %d", step.mode, got, want)
			}
		}
		if s := c.Stats(); s.SYNSeen != 450 || s.SYNAnswered != 150 {
			t.Errorf("stats %+v, want 450 SYNs seen, 150 answered", s)
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := c.SetMode(synchecker.Dark); err == nil {
			t.Error("a port that is closed was armed")
		}
	})
}
