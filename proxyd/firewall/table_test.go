package firewall

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestTableIsWhatItWasTold: whatever is let in, thrown out, forgotten or not done by the kernel, the table knows the doors
// that are open, in the order in which they were opened, and no other.
func TestTableIsWhatItWasTold(t *testing.T) {
	const most, hosts = 20, 40
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		table := newTable(most)
		var open []admission // oldest first
		now := time.Unix(1_800_000_000, 0)
		for step := range 500 {
			now = now.Add(time.Duration(r.IntN(1000)) * time.Millisecond)
			var reqs []request
			for range 1 + r.IntN(8) {
				q := request{addr: netip.AddrFrom4([4]byte{198, 18, 0, byte(r.IntN(hosts))})}
				if r.IntN(4) > 0 {
					q.until = now.Add(time.Duration(1+r.IntN(20)) * time.Second)
				}
				reqs = append(reqs, q)
			}
			c := table.change(reqs, now)
			open = slices.DeleteFunc(open, func(a admission) bool { return !a.until.After(now) })
			if r.IntN(5) > 0 { // else the kernel could not
				table.commit(c)
				gone := func(a admission) bool {
					return slices.Contains(c.evict, a.addr) || slices.ContainsFunc(c.admit, func(b admission) bool { return a.addr == b.addr })
				}
				open = append(slices.DeleteFunc(open, gone), c.admit...)
			}
			if n := table.count(now); n > most || n != len(open) || n != len(table.soon) || n != len(table.at) {
				t.Fatalf("seed %d, step %d: %d open, %d in the heap, %d by address; want %d, at most %d", seed, step, n, len(table.soon), len(table.at), len(open), most)
			}
			if got := table.all(now); !slices.Equal(got, open) {
				t.Fatalf("seed %d, step %d: open are %v, want %v", seed, step, got, open)
			}
			for i, d := range table.soon {
				if d.index != i || table.at[d.addr] != d {
					t.Fatalf("seed %d, step %d: door %v is at %d of the heap, and says %d", seed, step, d.addr, i, d.index)
				}
			}
		}
	}
}
