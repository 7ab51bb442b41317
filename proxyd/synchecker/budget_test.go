package synchecker

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// plant is a checker and its core in numbers: what arrives, what each frame and each answer costs.
type plant struct {
	b      Budget
	shares Shares
	intake float64
	egress egress
	now    time.Time
	load   Load
	sent   []time.Time // each SYN-ACK, when egress is watched

	rand         *rand.Rand
	read, answer time.Duration // cost
	core         float64       // share of it that there is at most
}

func newPlant(t *testing.T, cfg BudgetConfig) *plant {
	t.Helper()
	b, err := NewBudget(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := &plant{b: b, now: epoch0, rand: rand.New(rand.NewPCG(4, 4)), read: 500 * time.Nanosecond, answer: 2 * time.Microsecond, core: 0.8}
	p.shares, p.intake = p.b.Advance(p.now, p.load)
	return p
}

// arrive plays one tick of SYNs a second by class, in slices of 5 ms.
func (p *plant) arrive(keyed, again, fresh float64) {
	const slices = 20
	for range slices {
		p.now = p.now.Add(tick / slices)
		per := tick.Seconds() / slices
		free := time.Duration(p.core * float64(tick) / slices)
		one := func(rate float64, class int, share float64, seen *uint64) {
			for range int(rate * per) {
				if free < p.read {
					p.load.Lost++
					continue
				}
				free -= p.read
				p.load.Busy += p.read
				p.load.Read++
				*seen++
				chosen := share >= 1 || p.rand.Float64() < share
				if !chosen || !p.egress.take(p.now, p.shares.Answers, class) {
					continue
				}
				free -= p.answer
				p.load.Busy += p.answer
				p.sent = append(p.sent, p.now)
				if class != classKeyed {
					p.load.Answered++
				}
			}
		}
		one(keyed, classKeyed, 1, &p.load.Keyed)
		one(again*p.intake, classAgain, p.shares.Again, &p.load.Again)
		one(fresh*p.intake, classFresh, p.shares.Fresh, &p.load.Fresh)
	}
	p.shares, p.intake = p.b.Advance(p.now, p.load)
}

func (p *plant) open() bool { return p.shares.Fresh == 1 && p.shares.Again == 1 && p.intake == 1 }

// most is the largest number of SYN-ACKs in any second.
func (p *plant) most() (n int) {
	from := 0
	for to := range p.sent {
		for p.sent[to].Sub(p.sent[from]) >= time.Second {
			from++
		}
		n = max(n, to-from+1)
	}
	return n
}

func TestProbabilityStands(t *testing.T) {
	p := newPlant(t, BudgetConfig{Probability: 0.25, Processor: 0.1})
	for range 20 {
		p.arrive(0, 100_000, 100_000)
		if p.shares.Fresh != 0.25 || p.shares.Again != 0.25 || p.intake != 1 {
			t.Fatalf("shares %+v, intake %v: the paper's p is fixed", p.shares, p.intake)
		}
	}
}

func TestPeaceIsAnsweredWhole(t *testing.T) {
	p := newPlant(t, BudgetConfig{Answers: 100_000, Processor: 0.5})
	for range 30 {
		if p.arrive(1000, 5000, 60_000); !p.open() {
			t.Fatalf("shares %+v, intake %v below every bound", p.shares, p.intake)
		}
	}
}

// TestEgressClasses: what is left after keyed SYNs goes to retransmitted ones, then to fresh ones.
func TestEgressClasses(t *testing.T) {
	const answers = 10_000
	for _, row := range []struct{ keyed, again, fresh, wantAgain, wantFresh float64 }{
		{2000, 1000, 60_000, 1, (9000. - 2000 - 1000) / 60_000},
		{2000, 14_000, 60_000, 0.5, 0},
		{9000, 1000, 1000, 0, 0},
		{0, 0, 18_000, 1, 0.5},
	} {
		p := newPlant(t, BudgetConfig{Answers: answers})
		for range 5 {
			p.arrive(row.keyed, row.again, row.fresh)
		}
		near := func(a, b float64) bool { return a-b < 0.02 && b-a < 0.02 }
		if !near(p.shares.Again, row.wantAgain) || !near(p.shares.Fresh, row.wantFresh) {
			t.Errorf("%+v: got %+v", row, p.shares)
		}
	}
}

// TestProcessorIsHeld: in a flood the checker's thread settles at its share, answers what it can, and
// when reading alone takes more, looks at less.
func TestProcessorIsHeld(t *testing.T) {
	for _, flood := range []float64{300_000, 700_000, 2_000_000} {
		t.Run(fmt.Sprint(flood), func(t *testing.T) {
			p := newPlant(t, BudgetConfig{Processor: 0.3})
			for range 50 { // 5 s to settle
				p.arrive(100, 0, flood)
			}
			was := p.load
			for range 20 {
				p.arrive(100, 0, flood)
			}
			busy := float64(p.load.Busy-was.Busy) / float64(20*tick)
			if busy > 0.36 || busy < 0.2 {
				t.Errorf("the thread takes %.2f of a core, want 0.3", busy)
			}
			if n := p.load.Answered - was.Answered; n < minAnswers {
				t.Errorf("%d answers in 2 s, want %d a second at least", n, minAnswers)
			}
			if lost, read := p.load.Lost-was.Lost, p.load.Read-was.Read; lost > read/20 {
				t.Errorf("%d frames lost, %d read: more is taken in than can be read", lost, read)
			}
			for range 50 {
				p.arrive(100, 0, 300)
			}
			if !p.open() {
				t.Errorf("after the flood: %+v, intake %v", p.shares, p.intake)
			}
		})
	}
}

// TestStarvedByOthers: frames are lost though the thread takes less than it may, since the kernel or
// others have the core: then it answers less, too.
func TestStarvedByOthers(t *testing.T) {
	p := newPlant(t, BudgetConfig{Processor: 1})
	p.core = 0.2
	for range 50 {
		p.arrive(0, 0, 600_000)
	}
	if p.shares.Fresh > 0.1 && p.intake == 1 {
		t.Errorf("shares %+v, intake %v while frames are lost", p.shares, p.intake)
	}
	was := p.load
	for range 20 {
		p.arrive(0, 0, 600_000)
	}
	if lost, read := p.load.Lost-was.Lost, p.load.Read-was.Read; lost > read/10 {
		t.Errorf("%d frames lost, %d read", lost, read)
	}
}

func TestGapIsANewBeginning(t *testing.T) {
	p := newPlant(t, BudgetConfig{Processor: 0.1})
	for range 20 {
		p.arrive(0, 0, 700_000)
	}
	if p.open() {
		t.Fatal("no overload to begin with")
	}
	p.now = p.now.Add(2 * idle)
	if p.shares, p.intake = p.b.Advance(p.now, p.load); !p.open() {
		t.Errorf("after 6 s without a frame: %+v, intake %v", p.shares, p.intake)
	}
}

// TestBudgetProperties plays attacks at random.
func TestBudgetProperties(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		cfg := BudgetConfig{Answers: 1 + r.Float64()*30_000, Processor: 0.05 + r.Float64()*0.9}
		p := newPlant(t, cfg)
		var keyed, again, fresh float64
		for i := range 60 {
			if i%10 == 0 {
				keyed, again, fresh = r.Float64()*3000, r.ExpFloat64()*20_000, r.ExpFloat64()*200_000
			}
			p.arrive(keyed, again, min(fresh, 600_000))
			s := p.shares
			if !(s.Fresh >= 0 && s.Fresh <= 1 && s.Again >= 0 && s.Again <= 1 && p.intake > 0 && p.intake <= 1) {
				t.Fatalf("seed %d: %+v, intake %v", seed, s, p.intake)
			}
			if s.Fresh > 0 && s.Again < 1 {
				t.Fatalf("seed %d: %+v: fresh SYNs are answered before retransmitted ones", seed, s)
			}
		}
		if n := p.most(); float64(n) > max(1, cfg.Answers) {
			t.Errorf("seed %d: %d SYN-ACKs in a second, want %.0f at most", seed, n, cfg.Answers)
		}
		for range 50 {
			p.arrive(0, 0, min(cfg.Answers/2, 300))
		}
		if !p.open() {
			t.Errorf("seed %d: 5 s after the attack %+v, intake %v", seed, p.shares, p.intake)
		}
	}
}

