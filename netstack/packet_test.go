package netstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// fakeTUN is a packetIO in memory. A packet of zero length is read as none, as Wintun may do.
type fakeTUN struct {
	aborts atomic.Int32
	in     chan []byte
	out    chan []byte
	closed chan struct{}
	fail   chan error
}

func newFakeTUN() *fakeTUN {
	return &fakeTUN{in: make(chan []byte, 4), out: make(chan []byte, 4), closed: make(chan struct{}), fail: make(chan error, 1)}
}

func (f *fakeTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case p := <-f.in:
		sizes[0] = copy(bufs[0][offset:], p)
		return 1, nil
	case err := <-f.fail:
		return 0, err
	case <-f.closed:
		return 0, os.ErrClosed
	}
}

func (f *fakeTUN) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		copy(b, "device header") // macOS writes its own before the packet
		f.out <- bytes.Clone(b[offset:])
	}
	return len(bufs), nil
}

func (f *fakeTUN) BatchSize() int { return 1 }
func (f *fakeTUN) Close() error   { close(f.closed); return nil }

// syn4 is 198.18.0.1:40000 → 198.18.7.1:443, with checksums.
func syn4() []byte {
	p := []byte{
		0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 198, 18, 0, 1, 198, 18, 7, 1,
		0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
	}
	put := func(at int, sum uint32) {
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		p[at], p[at+1] = byte(^sum>>8), byte(^sum)
	}
	sum := func(b []byte) (s uint32) {
		for i := 0; i < len(b); i += 2 {
			s += uint32(b[i])<<8 | uint32(b[i+1])
		}
		return s
	}
	put(10, sum(p[:20]))
	put(36, sum(p[12:])+6+20)
	return p
}

// early counts what was begun for flows that never came.
type early struct{ aborts *atomic.Int32 }

func (e early) Abort() { e.aborts.Add(1) }

func runOn(t *testing.T, f *fakeTUN) (s *Stack, stop context.CancelFunc, done chan error) {
	t.Helper()
	s, err := New(Config{
		Device: device{newPacketDevice("utun9", f, 1500)}, Handler: (*Flow).Refuse,
		Arrive: func(netip.AddrPort) Early { return early{&f.aborts} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	done = make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, stop, done
}

func TestPacketDeviceCarriesWholePackets(t *testing.T) {
	f := newFakeTUN()
	s, stop, done := runOn(t, f)
	f.in <- nil
	f.in <- []byte{0xff, 1, 2} // no IP version we know
	f.in <- syn4()
	select {
	case b := <-f.out:
		const ack, rst = 1 << 4, 1 << 2
		if len(b) != 40 || !bytes.Equal(b[12:20], []byte{198, 18, 7, 1, 198, 18, 0, 1}) || b[33] != rst|ack {
			t.Errorf("answer to the SYN: got % x, want a reset from 198.18.7.1", b)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no answer to the SYN")
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if st := s.Stats(); st.PacketsIn != 1 || st.ChecksumErrors != 0 || st.Refused != 1 {
		t.Errorf("got %+v, want one packet in, refused", st)
	}
}

func TestPacketDeviceChecksChecksums(t *testing.T) {
	f := newFakeTUN()
	bad := syn4()
	bad[36]++
	s, stop, done := runOn(t, f)
	f.in <- bad
	f.in <- syn4()
	<-f.out
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if st := s.Stats(); st.PacketsIn != 2 || st.Flows != 1 || st.PacketsOut != 1 {
		t.Errorf("got %d flows and %d answers, want one of each: this device leaves checksums to us", st.Flows, st.PacketsOut)
	}
	if n := f.aborts.Load(); n != 1 {
		t.Errorf("%d of what Arrive began was aborted, want that of the SYN which made no flow", n)
	}
}

func TestPacketDeviceFailureEndsRun(t *testing.T) {
	f := newFakeTUN()
	_, _, done := runOn(t, f)
	f.fail <- io.ErrUnexpectedEOF
	if err := <-done; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Run: got %v, want the device's error", err)
	}
}
