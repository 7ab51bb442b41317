package tables

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// part is a piece of the run: so many units, each about so long.
type part struct {
	name  string
	units int
	each  time.Duration // estimated
	done  int
}

// progress is how far the run is. The run writes it, the screen reads it.
type progress struct {
	mu    sync.Mutex
	began time.Time
	parts []*part
	now   string // what is measured at this moment
	said  []string
}

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
func newProgress(s sizes, rtt time.Duration) *progress {
	trips := func(n int, fixed time.Duration) time.Duration { return time.Duration(n)*rtt + fixed }
	return &progress{began: time.Now(), parts: []*part{
		{name: partWorld, units: 3, each: 1500 * time.Millisecond},
		{name: partUnprotected, units: s.unprotected + s.warmUp, each: trips(24, 30*time.Millisecond)},
		{name: partHTTP, units: s.http + s.warmUp, each: trips(80, 100*time.Millisecond)},
		{name: partSSH, units: s.ssh + s.warmUpSSH, each: trips(150, 1500*time.Millisecond)},
		{name: partFlood, units: len(s.groups) * s.trials, each: (3*time.Second+3*s.patience)/time.Duration(s.trials) + trips(20, 100*time.Millisecond)},
		{name: partDetect, units: 3 * s.spells, each: (2*s.spell + 3500*time.Millisecond) / 3},
	}}
}

// enter says what is measured from now on.
func (p *progress) enter(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = fmt.Sprintf(format, args...)
}

// did counts a unit of a part.
func (p *progress) did(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.parts {
		if x.name == name {
			x.done = min(x.done+1, x.units)
		}
	}
}

// finish counts all of a part: it is over, or will not be done.
func (p *progress) finish(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.parts {
		if x.name == name {
			x.done = x.units
		}
	}
}

// say tells of something that people would want to know.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = append(p.said, fmt.Sprintf(format, args...))
}

// shown is a progress at one moment.
type shown struct {
	share float64 // 0 to 1
	took  time.Duration
	left  time.Duration
	now   string
	said  []string
}

// at is how far it is. The time left follows from the estimates, corrected by how right they have
// been once a tenth is done.
func (p *progress) at(now time.Time) shown {
	p.mu.Lock()
	defer p.mu.Unlock()
	var done, all time.Duration
	for _, x := range p.parts {
		done += time.Duration(x.done) * x.each
		all += time.Duration(x.units) * x.each
	}
	s := shown{share: float64(done) / float64(all), took: now.Sub(p.began), left: all - done, now: p.now, said: p.said[:len(p.said):len(p.said)]}
	if s.share > 0.1 {
		s.left = time.Duration(float64(s.left) * float64(s.took) / float64(done))
	}
	return s
}

// line is what is shown where there is no terminal.
func (s shown) line() string {
	return fmt.Sprintf("[%5.1fs] %3.0f %%  %s  (about %s left)", s.took.Seconds(), 100*s.share, s.now, s.left.Round(time.Second))
}

// bar draws the share in so many characters.
func (s shown) bar(width int) string {
	full := min(width, max(0, int(s.share*float64(width))))
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}
