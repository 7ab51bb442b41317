package tables

import (
	"fmt"
	"math"
	"time"

	"migrationsensor/examples/lab/fleet"
)

// Options are what can be chosen about a run.
type Options struct {
	Bin      string // where proxyd and ms-agent are
	Lab      string // a program with ms-lab's commands; empty is this one
	Out      string // where figures and logs go
	RTT      time.Duration
	Loss     float64
	LinkRate float64 // bits per second, 0 = no limit
	Seed     uint64
	N        int // rounds of each table, 0 = the default
	Quick    bool
	Command  string // how it was started, for the figures
}

// Check completes the options and refuses what can't work.
func (o *Options) Check() (err error) {
	if o.RTT <= 0 || o.RTT > time.Second {
		return fmt.Errorf("--rtt %v: use more than 0 and at most 1s; the paper does not give its own", o.RTT)
	}
	if !(o.Loss >= 0 && o.Loss <= 0.2) {
		return fmt.Errorf("--loss %g: use 0 to 0.2", o.Loss)
	}
	if !(o.LinkRate >= 0) || math.IsInf(o.LinkRate, 0) {
		return fmt.Errorf("--link-mbit %g: use 0 (no limit) or more", o.LinkRate/1e6)
	}
	if o.N < 0 || o.N > 10_000 {
		return fmt.Errorf("-n %d: use 1 to 10000; the paper has 1000", o.N)
	}
	if o.Command == "" {
		o.Command = "ms-lab paper"
	}
	o.Bin, err = fleet.FindBin(o.Bin)
	return err
}

// sizes are how much is measured. Trials that are begun together really begin at random within spread, and
// retries too: a full backlog is emptied, and the paper's firewall opens, in a rhythm, and trials in
// step would all meet the same of it.
type sizes struct {
	warmUp      int           // rounds that do not count
	warmUpSSH   int           // of Table 4: a whole ssh warms the machine up at once
	unprotected int           // rounds of Table 2
	http, ssh   int           // rounds of Tables 3 and 4
	trials      int           // of a cell of Table 5
	waiting     int           // of its cells that mostly wait, for each round of trials: the paper's shares are small
	spells      int           // floods of each kind, and spells of peace
	patience    time.Duration // of an application for one connect() under the flood
	spread      time.Duration
	spell       time.Duration // of a flood, and of a peace beside it
	groups      []group       // floods of Table 5
	trips       int           // connections of each system whose round trips are counted
}

// The default ends within ten minutes on two cores, the quick one within a minute.
func (o *Options) sizes() sizes {
	s := sizes{
		warmUp: 5, warmUpSSH: 1, unprotected: 60, http: 90, ssh: 25, trials: 24, waiting: 4, spells: 20,
		patience: fleet.ConnectLimit, spread: time.Second, spell: 1200 * time.Millisecond, groups: groups(), trips: 5,
	}
	if o.Quick {
		s = sizes{
			warmUp: 1, unprotected: 4, http: 3, ssh: 1, trials: 2, waiting: 1, spells: 3,
			patience: max(250*time.Millisecond, 10*o.RTT), spread: 100 * time.Millisecond, spell: 1100 * time.Millisecond, groups: groups(), trips: 3,
		}
	}
	if o.N > 0 {
		s.unprotected, s.http, s.ssh, s.trials = o.N, o.N, o.N, max(s.trials, o.N/4)
	}
	return s
}
