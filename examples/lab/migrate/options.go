package migrate

import (
	"context"
	"fmt"
	"time"

	"migrationsensor/examples/lab/fleet"
)

// Options are what can be chosen about a run.
type Options struct {
	Bin     string // where proxyd and ms-agent are
	Lab     string // a program with ms-lab's commands; empty is this one
	Out     string // where figures and logs go
	Quick   bool
	Command string // how it was started, for the figures

	// Memory moves so many sessions at once in the lab in memory; nil: InMemory.
	Memory func(ctx context.Context, sessions int, say func(string, ...any)) (Many, error)
}

// Many is what came of moving many sessions at once.
type Many struct {
	World    string // kernel or memory
	Sessions int
	Moved    int           // sessions whose data link has its RESUME_OK
	Last     time.Duration // until the last of them
	Control  time.Duration // until the last control link
	Stalls   []time.Duration
	Echoed   int64 // bytes
	Lost     int64 // of them; 0 and 0 where the run counts
	Broken   int   // connections
	Used     map[string]Used
	Idle     float64 // processors that all used before; 0 where they were not watched

	controls int // whose control link has moved
}

// Used is what a node used meanwhile.
type Used struct {
	CPU time.Duration
	Of  time.Duration // in this time
	RSS int64         // at the end, bytes
}

// Check completes the options and refuses what can't work.
func (o *Options) Check() (err error) {
	if o.Command == "" {
		o.Command = "ms-lab migrate"
	}
	o.Bin, err = fleet.FindBin(o.Bin)
	return err
}

// rtts are the round trips of the stalls.
var rtts = []time.Duration{15 * time.Millisecond, 80 * time.Millisecond}

// short is what a machine lacks for so many sessions in the lab in memory.
type short struct {
	sessions, processors int
	need                 float64 // processors
}

// short tells by what fewer sessions used; nil: they can be tried. To move more of them in ten seconds than the processors
// can does not take longer, it fails: agents, edges, anchor and links share them, and every wait looks like a fault.
func (m *Many) short(sessions, processors int) *short {
	u := m.Used["all"]
	each := (u.CPU.Seconds() - m.Idle*u.Of.Seconds()) / float64(m.Sessions)
	x := &short{sessions, processors, m.Idle + each*float64(sessions)/(manyGoal/1000)}
	if x.need <= float64(processors) {
		return nil
	}
	return x
}

func (x *short) String() string {
	return fmt.Sprintf("%d in one process, within %d s, would take %.1f processors by what fewer took; there are %d",
		x.sessions, manyGoal/1000, x.need, x.processors)
}

// rhythm says how often the connections of a crowd write: those of the first watched agents, whose stalls are measured, and
// the others.
type rhythm struct {
	watched       int
	every, rarely time.Duration
}

// herd is how many agents feel an event at once, and how often it happens. An echo costs two processors a fifth of a
// millisecond, so if a hundred had the rhythm of 10 ms, how busy they are would be measured: some are watched, and the
// others have something under way all the same.
type herd struct{ agents, watched, rounds int }

// times is how often an event of the kind happens. Silence happens once: an agent that meets it again soon is more patient
// with it.
func (h herd) times(kind string) int {
	if kind == silent {
		return 1
	}
	return h.rounds
}

// events is how many there are of all kinds, at one round trip.
func (h herd) events() (n int) {
	for _, kind := range kinds {
		n += h.times(kind)
	}
	return n
}

func (h herd) rhythm() rhythm {
	return rhythm{watched: h.watched, every: 10 * time.Millisecond, rarely: 100 * time.Millisecond}
}

// inCrowds is the rhythm of many sessions: a few are watched, and the others write less often the more there are.
func inCrowds(agents int) rhythm {
	return rhythm{
		watched: min(30, agents), every: 100 * time.Millisecond, rarely: max(2*time.Second, time.Duration(agents)*5*time.Millisecond),
	}
}

// still is the rhythm of sessions that are weighed.
var still = rhythm{every: time.Second, rarely: 2 * time.Second}

// sizes are how much is measured.
type sizes struct {
	herds    []herd
	transfer int64 // bytes each way
	moves    int   // during it
	many     []int // sessions at once, on the real kernel
	memory   []int // and in memory
	sessions int   // idle, to be weighed
	streams  int   // idle, of each of them
	settle   time.Duration
}

// The default ends within ten minutes on two cores, the quick one within a minute. What many sessions need does not shrink: a quick run
// says that it leaves them out, and moves a few of them.
func (o *Options) sizes() sizes {
	if o.Quick {
		return sizes{herds: []herd{{20, 20, 1}}, transfer: 64 << 20, moves: 5, many: []int{100}, sessions: 50, streams: 10, settle: 300 * time.Millisecond}
	}
	return sizes{
		herds: []herd{{10, 10, 4}, {100, 25, 4}}, transfer: 1 << 30, moves: 20, many: []int{2000}, memory: []int{1000, 10000},
		sessions: 400, streams: 20,
		settle: time.Second,
	}
}

// all are the numbers of sessions that a whole run has, with the world of each.
var all = []struct {
	sessions int
	world    string
}{{2000, "kernel"}, {1000, "memory"}, {10000, "memory"}}
