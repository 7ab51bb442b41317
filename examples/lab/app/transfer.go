package app

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A transfer is one connection, both ways at once:
//
//	client → server   size 8 | seed 8 | size bytes | FIN
//	server → client   size bytes | SHA-256 of what it got 32 | FIN
//
// Each direction has its own bytes, made from the seed.
const transferHead = 16

// source is size bytes made from a seed.
func source(seed uint64, up bool, size int64) io.Reader {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	if up {
		key[31] = 1
	}
	return io.LimitReader(rand.NewChaCha8(key), size)
}

// digestOf is the digest of a direction.
func digestOf(seed uint64, up bool, size int64) (d [sha256.Size]byte) {
	h := sha256.New()
	_, _ = io.Copy(h, source(seed, up, size)) // neither end can fail
	return [sha256.Size]byte(h.Sum(nil))
}

// Progress is how far a transfer is.
type Progress struct{ up, down atomic.Int64 }

// Bytes are those of both directions.
func (p *Progress) Bytes() int64 { return p.up.Load() + p.down.Load() }

// Transferred is what came of a transfer.
type Transferred struct {
	Size    int64         `json:"size"` // of each direction
	Took    time.Duration `json:"took"`
	Longest time.Duration `json:"longest"` // wait between two reads
	Lost    int64         `json:"lost"`    // bytes that did not come, in both directions
	Wrong   string        `json:"wrong,omitempty"`
}

// Transfer sends and receives size bytes. Its error is that of the connection; bytes that differ are in the result.
func Transfer(ctx context.Context, c net.Conn, size int64, seed uint64, p *Progress) (r Transferred, err error) {
	r.Size = size
	half, ok := c.(conn)
	if !ok {
		return r, fmt.Errorf("%T can't end one direction alone", c)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	begin := time.Now()
	var writer sync.WaitGroup
	var writeErr error
	writer.Go(func() { writeErr = upload(half, size, seed, &p.up) })
	trace := &Trace{}
	down := sha256.New()
	got, readErr := copyTraced(io.MultiWriter(down, counter{&p.down}), io.LimitReader(c, size), trace)
	r.Longest, _ = trace.Longest(begin, time.Now()) // then it waits for its own upload
	digest := make([]byte, sha256.Size)
	if readErr == nil && got == size {
		_, readErr = io.ReadFull(c, digest)
	}
	writer.Wait()
	r.Took = time.Since(begin)
	r.Lost = size - got + size - p.up.Load()
	if err := errors.Join(writeErr, readErr); err != nil {
		return r, fmt.Errorf("after %d bytes up and %d down of %d: %w", p.up.Load(), got, size, err)
	}
	r.judge(down, digest, seed)
	return r, nil
}

// judge compares digests.
func (r *Transferred) judge(down hash.Hash, up []byte, seed uint64) {
	if want := digestOf(seed, false, r.Size); [sha256.Size]byte(down.Sum(nil)) != want {
		r.Wrong = "what came down is not what was sent"
	}
	if want := digestOf(seed, true, r.Size); [sha256.Size]byte(up) != want {
		r.Wrong += " what went up is not what was received"
	}
}

func upload(c conn, size int64, seed uint64, sent *atomic.Int64) error {
	var head [transferHead]byte
	binary.BigEndian.PutUint64(head[:], uint64(size))
	binary.BigEndian.PutUint64(head[8:], seed)
	if _, err := c.Write(head[:]); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(c, counter{sent})}, source(seed, true, size), make([]byte, 128<<10)); err != nil {
		return err
	}
	return c.CloseWrite()
}

// counter counts what is written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// copyTraced copies and notes when something came.
func copyTraced(to io.Writer, from io.Reader, t *Trace) (n int64, err error) {
	b := make([]byte, 128<<10)
	for {
		m, err := from.Read(b)
		if m > 0 {
			t.Add(time.Now())
			n += int64(m)
			if _, err := to.Write(b[:m]); err != nil {
				return n, err
			}
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// ServeTransfers is the far end of transfers, until the listener is closed.
func ServeTransfers(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if serveTransfer(c) != nil { // the client sees a reset, never a clean end
				if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
					_ = l.SetLinger(0)
				}
			}
		}()
	}
}

func serveTransfer(c net.Conn) error {
	var head [transferHead]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	size, seed := int64(binary.BigEndian.Uint64(head[:])), binary.BigEndian.Uint64(head[8:])
	var writer sync.WaitGroup
	var writeErr error
	writer.Go(func() {
		_, writeErr = io.CopyBuffer(struct{ io.Writer }{c}, source(seed, false, size), make([]byte, 128<<10))
	})
	h := sha256.New()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{c}, make([]byte, 128<<10)) // to the client's FIN
	writer.Wait()
	if err = errors.Join(err, writeErr); err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("the client sent %d bytes of %d", n, size)
	}
	_, err = c.Write(h.Sum(nil))
	return err
}

// Report is a line that `ms-lab transfer` prints.
type Report struct {
	Bytes  int64       `json:"bytes"` // so far, of both directions
	Done   bool        `json:"done,omitempty"`
	Result Transferred `json:"result,omitzero"`
	Error  string      `json:"error,omitempty"`
}
