package tables

import (
	"time"

	"migrationsensor/examples/lab/live"
)

// Names of the parts.
const (
	partWorld       = "the world"
	partUnprotected = "Table 2: an unprotected destination"
	partHTTP        = "Tables 3 and 4: connect and 760 KB over HTTP, in peace"
	partSSH         = "Table 4: 760 KB over ssh, in peace"
	partFlood       = "Table 5: during the flood"
	partDetect      = "detection"
)

// newProgress estimates the run from round trips: what is wrong with it shows as the run goes on.
func newProgress(s sizes, rtt time.Duration) *live.Progress {
	trips := func(n int, fixed time.Duration) time.Duration { return time.Duration(n)*rtt + fixed }
	return live.NewProgress("The paper's tables, side by side",
		live.Part{Name: partWorld, Units: 3, Each: 1500 * time.Millisecond},
		live.Part{Name: partUnprotected, Units: s.unprotected + s.warmUp, Each: trips(24, 30*time.Millisecond)},
		live.Part{Name: partHTTP, Units: s.http + s.warmUp, Each: trips(80, 100*time.Millisecond)},
		live.Part{Name: partSSH, Units: s.ssh + s.warmUpSSH, Each: trips(150, 1500*time.Millisecond)},
		live.Part{Name: partFlood, Units: len(s.groups) * s.trials, Each: (3*time.Second+3*s.patience)/time.Duration(s.trials) + trips(20, 100*time.Millisecond)},
		live.Part{Name: partDetect, Units: 3 * s.spells, Each: (2*s.spell + 3500*time.Millisecond) / 3},
	)
}
