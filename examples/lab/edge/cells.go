package edge

import (
	"fmt"
	"strconv"
	"time"

	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
)

// The systems.
const (
	backlog    = "backlog" // the kernel without SYN cookies, 128 half-open connections
	syncookies = "syncookies"
	synproxy   = "synproxy" // of nftables
	haproxy    = "haproxy"  // with SYN cookies
	ms         = "ms"
)

var baselines = []string{backlog, syncookies, synproxy, haproxy}

// The kinds of flood. All have fresh random sources.
const (
	fresh  = "fresh"
	random = "random" // carries 76 random bytes
	replay = "replay" // carries a valid proof that somebody else has sent
)

// The data paths of the SYN Checker.
const (
	native   = "xdp-native"
	generic  = "xdp-generic"
	afPacket = "af_packet"
)

var paths = []string{native, generic, afPacket}

// The shares of SYNs that are answered: the paper's, and as many as the budget allows.
const (
	quarter = "0.25"
	budget  = "budget"
	all     = "1" // every SYN, for what an answer costs
)

// top is the rate of a storm: the most that this machine can make.
const top = 0

// cell is one thing that is measured: a system under one flood.
type cell struct {
	system  string
	path, p string // MS only
	keyed   bool   // MS only: its clients come with keyed SYNs
	rate    int    // SYN/s, or top
	kind    string
}

func (c cell) rateText() string {
	if c.rate == top {
		return "max"
	}
	return strconv.Itoa(c.rate)
}

func (c cell) String() string {
	s := c.system
	if c.system == ms {
		s += fmt.Sprintf(" by %s, p = %s, %s SYN", c.path, c.p, c.syn())
	}
	return fmt.Sprintf("%s under %s SYN/s, %s", s, c.rateText(), c.kind)
}

func (c cell) syn() string {
	if c.keyed {
		return "keyed"
	}
	return "plain"
}

// setting is how a proxyd runs: its cells are measured one after the other.
type setting struct{ path, p string }

// edge is the setting as proxyd's configuration.
func (s setting) edge() fleet.Edge {
	e := attacked
	e.Path = s.path
	switch s.p {
	case quarter:
		e.P = 0.25
	case all:
		e.P, e.Answers = 1, flood.MaxStorm
	}
	return e
}

// attacked is an edge that takes the least of the floods for one, and defends until it is stopped.
var attacked = fleet.Edge{SYN: 300, Quiet: 5 * time.Minute, Suspend: 10 * time.Minute}

// The floods' rates, the slowest first, but for the one that a data path of ours is made for.
const (
	paperRate = 1000
	midRate   = 100_000
	skbRate   = 800_000 // about what a generator of ordinary packets makes here, and so what published measurements reach
)

// baselineCells are what is measured of a system that is not ours: it reads no payload, so kinds make no difference.
func baselineCells(system string) (cells []cell) {
	for _, rate := range []int{paperRate, midRate, skbRate, top} {
		cells = append(cells, cell{system: system, rate: rate, kind: fresh})
	}
	return cells
}

// cells are what is measured with a setting. With the paper's p clients come with plain SYNs, as from all systems but Linux; with
// the budget they come with both.
func (x setting) cells() (cells []cell) {
	for _, rate := range []int{paperRate, midRate, int(limits[x.path].rate), top} {
		c := cell{system: ms, path: x.path, p: x.p, rate: rate, kind: fresh}
		cells = append(cells, c)
		if x.p == quarter {
			continue
		}
		c.keyed = true
		cells = append(cells, c)
		if rate == top {
			for _, kind := range []string{random, replay} {
				c.kind = kind
				cells = append(cells, c)
			}
		}
	}
	return cells
}

// settings are all of them.
func settings() (list []setting) {
	for _, path := range paths {
		for _, p := range []string{budget, quarter} {
			list = append(list, setting{path, p})
		}
	}
	return list
}
