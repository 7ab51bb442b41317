//go:build !race

// The race detector's own memory would be counted: this runs without it.

package anchor

import (
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/proto"
)

// acceptor takes connections and keeps them as bare descriptors: the origin's end costs no memory that is counted.
func acceptor(t *testing.T, l *net.TCPListener) (stop func() []int) {
	t.Helper()
	f, err := l.File() // a listener itself does not tell when it is readable
	if err != nil {
		t.Fatal(err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fds []int
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			var fd int
			var got error
			err := raw.Read(func(s uintptr) bool {
				fd, _, got = unix.Accept4(int(s), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
				return got != unix.EAGAIN
			})
			if err != nil || got != nil {
				return
			}
			fds = append(fds, fd)
		}
	})
	return func() []int { f.Close(); wg.Wait(); return fds }
}

// held is the memory of heap and stacks that is in use, after what can be freed is.
func held() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// bareAgent speaks the protocol without a session, which would be counted too.
type bareAgent struct {
	t *testing.T
	c net.Conn
	r *proto.Reader
}

func newBareAgent(t *testing.T, a *Anchor) *bareAgent {
	t.Helper()
	near, far := tcpPair(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		a.Serve(t.Context(), far, agent, agentAddr)
	}()
	t.Cleanup(func() { near.Close(); <-served })
	b := &bareAgent{t, near, proto.NewReader(near, 0)}
	b.send(proto.AppendMessage(nil, &proto.Session{}, 0))
	b.wait(proto.TypeSessionOK, 1)
	return b
}

func (b *bareAgent) send(p []byte) {
	b.t.Helper()
	if _, err := b.c.Write(p); err != nil {
		b.t.Fatal(err)
	}
}

// wait reads until n frames of a type have come.
func (b *bareAgent) wait(want proto.FrameType, n int) {
	b.t.Helper()
	b.c.SetReadDeadline(time.Now().Add(6 * patience))
	for n > 0 {
		h, payload, err := b.r.Next()
		if err != nil {
			b.t.Fatalf("%d frames of type %#x are missing: %v", n, uint8(want), err)
		}
		if h.Type == proto.TypeOpenFail {
			b.t.Fatalf("OPEN_FAIL %q", payload)
		}
		switch h.Type {
		case want:
			n--
		case proto.TypePing:
			b.send(append(proto.Header{Type: proto.TypePong, Length: h.Length}.Append(nil), payload...))
		}
	}
}

// An idle stream costs at most 8 KiB, new and after bytes have flowed both ways. The origin's end of its connection is not
// counted, the anchor's own is.
func TestIdleStreamIsCheap(t *testing.T) {
	const n = 2000
	l := listen(t)
	stop := acceptor(t, l)
	a := run(t, Config{Begin: Begin, Services: func(string) (Service, bool) { return Service{Origin: l.Addr().String()}, true }})
	b := newBareAgent(t, a)
	before := held()
	for i := range n {
		b.send(proto.AppendMessage(nil, &proto.Open{Service: "web"}, uint32(i+1)))
	}
	b.wait(proto.TypeOpenOK, n)
	report := func(when string) {
		each := (held() - before) / n
		for end := time.Now().Add(patience); each > streamCost && time.Now().Before(end); time.Sleep(idleTurn / 2) {
			each = (held() - before) / n // streams that were busy are not idle at once
		}
		t.Logf("%s: %d bytes an idle stream, %d goroutines for %d", when, each, runtime.NumGoroutine(), n)
		if each > streamCost {
			t.Errorf("%s: %d bytes an idle stream, want at most %d", when, each, streamCost)
		}
	}
	report("new")

	question, answer := make([]byte, 4000), make([]byte, 8000)
	for i := range n {
		h := proto.Header{Type: proto.TypeData, Length: uint16(len(question)), Stream: uint32(i + 1)}
		b.send(append(h.Append(nil), question...))
	}
	b.wait(proto.TypeAck, n) // they have been read
	for a.Stats().In < n*uint64(len(question)) {
		time.Sleep(time.Millisecond)
	}
	origins := stop()
	if len(origins) != n {
		t.Fatalf("%d connections at the origin, want %d", len(origins), n)
	}
	for _, fd := range origins {
		if _, err := unix.Write(fd, answer); err != nil {
			t.Fatal(err)
		}
	}
	acks := b.drain(n, len(answer))
	b.send(acks)
	for a.Stats().Out < n*uint64(len(answer)) {
		time.Sleep(time.Millisecond)
	}
	report("after bytes both ways")
	for _, fd := range origins {
		unix.Close(fd)
	}
}

// drain reads size bytes of each of n streams and returns the ACKs for them.
func (b *bareAgent) drain(n, size int) (acks []byte) {
	b.t.Helper()
	b.c.SetReadDeadline(time.Now().Add(6 * patience))
	for left := n * size; left > 0; {
		h, payload, err := b.r.Next()
		if err != nil {
			b.t.Fatalf("%d bytes are missing: %v", left, err)
		}
		switch h.Type {
		case proto.TypeData:
			left -= len(payload)
		case proto.TypePing:
			b.send(append(proto.Header{Type: proto.TypePong, Length: h.Length}.Append(nil), payload...))
		}
	}
	for i := range n {
		acks = proto.Header{Type: proto.TypeAck, Length: 8, Stream: uint32(i + 1), Offset: uint64(size)}.Append(acks)
		acks = append(acks, 0, 0, 0, 0, 0, 1, 0, 0)
	}
	return acks
}

// A large buffer is held while bytes flow, not while a peer stands still that sent just as much as fits a small one.
func TestLargeBuffersComeBack(t *testing.T) {
	w := start(t, nil)
	st, origin := w.pair()
	before := w.a.Stats().Memory
	origin.Write(make([]byte, smallSize))
	st.Write(make([]byte, smallSize))
	for _, r := range []net.Conn{st, origin} {
		if _, err := r.Read(make([]byte, smallSize)); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(patience); w.a.Stats().Memory != before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("an idle stream is charged %d bytes, new %d", w.a.Stats().Memory, before)
		}
	}
}
