package detect

import (
	"fmt"
	"time"
)

// Defaults. The interval is from the paper ("each second"), the quiet time ours.
const (
	DefaultInterval = time.Second
	DefaultQuiet    = 30 * time.Second
)

// Config sets a Detector.
type Config struct {
	Threshold [Kinds]float64 // packets per second, by Kind; 0 = off
	Interval  time.Duration  // 0 = DefaultInterval
	Quiet     time.Duration  // an attack is over after so long below every threshold; 0 = DefaultQuiet
}

// Verdict is what the Detector thinks, and why.
type Verdict struct {
	Attack  bool
	Changed bool      // Attack is not what the Verdict before said
	Since   time.Time // of this Attack or of this peace

	// Why: the kind that reached its threshold in the last interval that was over one. They
	// stay after the attack is over, and are zero if there never was one.
	Kind            Kind
	Rate, Threshold float64
	Over            time.Time // end of that interval

	Rates [Kinds]float64 // packets per second in the last whole interval
}

// Why says in words what the Verdict rests on.
func (v Verdict) Why() string {
	switch {
	case v.Over.IsZero():
		return "every rate below its threshold"
	case v.Attack:
		return fmt.Sprintf("%s flood: %.0f packets/s, threshold %.0f", v.Kind, v.Rate, v.Threshold)
	default:
		return fmt.Sprintf("quiet since a %s flood of %.0f packets/s", v.Kind, v.Rate)
	}
}

// Detector compares packets per interval with thresholds. It reads no clock and owns nothing; it
// is for one goroutine.
type Detector struct {
	cfg Config

	started bool
	from    time.Time // begin of the interval
	base    Counts    // counts at from
	verdict Verdict
}

// New returns a Detector at peace.
func New(cfg Config) *Detector {
	if cfg.Interval <= 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Quiet <= 0 {
		cfg.Quiet = DefaultQuiet
	}
	return &Detector{cfg: cfg}
}

// Interval is how often Observe wants to be called.
func (d *Detector) Interval() time.Duration { return d.cfg.Interval }

// Observe takes the counts of now. The first call begins the first interval; a call before
// the interval's end changes nothing, a late one makes a longer interval with the right rate.
func (d *Detector) Observe(now time.Time, c Counts) Verdict {
	d.verdict.Changed = false
	if !d.started {
		d.started, d.from, d.base = true, now, c
		d.verdict.Since = now
		return d.verdict
	}
	// A ticker is late by a little and then early by as much: without the slack every such pair
	// would become one interval of twice the length.
	took := now.Sub(d.from)
	if took < d.cfg.Interval-d.cfg.Interval/8 {
		return d.verdict
	}
	for k, n := range c {
		if n < d.base[k] { // another counter: it began at 0
			d.base[k] = 0
		}
		d.verdict.Rates[k] = float64(n-d.base[k]) / took.Seconds()
	}
	d.from, d.base = now, c
	d.judge(now)
	return d.verdict
}

// judge updates the verdict from its rates.
func (d *Detector) judge(now time.Time) {
	v := &d.verdict
	if k, over := d.worst(); over {
		v.Kind, v.Rate, v.Threshold, v.Over = k, v.Rates[k], d.cfg.Threshold[k], now
		d.set(true, now)
		return
	}
	if v.Attack && now.Sub(v.Over) >= d.cfg.Quiet {
		d.set(false, now)
	}
}

func (d *Detector) set(attack bool, now time.Time) {
	if d.verdict.Attack != attack {
		d.verdict.Attack, d.verdict.Changed, d.verdict.Since = attack, true, now
	}
}

// worst names the right class of an attack: the kind that is furthest over its threshold, and
// "all", over which every flood goes, only if no other kind explains it.
func (d *Detector) worst() (kind Kind, over bool) {
	most := 0.0
	for _, k := range [...]Kind{SYN, ICMP, UDP, All} {
		limit, rate := d.cfg.Threshold[k], d.verdict.Rates[k]
		if limit <= 0 || rate < limit || k == All && over {
			continue
		}
		if rate/limit > most {
			kind, over, most = k, true, rate/limit
		}
	}
	return kind, over
}
