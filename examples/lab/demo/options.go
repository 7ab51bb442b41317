package demo

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
)

// Options are what can be chosen about a run.
type Options struct {
	Bin      string // where proxyd and ms-agent are
	Out      string // where figures and logs go
	RTT      time.Duration
	Loss     float64
	LinkRate float64 // bits per second, 0 = no limit
	Peace    time.Duration
	Flood    time.Duration
	Move     time.Duration // after a proxy's death and after its drain
	After    time.Duration
	Kind     flood.Kind
	Rate     int    // packets per second
	Attacker string // "own" or "hping3", the paper's
	Quiet    time.Duration
	Suspend  time.Duration
	Seed     uint64
	Command  string // how it was started, for the figures
}

// Check completes the options and refuses what can't work.
func (o *Options) Check() error {
	var err error
	if o.Bin, err = fleet.FindBin(o.Bin); err != nil {
		return err
	}
	return o.check()
}

func (o *Options) check() error {
	if o.Rate < 1 || o.Rate > flood.MaxRate {
		return fmt.Errorf("--rate %d: use 1 to %d packets/s", o.Rate, flood.MaxRate)
	}
	if o.Flood < 3*time.Second {
		return errors.New("--flood: use 3s or more, the proxy counts by the second")
	}
	if o.Attacker != "own" && o.Attacker != "hping3" {
		return fmt.Errorf("--attacker %q: use own or hping3", o.Attacker)
	}
	return nil
}

// threshold is where P1 takes the flood for one: well below it, far above peace.
func (o *Options) threshold() int { return max(100, o.Rate/4) }

// fleet is the paper's fleet under these conditions.
func (o *Options) fleet() fleet.Config {
	n := o.threshold()
	return fleet.Config{
		Bin: o.Bin, Logs: filepath.Join(o.Out, "demo-logs"),
		RTT: o.RTT, Loss: o.Loss, LinkRate: o.LinkRate, Seed: o.Seed,
		Edge: fleet.Edge{SYN: n, ICMP: n, UDP: n, Quiet: o.Quiet, Suspend: o.Suspend},
	}
}
