package edge

import (
	"slices"
	"time"

	"migrationsensor/examples/lab/fleet"
)

// Options are what can be chosen about a run.
type Options struct {
	Bin     string   // where proxyd and ms-agent are
	Lab     string   // a program with ms-lab's commands; empty is this one
	Out     string   // where figures and logs go
	Only    []string // systems to measure; none is all
	Quick   bool
	Command string // how it was started, for the figures

	small *sizes // a test\'s, which looks only whether all parts work
}

// Check completes the options and refuses what can't work.
func (o *Options) Check() (err error) {
	if o.Command == "" {
		o.Command = "ms-lab edge"
	}
	if len(o.Only) == 0 {
		o.Only = append(slices.Clone(baselines), ms)
	}
	o.Bin, err = fleet.FindBin(o.Bin)
	return err
}

func (o *Options) wants(system string) bool { return slices.Contains(o.Only, system) }

// sizes are how much is measured.
type sizes struct {
	connects int
	gap      time.Duration // between them
	patience time.Duration // with each
	fetch    time.Duration // downloads under one flood
	warm     time.Duration // a flood blows before clients come
	quiet    time.Duration // moved agents: a measurement of goodput
	cost     time.Duration // a measurement of what a SYN costs
	costs    int           // measurements
	agents   int           // that come as newcomers
	whole    bool          // every rate, and the paper's p too
}

// has says whether a run of this size measures a cell.
func (s sizes) has(c cell) bool {
	switch {
	case s.whole:
		return true
	case c.rate != paperRate && c.rate != top:
		return false
	}
	return c.system != ms || c.p == budget && c.keyed && c.kind == fresh
}

// kinds are those of the floods for which it measures what a SYN costs.
func (s sizes) kinds() []string {
	if s.whole {
		return []string{fresh, random, replay}
	}
	return []string{fresh}
}

// sendsOn says whether it measures a real agent with a data path.
func (s sizes) sendsOn(path string) bool { return s.whole || path == native }

// of are those of some cells that it measures.
func (s sizes) of(cells []cell) []cell {
	return slices.DeleteFunc(cells, func(c cell) bool { return !s.has(c) })
}

// The default ends within ten minutes on two cores, the quick one within a minute.
func (o *Options) sizes() sizes {
	if o.small != nil {
		return *o.small
	}
	s := sizes{
		connects: 100, gap: 10 * time.Millisecond, patience: 3 * time.Second, fetch: 3 * time.Second, warm: 300 * time.Millisecond,
		quiet: 5 * time.Second, cost: time.Second, costs: 3, agents: 25, whole: true,
	}
	if o.Quick {
		s.connects, s.gap, s.patience, s.fetch, s.warm, s.quiet = 30, 5*time.Millisecond, 2*time.Second, 500*time.Millisecond, 200*time.Millisecond, time.Second
		s.cost, s.costs, s.agents, s.whole = 300*time.Millisecond, 1, 8, false
	}
	return s
}
