package synchecker

import (
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/dchest/siphash"
)

// epochLen is how long a cookie secret's epoch lasts; the one before is still accepted, so a client
// has between 64 and 128 s for its first flight.
const epochLen = 64 * time.Second

// jar makes and checks cookies. A cookie is
//
//	high 16 bits of SipHash(addresses, ports, epoch) | low 16 bits of SipHash(that hash, ISN)
//
// An ACK must show all 32 bits. A FIN comes after data of a length that nobody remembers, so its ISN
// is unknown; the high half alone then tells our connections from those the kernel had.
type jar struct {
	k0, k1 uint64
	start  time.Time // epochs count from here, by the monotonic clock: a step of the wall clock costs nothing
}

func newJar(start time.Time) jar {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return jar{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:]), start}
}

func (j *jar) epoch(now time.Time) uint64 { return uint64(now.Sub(j.start) / epochLen) }

func (j *jar) flow(s *segment, epoch uint64) uint64 {
	var m [16 + 16 + 4 + 8]byte
	n := copy(m[:], s.src)
	n += copy(m[n:], s.dst)
	be.PutUint16(m[n:], s.sport)
	be.PutUint16(m[n+2:], s.dport)
	be.PutUint64(m[n+4:], epoch)
	return siphash.Hash(j.k0, j.k1, m[:n+12])
}

func (j *jar) mix(flow uint64, isn uint32) uint32 {
	var m [12]byte
	be.PutUint64(m[:], flow)
	be.PutUint32(m[8:], isn)
	return uint32(flow>>48)<<16 | uint32(siphash.Hash(j.k0, j.k1, m[:]))&0xffff
}

// cookie is the sequence number that answers the SYN s.
func (j *jar) cookie(s *segment, now time.Time) uint32 {
	return j.mix(j.flow(s, j.epoch(now)), s.seq)
}

// opens says whether s, the first data of a client, acknowledges a cookie of this epoch or the last.
func (j *jar) opens(s *segment, now time.Time) bool {
	e := j.epoch(now)
	if j.mix(j.flow(s, e), s.seq-1) == s.ack-1 {
		return true
	}
	return e > 0 && j.mix(j.flow(s, e-1), s.seq-1) == s.ack-1
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
