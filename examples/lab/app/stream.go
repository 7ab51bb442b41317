package app

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net/http"
	"sync"
	"time"
)

// Stream serves downloads that go on until they are told to end, at a constant rate: GET /NAME. Each may be fetched once.
type Stream struct {
	Every time.Duration // between two pieces
	Piece int           // bytes

	mu      sync.Mutex
	streams map[string]*stream
}

type stream struct {
	end  chan struct{} // closed by Finish
	done chan struct{} // closed when the last byte is written
	hash hash.Hash     // valid after done
	n    int64
	err  error
}

func (s *Stream) get(name string) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams == nil {
		s.streams = map[string]*stream{}
	}
	x := s.streams[name]
	if x == nil {
		x = &stream{end: make(chan struct{}), done: make(chan struct{}), hash: sha256.New()}
		s.streams[name] = x
	}
	return x
}

// ServeHTTP serves one download.
func (s *Stream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := s.get(r.URL.Path[1:])
	defer close(x.done)
	from := source(uint64(len(r.URL.Path)), false, 1<<62)
	tick := time.NewTicker(s.Every)
	defer tick.Stop()
	b := make([]byte, s.Piece)
	flush := http.NewResponseController(w)
	for {
		select {
		case <-x.end:
			return // net/http ends the reply as a whole one
		case <-tick.C:
		}
		_, _ = io.ReadFull(from, b) // it does not end
		if _, x.err = w.Write(b); x.err == nil {
			x.err = flush.Flush()
		}
		if x.err != nil {
			panic(http.ErrAbortHandler) // a reset: never a clean end of what is not whole
		}
		x.hash.Write(b)
		x.n += int64(len(b))
	}
}

// Finish ends a download that was begun and returns the digest and the length of what was served.
func (s *Stream) Finish(name string, limit time.Duration) (digest [sha256.Size]byte, n int64, err error) {
	x := s.get(name)
	close(x.end)
	select {
	case <-x.done:
		return [sha256.Size]byte(x.hash.Sum(nil)), x.n, x.err
	case <-time.After(limit):
		return digest, 0, fmt.Errorf("the download %s has not ended within %v", name, limit)
	}
}

// Reader takes in a download.
type Reader struct {
	Trace
	mu   sync.Mutex
	hash hash.Hash
	n    int64
}

// NewReader returns one that has seen nothing.
func NewReader() *Reader { return &Reader{hash: sha256.New()} }

func (r *Reader) Write(b []byte) (int, error) {
	r.Add(time.Now())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n += int64(len(b))
	return r.hash.Write(b)
}

// Sum is the digest and the length of what came.
func (r *Reader) Sum() (digest [sha256.Size]byte, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return [sha256.Size]byte(r.hash.Sum(nil)), r.n
}
