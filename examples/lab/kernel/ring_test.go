package kernel

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestRingKeepsOrderAndBytes fills and empties a small ring at random, past its wrap many times,
// and compares with a slice.
func TestRingKeepsOrderAndBytes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	r := newRing(4096)
	type record struct {
		due  int64
		data []byte
	}
	var want []record
	full := 0
	for i := range 20000 {
		if random.IntN(2) == 0 {
			b := r.reserve(600)
			if b == nil {
				full++
			} else {
				n := 1 + random.IntN(600)
				for j := range n {
					b[j] = byte(i + j)
				}
				r.commit(int64(i), n)
				want = append(want, record{int64(i), bytes.Clone(b[:n])})
			}
		}
		if random.IntN(2) == 0 {
			due, b, ok := r.front()
			if ok != (len(want) > 0) {
				t.Fatalf("step %d: front says %v, want %d records", i, ok, len(want))
			}
			if ok {
				if due != want[0].due || !bytes.Equal(b, want[0].data) {
					t.Fatalf("step %d: got record %d, want %d, or its bytes changed", i, due, want[0].due)
				}
				r.pop()
				want = want[1:]
			}
		}
	}
	if full == 0 {
		t.Error("the ring was never full: the test did not reach its limits")
	}
}
