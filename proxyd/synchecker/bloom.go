package synchecker

import (
	"crypto/rand"
	"encoding/binary"
	"time"
	"unsafe"

	"github.com/dchest/siphash"
)

// A SYN is repeated after a second by most systems, and then after another one or two. 2^25 bits take
// about 1 in 20 fresh SYNs for repeated at a million a second, 1 in 500 at 200,000.
const (
	generation = 4 * time.Second
	ripens     = 500 * time.Millisecond
	bloomBits  = 1 << 25 // of each generation: 4 MiB, 12 MiB in all
)

// repeats remembers the SYNs of the last 4 to 8 seconds: a Bloom filter of two generations, two bits a
// SYN, which nobody outside can tell. What is younger than half a second at most waits beside them: who
// sends each SYN twice at once has not repeated it.
type repeats struct {
	k0, k1  uint64
	words   []bloomWord
	turned  time.Time // when cur began
	ripened time.Time // when young began
}

// bloomWord is the same word of each generation. A SYN has both bits in one: it costs one miss of the
// cache, and a few more false ones.
type bloomWord struct{ young, cur, old uint64 }

func newRepeats(bits int) *repeats {
	var k [16]byte
	rand.Read(k[:]) // never fails (crypto/rand)
	r := &repeats{
		k0: binary.LittleEndian.Uint64(k[:]), k1: binary.LittleEndian.Uint64(k[8:]), words: make([]bloomWord, bits/64),
	}
	hugePages(unsafe.Slice((*byte)(unsafe.Pointer(&r.words[0])), len(r.words)*int(unsafe.Sizeof(r.words[0]))))
	return r
}

// turn ages what is remembered. When something ripens it takes about a millisecond.
func (r *repeats) turn(now time.Time) {
	since := now.Sub(r.ripened)
	if since >= 0 && since < ripens {
		return
	}
	age := now.Sub(r.turned)
	turns, stale := age >= generation || age < 0, since >= 2*generation || since < 0
	for i := range r.words {
		w := &r.words[i]
		w.cur, w.young = w.cur|w.young, 0
		if turns {
			w.old, w.cur = w.cur, 0
		}
		if stale {
			w.old = 0
		}
	}
	if r.ripened = now; turns {
		r.turned = now
	}
}

// again notes a SYN, and says whether the same one came some time before: from the same address and
// port, with the same sequence number.
func (r *repeats) again(s *segment, now time.Time) bool {
	r.turn(now)
	var m [16 + 16 + 4 + 4]byte
	n := copy(m[:], s.src)
	n += copy(m[n:], s.dst)
	be.PutUint16(m[n:], s.sport)
	be.PutUint16(m[n+2:], s.dport)
	be.PutUint32(m[n+4:], s.seq)
	h := siphash.Hash(r.k0, r.k1, m[:n+8])
	w := &r.words[h%uint64(len(r.words))]
	bits := uint64(1)<<(h>>52&63) | uint64(1)<<(h>>58)
	seen := w.cur&bits == bits || w.old&bits == bits
	w.young |= bits
	return seen
}
