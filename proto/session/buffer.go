package session

import "sync"

// chunkSize is small, because a stream that holds one byte holds a chunk.
const chunkSize = 4 << 10

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// buffer is a queue of bytes in pooled chunks: an empty one holds no memory.
type buffer struct {
	chunks []*[chunkSize]byte
	head   int // first byte, in chunks[0]
	n      int
}

// write appends all of p.
func (b *buffer) write(p []byte) {
	for len(p) > 0 {
		at := (b.head + b.n) % chunkSize
		if at == 0 && b.head+b.n == len(b.chunks)*chunkSize {
			b.chunks = append(b.chunks, chunks.Get().(*[chunkSize]byte))
		}
		c := copy(b.chunks[(b.head+b.n)/chunkSize][at:], p)
		b.n += c
		p = p[c:]
	}
}

// peek appends up to max bytes that begin at off to dst.
func (b *buffer) peek(dst []byte, off, max int) []byte {
	for max = min(max, b.n-off); max > 0; {
		at := b.head + off
		c := b.chunks[at/chunkSize][at%chunkSize:]
		c = c[:min(len(c), max)]
		dst = append(dst, c...)
		off += len(c)
		max -= len(c)
	}
	return dst
}

// read moves bytes into p.
func (b *buffer) read(p []byte) int {
	total := 0
	for b.n > 0 && total < len(p) {
		c := b.chunks[0][b.head:]
		c = c[:min(len(c), b.n)]
		n := copy(p[total:], c)
		total += n
		b.drop(n)
	}
	return total
}

// drop forgets the first n bytes.
func (b *buffer) drop(n int) {
	b.head += n
	b.n -= n
	for b.head >= chunkSize || b.n == 0 && len(b.chunks) > 0 {
		chunks.Put(b.chunks[0])
		b.chunks[0] = nil
		b.chunks = b.chunks[1:]
		b.head = max(b.head-chunkSize, 0)
	}
	if b.n == 0 {
		b.head, b.chunks = 0, nil
	}
}

func (b *buffer) reset() { b.drop(b.n) }
