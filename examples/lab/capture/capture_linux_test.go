package capture

import (
	"io"
	"os"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/kernel"
)

var noSandbox error

func TestMain(m *testing.M) {
	noSandbox = kernel.Enter()
	os.Exit(m.Run())
}

// TestCaptureCountsWhatTCPIsKnownToTake holds the measure against what is known: a handshake is one round trip, and a
// question with its answer another.
func TestCaptureCountsWhatTCPIsKnownToTake(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	const rtt = 40 * time.Millisecond
	w, err := lab.New(lab.Config{RTT: rtt})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	v4, v6 := lab.P1.Port(lab.EchoPort)
	for _, at := range []string{v4.String(), v6.String()} {
		l, err := w.P1.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			if c, err := l.Accept(); err == nil {
				io.Copy(c, c)
				c.Close()
			}
		}()
	}
	c, err := Open(w.Plain, lab.Uplink)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{v4.String(), v6.String()} {
		began := time.Now()
		conn, err := w.Plain.Dial(t.Context(), "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		connected := time.Now()
		conn.Write([]byte("x"))
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if got := RoundTrips(c.Between(began, connected), rtt); got != 1 {
			t.Errorf("%s: connect: %d round trips, want 1: %v", at, got, c.Between(began, connected))
		}
		if got := RoundTrips(c.Between(began, time.Now()), rtt); got != 2 {
			t.Errorf("%s: connect and an echo: %d round trips, want 2: %v", at, got, c.Between(began, time.Now()))
		}
		conn.Close()
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if len(c.Between(time.Time{}, time.Now())) == 0 {
		t.Error("what was captured is gone with Close")
	}
	if _, err := Open(w.Plain, "nothing0"); err == nil {
		t.Error("a capture at an interface that is not there")
	}
}
