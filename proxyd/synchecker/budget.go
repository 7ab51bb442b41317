package synchecker

import (
	"fmt"
	"math"
	"time"
)

// Shares say how many of the ordinary SYNs are answered. Keyed ones always are.
type Shares struct {
	Fresh float64 // share of SYNs seen for the first time, 0 to 1: the paper's p
	Again float64 // share of those that are retransmitted, 0 to 1
	// Answers is the most SYN-ACKs a second, keyed ones included, which come first; 0: no limit.
	Answers float64
}

// Bounds of the budget (ours).
const (
	tick = 100 * time.Millisecond // how often shares are set
	idle = 3 * time.Second        // after so long without a frame everything begins anew

	// A second holds at most Answers: a bucket for a tenth of it, filled at nine tenths a second.
	burstPart, ratePart = 0.1, 0.9

	grow       = 1.15     // from tick to tick at most, what was cut
	cut        = 4        // at most
	minAnswers = 1000     // ordinary ones a second, whatever the load: 0.3 % of a core
	minIntake  = 1. / 256 // share of plain SYNs that is looked at, whatever the load
)

// BudgetConfig is how much answering SYNs may take.
type BudgetConfig struct {
	Probability float64 // share of ordinary SYNs to answer, the paper's p; 0: what the other two allow
	Answers     float64 // most SYN-ACKs a second; 0: no limit
	Processor   float64 // share of one core that the checker's thread may take, with Probability 0; 0: no limit
}

func (c BudgetConfig) check() error {
	switch {
	case !(c.Probability >= 0 && c.Probability <= 1):
		return fmt.Errorf("probability = %v, want above 0 and up to 1, or 0 for a budget", c.Probability)
	case !(c.Answers >= 0):
		return fmt.Errorf("answers = %v, want SYN-ACKs a second, or 0 for no limit", c.Answers)
	case !(c.Processor >= 0 && c.Processor <= 1):
		return fmt.Errorf("processor = %v, want a share of one core, or 0 for no limit", c.Processor)
	}
	return nil
}

// Load is what came and what it took, each counted since any fixed moment.
type Load struct {
	Fresh, Again, Keyed uint64        // SYNs seen, by class; all Keyed ones were answered
	Answered            uint64        // of Fresh and Again
	Read, Lost          uint64        // frames: taken from the rings, and arrived when these were full
	Busy                time.Duration // processor time of whoever answers; 0 where nobody measures it
}

// Load is what a packet program's counts say of the load: it measures no processor time, and sees every
// SYN.
func (s Stats) Load() Load {
	return Load{
		Fresh: s.SYNSeen - min(s.SYNSeen, s.SYNAgain+s.Keyed), Again: s.SYNAgain, Keyed: s.Keyed,
		Answered: s.SYNAnswered - min(s.SYNAnswered, s.Keyed), Read: s.Frames, Lost: s.RingLost,
	}
}

// Budget sets the shares. By probability they stand; by budget they are 1 until answering takes more
// than it may, and then what is left after keyed SYNs goes to retransmitted ones first and to fresh
// ones after them:
//
//   - Answers bounds the egress, and with it how much of a flood from forged sources comes back to
//     those: a SYN-ACK is never larger than its SYN.
//   - Processor bounds the work. Answers are cut in proportion, and when few are left the intake: the
//     share of plain SYNs that a packet socket takes at all.
//
// It reads no clock and no socket. The zero Budget answers everything.
type Budget struct {
	cfg    BudgetConfig
	last   Load
	at     time.Time // of last
	limit  float64   // ordinary answers a second that the processor allows; 0: all
	intake float64
}

// NewBudget checks cfg.
func NewBudget(cfg BudgetConfig) (Budget, error) {
	return Budget{cfg: cfg, intake: 1}, cfg.check()
}

// Advance takes the load until now, and says which shares hold from now on, and which share of plain
// SYNs is worth looking at. It wants to be called each 100 ms, or each second where nobody measures
// processor time; a gap of three seconds is a new beginning.
func (b *Budget) Advance(now time.Time, l Load) (s Shares, intake float64) {
	was, dt := b.last, now.Sub(b.at)
	begin := b.at.IsZero() || dt <= 0 || dt > idle
	b.last, b.at = l, now
	s = Shares{Fresh: 1, Again: 1, Answers: b.cfg.Answers}
	if b.cfg.Probability > 0 {
		s.Fresh, s.Again = b.cfg.Probability, b.cfg.Probability
		return s, 1
	}
	if begin {
		b.limit, b.intake = 0, 1
		return s, b.intake
	}
	rate := func(now, was uint64) float64 { return float64(now-min(now, was)) / dt.Seconds() }
	fresh, again := rate(l.Fresh, was.Fresh), rate(l.Again, was.Again)
	b.steer(b.over(l, was, dt), rate(l.Answered, was.Answered), fresh+again)

	left := math.Inf(1)
	if b.limit > 0 {
		left = b.limit
	}
	if b.cfg.Answers > 0 {
		left = min(left, max(0, b.cfg.Answers*ratePart-rate(l.Keyed, was.Keyed)))
	}
	s.Again = share(left, again)
	if s.Fresh = 0; s.Again == 1 {
		s.Fresh = share(left-min(left, again), fresh)
	}
	return s, b.intake
}

func share(left, rate float64) float64 {
	if rate <= left || rate == 0 {
		return 1
	}
	return left / rate
}

// over is how many times more was taken than may be. Frames that nobody could read tell of too little
// processor, whatever was granted.
func (b *Budget) over(l, was Load, dt time.Duration) (over float64) {
	if b.cfg.Processor > 0 {
		over = float64(l.Busy-was.Busy) / float64(dt) / b.cfg.Processor
	}
	read, lost := float64(l.Read-min(l.Read, was.Read)), float64(l.Lost-min(l.Lost, was.Lost))
	if lost > read/100 {
		over = max(over, 1+lost/max(read, 1))
	}
	return over
}

// steer moves the processor's limit, or the intake once the limit is at its least. Answers grow again
// only when everything is looked at.
func (b *Budget) steer(over, answered, wanted float64) {
	growth := grow
	if over > 0 {
		growth = min(grow, 1/over)
	}
	switch {
	case over > 1:
		limit := answered / min(over, cut)
		if b.limit > 0 {
			limit = min(limit, b.limit)
		}
		if limit < minAnswers {
			limit, b.intake = minAnswers, max(minIntake, b.intake/min(over, cut))
		}
		b.limit = limit
	case b.intake < 1:
		b.intake = min(1, b.intake*growth)
	case b.limit >= wanted:
		b.limit = 0
	case b.limit > 0:
		b.limit *= growth
	}
}

// Classes of SYNs, the first ones first.
const (
	classKeyed = iota
	classAgain
	classFresh
)

// egress holds SYN-ACKs to the most a second. A class goes without while what is left in the bucket is
// kept for the better ones.
type egress struct{ bucket bucket }

func (e *egress) take(now time.Time, answers float64, class int) bool {
	if answers <= 0 {
		return true
	}
	burst := max(1, answers*burstPart)
	keep := [...]float64{classKeyed: 0, classAgain: burst / 4, classFresh: burst / 2}[class]
	return e.bucket.takeAbove(now, answers*ratePart, burst, min(keep, burst-1))
}
