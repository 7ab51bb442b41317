package demo

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/scan"
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
	Move     time.Duration // after each planned thing: a proxy's death, a drain, the way home
	After    time.Duration
	Kind     flood.Kind
	Rate     int    // packets per second
	Attacker string // "own" or "hping3", the paper's
	Quiet    time.Duration
	Suspend  time.Duration
	Seed     uint64
	Command  string // how it was started, for the figures

	name      string // of the figures' file; empty is demo
	v4        bool   // the world has no IPv6
	entryDies bool   // P1 is killed too, after it has taken over from P2

	lab   string // a program with ms-lab's commands; empty is this one
	light bool   // for a test under the race detector: the same with little traffic
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
		Bin: o.Bin, Lab: o.lab, Logs: filepath.Join(o.Out, "demo-logs"),
		RTT: o.RTT, Loss: o.Loss, LinkRate: o.LinkRate, Seed: o.Seed,
		Nodes: nodes(),
		Edge:  fleet.Edge{SYN: n, ICMP: n, UDP: n, Quiet: o.Quiet, Suspend: o.Suspend},
	}
}

// attack is the flood, on P1's web port.
func (o *Options) attack() fleet.Attack {
	at, _ := lab.P1.Port(lab.WebPort)
	return fleet.Attack{Kind: o.Kind, Rate: o.Rate, Time: o.Flood, Target: at, Attacker: o.Attacker}
}

// scanOf is a scan of a hidden proxy.
func scanOf(target, unused netip.Addr) scan.Config {
	return scan.Config{Target: target, Unused: unused, Link: lab.LinkPort, Rate: 1000}
}
