package proxyd

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"

	"migrationsensor/proto"
)

// arrivals are the times at which clients come, the earliest first.
type arrivals []arrival

type arrival struct {
	at    time.Duration
	agent proto.AgentID
}

func anAgent(n int) proto.AgentID { return proto.AgentID{byte(n >> 8), byte(n)} }

func (a arrivals) Len() int           { return len(a) }
func (a arrivals) Less(i, j int) bool { return a[i].at < a[j].at }
func (a arrivals) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *arrivals) Push(x any)        { *a = append(*a, x.(arrival)) }
func (a *arrivals) Pop() any {
	x := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return x
}

// herd lets clients come until each is in: the time of the last one, how often they came in all, and
// the most that came in within any second.
func herd(a *intake, start time.Time, clients arrivals) (last time.Duration, came int, most int) {
	r := rand.New(rand.NewPCG(1, 2))
	jitter := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
	heap.Init(&clients)
	var in []time.Duration
	for clients.Len() > 0 {
		c := heap.Pop(&clients).(arrival)
		at := c.at
		came++
		if again, ok := a.take(start.Add(at), c.agent, 0, 0, jitter); !ok {
			heap.Push(&clients, arrival{at + again, c.agent})
			continue
		}
		last, in = at, append(in, at)
		for in[0] <= at-time.Second {
			in = in[1:]
		}
		most = max(most, len(in))
	}
	return last, came, most
}

// F51: a herd is admitted at the rate, in little more than the time that takes, and comes seldom oftener
// than it must.
func TestAdmissionOfAHerd(t *testing.T) {
	const rate, burst, clients = 2000, 500, 10_000
	start := time.Unix(1_800_000_000, 0)
	for _, tc := range []struct {
		name   string
		within time.Duration // in which they come
		last   time.Duration
		came   int
	}{
		{"all in the same moment", 0, 10 * time.Second, 3 * clients},
		{"spread by start_after", clients * time.Second / rate, 6 * time.Second, clients * 11 / 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var all arrivals
			for i := range clients {
				all = append(all, arrival{tc.within * time.Duration(i) / clients, anAgent(i)})
			}
			last, came, most := herd(newIntake(rate, burst, start), start, all)
			t.Logf("last in after %v, %d arrivals, at most %d in a second", last, came, most)
			if last > tc.last || came > tc.came || most > rate+burst {
				t.Errorf("last in after %v, %d arrivals, %d in a second; want within %v, %d, %d", last, came, most, tc.last, tc.came, rate+burst)
			}
		})
	}
}

func TestAdmissionOff(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	if _, came, _ := herd(newIntake(0, 0, start), start, make(arrivals, 5000)); came != 5000 {
		t.Errorf("without a rate %d arrivals for 5000 clients", came)
	}
}

func TestAdmissionSaysNoMoreThanAReplyCan(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	a := newIntake(1, 1, start)
	whole := func(d time.Duration) time.Duration { return d }
	a.take(start, anAgent(0), 0, 0, whole)
	for i := range 1000 {
		if again, ok := a.take(start, anAgent(i%500), 0, 0, whole); ok || again < minRetry || again > maxRetry {
			t.Fatalf("got %v, %v; want a RETRY between %v and %v", again, ok, minRetry, maxRetry)
		}
	}
}

func TestAdmissionOfASlowMachine(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	a := newIntake(1000, 1000, start)
	half := func(d time.Duration) time.Duration { return d / 2 }
	if again, ok := a.take(start, anAgent(1), maxOpening, 0, half); ok || again < minRetry {
		t.Errorf("%v, %v: %d links are not answered yet, and one more is taken in", again, ok, maxOpening)
	}
	if _, ok := a.take(start, anAgent(1), maxOpening-1, 0, half); !ok {
		t.Error("one of them is answered, and nobody is taken in")
	}
}

