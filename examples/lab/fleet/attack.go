package fleet

import (
	"net/netip"
	"time"

	"migrationsensor/examples/lab/flood"
)

// Attack is one flood.
type Attack struct {
	Kind     flood.Kind
	Rate     int // packets per second
	Time     time.Duration
	Target   netip.AddrPort
	Attacker string // "own", or "hping3", the paper's
}
