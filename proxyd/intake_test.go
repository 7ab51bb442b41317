package proxyd

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"
)

// arrivals are the times at which clients come, the earliest first.
type arrivals []time.Duration

func (a arrivals) Len() int           { return len(a) }
func (a arrivals) Less(i, j int) bool { return a[i] < a[j] }
func (a arrivals) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *arrivals) Push(x any)        { *a = append(*a, x.(time.Duration)) }
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
	var in arrivals
	for clients.Len() > 0 {
		at := heap.Pop(&clients).(time.Duration)
		came++
		if again, ok := a.take(start.Add(at), 0, jitter); !ok {
			heap.Push(&clients, at+again)
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
				all = append(all, tc.within*time.Duration(i)/clients)
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
	a.take(start, 0, whole)
	for range 1000 {
		if again, ok := a.take(start, 0, whole); ok || again < minRetry || again > maxRetry {
			t.Fatalf("got %v, %v; want a RETRY between %v and %v", again, ok, minRetry, maxRetry)
		}
	}
}

func TestAdmissionOfASlowMachine(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	a := newIntake(1000, 1000, start)
	half := func(d time.Duration) time.Duration { return d / 2 }
	if again, ok := a.take(start, maxOpening, half); ok || again < minRetry {
		t.Errorf("%v, %v: %d links are not answered yet, and one more is taken in", again, ok, maxOpening)
	}
	if _, ok := a.take(start, maxOpening-1, half); !ok {
		t.Error("one of them is answered, and nobody is taken in")
	}
}
