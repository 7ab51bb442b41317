package synchecker

import (
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/dchest/siphash"
)

// epochLen is how long a cookie secret's epoch lasts, 68.7 s; the one before is still accepted, so a
// client has between one and two of them for its first flight. A power of two, since the packet
// program, which makes the same cookies, then needs no division.
const (
	epochBits = 36
	epochLen  = time.Duration(1 << epochBits)
)

// jar makes and checks cookies. With h = SipHash(addresses, ports, epoch), a cookie is
//
//	high 16 bits of h | low 16 bits of h ^ ISN ^ ISN>>16
//
// An ACK must show all 32 bits. A FIN comes after data of a length that nobody remembers, so its ISN
// is unknown; the high half alone then tells our connections from those the kernel had.
//
// The ISN needs no hash of its own. Who does not get our packets knows nothing of h and has to guess 32
// bits with any ISN; who gets them can make cookies of his own flow only, where he is proven already.
// It is in there so that a second segment is not taken for a first flight.
type jar struct {
	k0, k1 uint64
	start  time.Time // epochs count from here, by the monotonic clock: a step of the wall clock costs nothing
}

// newJar begins with the second epoch: the packet program's clock is some ms late.
func newJar(now time.Time) jar {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return jar{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:]), now.Add(-epochLen)}
}

func (j *jar) epoch(now time.Time) uint64 { return uint64(now.Sub(j.start) / epochLen) }

// flow hashes addresses, ports and the low 24 bits of the epoch: 15 bytes, or 39 with IPv6, which just
// leaves the hash room for its length in the last block.
func (j *jar) flow(s *segment, epoch uint64) uint64 {
	var m [16 + 16 + 4 + 3]byte
	n := copy(m[:], s.src)
	n += copy(m[n:], s.dst)
	be.PutUint16(m[n:], s.sport)
	be.PutUint16(m[n+2:], s.dport)
	m[n+4], m[n+5], m[n+6] = byte(epoch), byte(epoch>>8), byte(epoch>>16)
	return siphash.Hash(j.k0, j.k1, m[:n+7])
}

func mix(flow uint64, isn uint32) uint32 {
	return uint32(flow>>48)<<16 | (uint32(flow)^isn^isn>>16)&0xffff
}

// cookie is the sequence number that answers the SYN s.
func (j *jar) cookie(s *segment, now time.Time) uint32 {
	return mix(j.flow(s, j.epoch(now)), s.seq)
}

// opens says whether s, the first data of a client, acknowledges a cookie of this epoch or the last.
func (j *jar) opens(s *segment, now time.Time) bool {
	e := j.epoch(now)
	if mix(j.flow(s, e), s.seq-1) == s.ack-1 {
		return true
	}
	return e > 0 && mix(j.flow(s, e-1), s.seq-1) == s.ack-1
}

// ours says whether s, a FIN, belongs to a connection that had a cookie: it acknowledges nothing of
// what we sent but the SYN, or the sealed reply and its FIN too.
func (j *jar) ours(s *segment, sent uint32, now time.Time) bool {
	e := j.epoch(now)
	match := func(flow uint64) bool {
		high := uint32(flow >> 48)
		return (s.ack-1)>>16 == high || (s.ack-1-sent)>>16 == high
	}
	return match(j.flow(s, e)) || e > 0 && match(j.flow(s, e-1))
}

// hide spreads what a stranger may choose over a table, in a way that he can't foresee.
func (j *jar) hide(b [16]byte) (out [16]byte) {
	be.PutUint64(out[:], siphash.Hash(j.k1, j.k0, b[:]))
	be.PutUint64(out[8:], siphash.Hash(j.k0, j.k1, b[:]))
	return out
}