// TestLoadOfCounts: a budget steered once a second by counts alone, as of a packet program, holds the
// answers.
func TestLoadOfCounts(t *testing.T) {
	b, err := NewBudget(BudgetConfig{Answers: 100_000, Processor: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	var s Stats
	shares, _ := b.Advance(epoch0, s.Load())
	for i := range 5 {
		s.SYNSeen, s.SYNAgain, s.Keyed = s.SYNSeen+4_000_000, s.SYNAgain+20_000, s.Keyed+1000
		s.SYNAnswered += 1000 + uint64(20_000*shares.Again+3_979_000*shares.Fresh)
		shares, _ = b.Advance(epoch0.Add(time.Duration(i+1)*time.Second), s.Load())
	}
	if want := (90_000. - 1000 - 20_000) / 3_979_000; shares.Again != 1 || shares.Fresh < want*0.99 || shares.Fresh > want*1.01 {
		t.Errorf("got %+v, want fresh %.4f", shares, want)
	}
}

// FuzzBudget: whatever is measured, shares are shares.
func FuzzBudget(f *testing.F) {
	f.Add(int64(1e8), uint64(1000), uint64(10), uint64(5), uint64(900), uint64(1000), uint64(7), int64(5e7), 100.0, 0.5)
	f.Add(int64(-5), uint64(0), uint64(1)<<63, uint64(0), uint64(0), uint64(1), ^uint64(0), int64(-1)<<62, 1e300, 1e-300)
	f.Fuzz(func(t *testing.T, dt int64, fresh, again, keyed, answered, read, lost uint64, busy int64, answers, processor float64) {
		b, err := NewBudget(BudgetConfig{Answers: answers, Processor: processor})
		if err != nil {
			return
		}
		l, now := Load{}, epoch0
		for i := range 4 {
			s, intake := b.Advance(now, l)
			if !(s.Fresh >= 0 && s.Fresh <= 1 && s.Again >= 0 && s.Again <= 1 && intake > 0 && intake <= 1) || s.Fresh > 0 && s.Again < 1 {
				t.Fatalf("step %d: %+v, intake %v", i, s, intake)
			}
			now = now.Add(time.Duration(dt))
			l.Fresh, l.Again, l.Keyed = l.Fresh+fresh, l.Again+again, l.Keyed+keyed
			l.Answered, l.Read, l.Lost, l.Busy = l.Answered+answered, l.Read+read, l.Lost+lost, l.Busy+time.Duration(busy)
		}
	})
}

func TestRepeats(t *testing.T) {
	r, now := newRepeats(bloomBits), epoch0
	var s segment
	frame := packet{options: linuxOptions}.frame(t)
	syn := func(n uint32) *segment {
		be.PutUint32(frame[38:], n)
		if !s.parse(&Frame{Data: frame}) {
			t.Fatal("the SYN can't be read")
		}
		return &s
	}
	// 200,000 a second for two seconds, each 100th repeated a second later.
	const rate, each = 200_000, 100
	wrong, known := 0, 0
	for i := range uint32(2 * rate) {
		now = now.Add(time.Second / rate)
		if r.again(syn(i), now) {
			wrong++
		}
		if i%each == 1 && r.again(syn(i), now) { // a copy
			wrong++
		}
		if i >= rate && i%each == 0 && r.again(syn(i-rate), now) {
			known++
		}
	}
	if known != rate/each || wrong > 2*rate/500 {
		t.Errorf("%d of %d repeated ones known, %d fresh ones taken for repeated", known, rate/each, wrong)
	}
	if now = now.Add(2 * generation); r.again(syn(2*rate-1), now) {
		t.Error("remembered for more than two generations")
	}
	s.src = []byte{198, 18, 2, 3}
	if r.again(&s, now) {
		t.Error("another address's SYN taken for the same")
	}
}

// TestRetransmittedComesThrough: at the egress budget a stranger gets in by repeating his SYN, as every
// kernel does.
func TestRetransmittedComesThrough(t *testing.T) {
	f := newFixture(t, Defend, func(c *Config) { c.Budget = BudgetConfig{Answers: 1000} })
	r := rand.New(rand.NewPCG(3, 3))
	noise := packet{src: client4, options: linuxOptions}.frame(t)
	second := func(each func(ms int)) {
		for ms := range 1000 {
			f.now = f.now.Add(time.Millisecond)
			var frames []Frame
			for range 20 {
				flood(noise, r)
				frames = append(frames, Frame{Data: append([]byte(nil), noise...)})
			}
			f.c.turn(frames, f.now)
			each(ms)
		}
	}
	second(func(int) {}) // the flood begins
	fresh, again := 0, 0
	real := func(i int) bool { return f.send(packet{sport: uint16(20_000 + i), options: linuxOptions}) != nil }
	second(func(i int) {
		if i < 100 && real(i) {
			fresh++
		}
	})
	second(func(i int) {
		if i < 100 && real(i) {
			again++
		}
	})
	if fresh > 20 || again < 98 {
		t.Errorf("%d of 100 fresh SYNs answered and %d repeated ones; want few, and all", fresh, again)
	}
}
