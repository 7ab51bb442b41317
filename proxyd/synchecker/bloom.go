package synchecker

import (
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/dchest/siphash"
)

// A SYN is repeated after a second by most systems, and then after another one or two. 2^25 bits take
// 1 in 26 fresh SYNs for repeated at a million a second, 1 in 500 at 200,000 (research, measured).
const (
	generation = 4 * time.Second
	bloomBits  = 1 << 25 // of each generation: 4 MiB
)

// repeats remembers the SYNs of the last 4 to 8 seconds: a Bloom filter of two generations, two bits a
// SYN. Nobody outside can tell which.
type repeats struct {
	k0, k1   uint64
	cur, old []uint64
	turned   time.Time
}

func newRepeats(bits int) *repeats {
	var k [16]byte
	rand.Read(k[:]) // never fails (crypto/rand)
	return &repeats{
		k0: binary.LittleEndian.Uint64(k[:]), k1: binary.LittleEndian.Uint64(k[8:]),
		cur: make([]uint64, bits/64), old: make([]uint64, bits/64),
	}
}

// again notes a SYN, and says whether the same one came before: from the same address and port, with
// the same sequence number.
func (r *repeats) again(s *segment, now time.Time) bool {
	if d := now.Sub(r.turned); d >= generation || d < 0 {
		r.cur, r.old = r.old, r.cur
		clear(r.cur)
		if d >= 2*generation {
			clear(r.old)
		}
		r.turned = now
	}
	var m [16 + 16 + 4 + 4]byte
	n := copy(m[:], s.src)
	n += copy(m[n:], s.dst)
	be.PutUint16(m[n:], s.sport)
	be.PutUint16(m[n+2:], s.dport)
	be.PutUint32(m[n+4:], s.seq)
	h := siphash.Hash(r.k0, r.k1, m[:n+8])
	words := uint64(len(r.cur))
	i, j := h%words, (h>>32)%words
	a, b := uint64(1)<<(h>>26&63), uint64(1)<<(h>>58)
	seen := r.cur[i]&a != 0 && r.cur[j]&b != 0 || r.old[i]&a != 0 && r.old[j]&b != 0
	r.cur[i] |= a
	r.cur[j] |= b
	return seen
}
