package kernel

import "encoding/binary"

// ring holds the packets that are on a link, in the order they leave it: records of due time,
// length and bytes in one fixed buffer, so that a busy link allocates nothing.
type ring struct {
	buf        []byte
	head, tail int // next record to leave, next free byte
	wrap       int // where the records before the wrap end; 0 = not wrapped
	n          int
}

const recordHeader = 16

func newRing(size int) *ring { return &ring{buf: make([]byte, size)} }

// reserve returns room for a packet of up to size bytes, or nil when the ring is full.
func (r *ring) reserve(size int) []byte {
	if r.n == 0 {
		r.head, r.tail, r.wrap = 0, 0, 0 // start again at the warm end of the buffer
	}
	need := recordHeader + align(size)
	if r.wrap == 0 && r.tail+need > len(r.buf) {
		if r.n == 0 || r.head <= need {
			return nil
		}
		r.wrap, r.tail = r.tail, 0
	}
	if r.wrap != 0 && r.head-r.tail <= need {
		return nil
	}
	return r.buf[r.tail+recordHeader : r.tail+recordHeader+size]
}

// commit keeps the first n bytes of what reserve returned until due.
func (r *ring) commit(due int64, n int) {
	binary.LittleEndian.PutUint64(r.buf[r.tail:], uint64(due))
	binary.LittleEndian.PutUint64(r.buf[r.tail+8:], uint64(n))
	r.tail += recordHeader + align(n)
	r.n++
}

// front returns the oldest packet and when it is due.
func (r *ring) front() (due int64, packet []byte, ok bool) {
	if r.n == 0 {
		return 0, nil, false
	}
	if r.wrap != 0 && r.head == r.wrap {
		r.head, r.wrap = 0, 0
	}
	due = int64(binary.LittleEndian.Uint64(r.buf[r.head:]))
	n := int(binary.LittleEndian.Uint64(r.buf[r.head+8:]))
	return due, r.buf[r.head+recordHeader : r.head+recordHeader+n], true
}

// pop forgets the packet that front returned.
func (r *ring) pop() {
	n := int(binary.LittleEndian.Uint64(r.buf[r.head+8:]))
	r.head += recordHeader + align(n)
	r.n--
}

func align(n int) int { return (n + 15) &^ 15 }
