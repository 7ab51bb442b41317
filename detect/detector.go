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

	// Why: the kind that was furthest over its threshold in this attack, and its rate when it was. They
	// stay after the attack is over, and are zero if there never was one.
	Kind            Kind
	Rate, Threshold float64
	Over            time.Time // end of the last interval in which a kind reached its threshold

	Rates [Kinds]float64 // packets per second in the interval that ends now
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

// Detector compares the packets of the last interval with thresholds, again at each step of a tenth of
// it. It reads no clock and owns nothing; it is for one goroutine.
type Detector struct {
	cfg Config

	last    Counts // as the counter gave them
	sum     Counts // since the first call; never falls
	window  window
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
	return &Detector{cfg: cfg, window: window{interval: cfg.Interval, step: max(1, cfg.Interval/steps)}}
}

// Step is how often Observe wants to be called.
func (d *Detector) Step() time.Duration { return d.window.step }

// Observe takes the counts of now. The first call is where counting begins. A call sooner than half a
// step after the one before changes nothing (a ticker is late by a little and then early by as much); a
// late one sees the right rate, not the sum.
func (d *Detector) Observe(now time.Time, c Counts) Verdict {
	d.verdict.Changed = false
	if d.window.n == 0 {
		d.last, d.verdict.Since = c, now
		d.window.add(reading{at: now})
		return d.verdict
	}
	if now.Sub(d.window.back(1).at) < d.window.step/2 {
		return d.verdict
	}
	d.count(c)
	s := reading{now, d.sum}
	d.verdict.Rates = d.window.rates(s)
	d.window.add(s)
	d.judge(now)
	return d.verdict
}

// count adds what came since the call before.
func (d *Detector) count(c Counts) {
	for k, n := range c {
		if n < d.last[k] { // another counter: it began at 0
			d.last[k] = 0
		}
		d.sum[k] += n - d.last[k]
	}
	d.last = c
}

// judge updates the verdict from its rates.
func (d *Detector) judge(now time.Time) {
	v := &d.verdict
	if k, over := d.worst(); over {
		if d.tellsMore(k) {
			v.Kind, v.Rate, v.Threshold = k, v.Rates[k], d.cfg.Threshold[k]
		}
		v.Over = now
		d.set(true, now)
		return
	}
	if v.Attack && now.Sub(v.Over) >= d.cfg.Quiet {
		d.set(false, now)
	}
}

// tellsMore reports whether kind k now says more about the attack than what the verdict says. A flood
// enters the window and leaves it step by step, so its first and its last rate over the threshold say
// little; and "all" may reach its threshold a step before the kind that explains it.
func (d *Detector) tellsMore(k Kind) bool {
	v := &d.verdict
	if !v.Attack || v.Kind == All && k != All {
		return true
	}
	return v.Rates[k]/d.cfg.Threshold[k] > v.Rate/v.Threshold
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
