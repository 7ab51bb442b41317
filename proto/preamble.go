package proto

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/dchest/siphash"
)

// Sizes and limits of the first flight.
const (
	PreambleLen    = 76
	FirstFlightMax = 512 // preamble and ClientHello, one write, one segment
	Version        = 1
	MaxSkew        = 10 * time.Minute

	tagAt = 52
	macAt = 60
)

var magic = [4]byte{'M', 'S', 'p', 1}

// Kind is what an agent wants with a link (or a knock).
type Kind uint8

// The kinds of a preamble.
const (
	KindControl Kind = 1 + iota // ends at the edge
	KindData                    // ends at the anchor
	KindEnrol                   // a token's way to the signing node
	KindKnock                   // one UDP datagram that opens a door
	KindProbe                   // no link: it ends with its one sealed answer
)

func (k Kind) String() string {
	switch k {
	case KindControl:
		return "control"
	case KindData:
		return "data"
	case KindEnrol:
		return "enrol"
	case KindKnock:
		return "knock"
	case KindProbe:
		return "probe"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Preamble is the first 76 bytes of every link; doc.go draws them.
type Preamble struct {
	Kind   Kind
	Key    KeyID
	Handle [16]byte
	Target NodeID    // an anchor (data), else the edge's own id
	Time   time.Time // seconds
	Nonce  Nonce
}

// Append appends the complete 76 bytes, with the tag and the MAC for the edge. The handle is that of
// keys.
func (p Preamble) Append(dst []byte, keys Admission, edge NodeID) []byte {
	at := len(dst)
	dst = append(dst, magic[:]...)
	dst = append(dst, Version, byte(p.Kind), p.Key.Gen, p.Key.Issuer)
	dst = append(dst, keys.Handle[:]...)
	dst = append(dst, p.Target[:]...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.Time.Unix()))
	dst = append(dst, p.Nonce[:]...)
	k0, k1 := binary.LittleEndian.Uint64(keys.Tag[:]), binary.LittleEndian.Uint64(keys.Tag[8:])
	dst = binary.BigEndian.AppendUint64(dst, siphash.Hash(k0, k1, dst[at:]))
	m := mac(&keys.K, dst[at:], edge)
	return append(dst, m[:]...)
}

// ParsePreamble reads the fields of a preamble and verifies nothing: Keyring.Verify does.
func ParsePreamble(b []byte) (Preamble, error) {
	if len(b) < PreambleLen || [4]byte(b) != magic {
		return Preamble{}, ErrMagic
	}
	var p Preamble
	p.parse(b)
	return p, nil
}

func (p *Preamble) parse(b []byte) {
	p.Kind = Kind(b[5])
	p.Key = KeyID{b[6], b[7]}
	copy(p.Handle[:], b[8:])
	copy(p.Target[:], b[24:])
	p.Time = time.Unix(int64(binary.BigEndian.Uint32(b[32:])), 0)
	copy(p.Nonce[:], b[36:])
}
