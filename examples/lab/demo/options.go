package demo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"migrationsensor/examples/lab/flood"
)

// FileSize is the paper's picture, 760 KB.
const FileSize = 760 * 1024

// Options are what can be chosen about a run.
type Options struct {
	Bin      string // where proxyd and ms-agent are
	Out      string // where figures and logs go
	RTT      time.Duration
	Loss     float64
	LinkRate float64 // bits per second, 0 = no limit
	Peace    time.Duration
	Flood    time.Duration
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
	if o.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.Bin = filepath.Dir(self)
	}
	var err error
	if o.Bin, err = filepath.Abs(o.Bin); err != nil {
		return err
	}
	for _, name := range []string{"proxyd", "ms-agent"} {
		if _, err := os.Stat(filepath.Join(o.Bin, name)); err != nil {
			return fmt.Errorf("%w: build it with `make`, or say where it is with --bin", err)
		}
	}
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
