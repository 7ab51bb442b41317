package migrate

import (
	"flag"
	"testing"
	"time"
)

// sessions move at once in TestF51ManyAtOnceInMemory; the bench has more.
var sessions = flag.Int("sessions", 60, "that move at once in TestF51ManyAtOnceInMemory")

// TestF51ManyAtOnceInMemory moves many sessions at once: each comes to P2, and no byte and no connection is lost.
func TestF51ManyAtOnceInMemory(t *testing.T) {
	m, err := InMemory(t.Context(), *sessions, t.Logf)
	t.Logf("moved %d, last %v, control %v, used %v", m.Moved, m.Last, m.Control, m.Used)
	for _, f := range m.figures() {
		t.Logf("%s %s", title(f), number(f))
	}
	switch {
	case err != nil:
		t.Fatal(err)
	case m.Moved != m.Sessions || m.controls != m.Sessions:
		t.Errorf("%d data links and %d control links of %d have moved", m.Moved, m.controls, m.Sessions)
	case m.Lost != 0 || m.Broken != 0:
		t.Errorf("%d bytes of %d are lost, %d connections are broken", m.Lost, m.Echoed, m.Broken)
	case m.Control-m.Last > 30*time.Second:
		t.Errorf("the last control link came %v after the last data link, want 30s at most", m.Control-m.Last)
	}
}