// A machine that opens a twentieth of what it was configured for tells the others times that fit: it is not asked again and
// again by those whom it can't take.
func TestF51AdmissionByWhatTheMachineDoes(t *testing.T) {
	const rate, burst, clients, able = 2000, 500, 2000, 100
	start := time.Unix(1_800_000_000, 0)
	a := newIntake(rate, burst, start)
	r := rand.New(rand.NewPCG(1, 2))
	jitter := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
	var all arrivals
	for i := range clients {
		all = append(all, arrival{time.Second * time.Duration(i) / clients, anAgent(i)})
	}
	came, opening := 0, 0
	var last time.Duration
	done := 0.0 // of the opening ones, up to last
	for all.Len() > 0 {
		c := heap.Pop(&all).(arrival)
		for done += (c.at - last).Seconds() * able; done >= 1 && opening > 0; done-- {
			opening--
		}
		done, last = min(done, 1), c.at
		came++
		if again, ok := a.take(start.Add(c.at), c.agent, opening, 0, jitter); !ok {
			heap.Push(&all, arrival{c.at + again, c.agent})
			continue
		}
		opening++
	}
	t.Logf("last in after %v, %d arrivals", last, came)
	if last > clients/able*time.Second*3/2 || came > 4*clients {
		t.Errorf("the last was let in after %v, there were %d arrivals; want at most %v and %d", last, came, clients/able*time.Second*3/2, 4*clients)
	}
}

// F47: an insider that comes 20,000 times a second keeps nobody else out, and nobody waits for it.
func TestF47OneAgentKeepsNobodyOut(t *testing.T) {
	const rate, burst, honest = 2000, 500, 200
	start := time.Unix(1_800_000_000, 0)
	a := newIntake(rate, burst, start)
	half := func(d time.Duration) time.Duration { return d / 2 }
	insider, in, out := anAgent(honest), 0, 0
	for ms := range 20_000 {
		now := start.Add(time.Duration(ms) * time.Millisecond)
		for range 20 {
			if _, ok := a.take(now, insider, 0, 0, half); ok {
				in++
			}
		}
		if ms >= 10_000 && ms < 10_000+honest {
			if again, ok := a.take(now, anAgent(ms-10_000), 0, 0, half); !ok {
				out++
				t.Logf("agent %d has to come again in %v", ms-10_000, again)
			}
		}
	}
	if most := linkBurst + 20*linkRate; out > 0 || in > most {
		t.Errorf("%d of %d others were kept out, and %d of the insider's links were let in; want none, at most %d", out, honest, in, most)
	}
}

// Who has as many links as one agent may have comes again; what is remembered of agents is bounded.
func TestF47LinksOfAnAgent(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	a := newIntake(1e6, 1e6, start)
	half := func(d time.Duration) time.Duration { return d / 2 }
	if again, ok := a.take(start, anAgent(1), 0, maxLinks, half); ok || again < minRetry {
		t.Errorf("%v, %v: it has all the links it may have", again, ok)
	}
	if _, ok := a.take(start, anAgent(1), 0, maxLinks-1, half); !ok {
		t.Error("it has one less, and is kept out")
	}
	for i := range 2 * maxAgents {
		if _, ok := a.take(start.Add(time.Duration(i)*time.Millisecond), anAgent(i), 0, 0, half); !ok {
			t.Fatalf("agent %d is kept out", i)
		}
	}
	for i := range maxAgents + 100 { // all at once: none is idle
		if _, ok := a.take(start.Add(time.Hour), anAgent(i), 0, 0, half); !ok {
			t.Fatalf("agent %d is kept out", i)
		}
	}
	if n := len(a.own); n > maxAgents {
		t.Errorf("%d agents are remembered, at most %d", n, maxAgents)
	}
}

// F47: a machine that is busy is slow, and an insider that comes again and again meanwhile has the others wait no longer for
// that.
func TestF47WhoDoesNotWaitIsNotWaitedFor(t *testing.T) {
	const rate, burst = 2000, 500
	start := time.Unix(1_800_000_000, 0)
	a := newIntake(rate, burst, start)
	r := rand.New(rand.NewPCG(1, 2))
	jitter := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
	whole := func(d time.Duration) time.Duration { return d }
	var last time.Duration
	for ms := range 20_000 {
		now := start.Add(time.Duration(ms) * time.Millisecond)
		if _, ok := a.take(now, anAgent(0), maxOpening, 0, jitter); ok {
			t.Fatal("taken in, and too many are opening")
		}
		if ms%5000 == 4999 {
			last, _ = a.take(now, anAgent(1), maxOpening, 0, whole)
		}
	}
	if a.all.speed != slowest {
		t.Errorf("a machine that opens nothing is seen to open %v links a second", a.all.speed)
	}
	if last > 5*time.Second {
		t.Errorf("an honest agent is to come again in %v, with nobody before it but the insider", last)
	}
}
