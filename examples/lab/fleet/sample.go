package fleet

import (
	"crypto/sha256"
	"hash"
	"time"
)

// The application's patience.
const (
	ConnectLimit = 3 * time.Second // two repetitions of a SYN
	FetchLimit   = 15 * time.Second
)

// Sample is one fetch of the file by a new connection.
type Sample struct {
	When      string
	Start     time.Time
	Connect   time.Duration // 0 = the connection did not come about
	Total     time.Duration
	Connected bool
	Whole     bool // every byte came
	Wrong     bool // every byte came, and they were not the file's
	Err       string
}

// OK reports a download that succeeded.
func (s Sample) OK() bool { return s.Whole && !s.Wrong }

// Body takes in a file to see whether it is the right one.
type Body struct {
	hash hash.Hash
	n    int
}

// NewBody returns one that has seen nothing.
func NewBody() *Body { return &Body{hash: sha256.New()} }

func (b *Body) Write(p []byte) (int, error) {
	b.n += len(p)
	return b.hash.Write(p)
}

// Whole reports whether it was as long as the file.
func (b *Body) Whole() bool { return b.n == FileSize }

// Is reports whether its digest is this one.
func (b *Body) Is(digest [sha256.Size]byte) bool {
	return [sha256.Size]byte(b.hash.Sum(nil)) == digest
}
