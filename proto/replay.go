package proto

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"github.com/dchest/siphash"
)

const (
	nonceSlots      = 1 << 20
	nonceProbes     = 8
	nonceGeneration = 10 * time.Minute
)

// NonceSet remembers which nonces admitted which address: a nonce admits one address once (a captured
// preamble, replayed from elsewhere, gets nothing). Memory is fixed: two generations of 2^20
// fingerprints of 10 minutes each, 16 MiB. It is safe for concurrent use.
type NonceSet struct {
	k0, k1     uint64 // set once, as generation
	generation time.Duration

	mu       sync.Mutex
	cur, old []nonceSlot
	turned   time.Time
}

// nonceSlot is a fingerprint of a nonce and one of the address it came from. A zero nonce is empty.
type nonceSlot struct{ nonce, addr uint32 }

// NewNonceSet returns an empty set whose fingerprints cannot be predicted.
func NewNonceSet() *NonceSet { return newNonceSet(nonceSlots, nonceGeneration) }

func newNonceSet(slots int, generation time.Duration) *NonceSet {
	k := NewNonce()
	return &NonceSet{
		k0: binary.LittleEndian.Uint64(k[:]), k1: binary.LittleEndian.Uint64(k[8:]), generation: generation,
		cur: make([]nonceSlot, slots), old: make([]nonceSlot, slots),
	}
}

// Seen notes the nonce. fresh: it was not seen before. same: it was, from this address (a
// retransmission). Neither: somebody replays it from another address.
func (s *NonceSet) Seen(n Nonce, from netip.Addr, now time.Time) (fresh, same bool) {
	a := from.As16()
	h := siphash.Hash(s.k0, s.k1, n[:])
	slot := nonceSlot{uint32(h>>32) | 1, uint32(siphash.Hash(s.k1, s.k0, a[:]))}
	slots := uint32(len(s.cur))
	at := uint32(h) % slots

	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.turned) >= s.generation {
		s.cur, s.old = s.old, s.cur
		clear(s.cur)
		s.turned = now
	}
	for _, table := range [][]nonceSlot{s.cur, s.old} {
		for i := range uint32(nonceProbes) {
			if got := table[(at+i)%slots]; got.nonce == slot.nonce {
				return false, got.addr == slot.addr
			}
		}
	}
	for i := range uint32(nonceProbes) {
		if p := &s.cur[(at+i)%slots]; p.nonce == 0 {
			*p = slot
			return true, false
		}
	}
	s.cur[at] = slot // full here: the oldest knowledge gives way
	return true, false
}
