package agent

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

// TestF14IdleSilence: an edge that falls silent while nothing is outstanding is left, too: 10 s to the PING, and 10 s
// without an answer.
func TestF14IdleSilence(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 20 s")
	}
	t.Parallel()
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(false)
	f.anchor()
	w := newWires()
	r := f.on(w, func(*Agent) {})
	c := r.mustDial()
	echo(t, c, "before")
	r.eventually("second control link", func() bool { return r.Status().Second != nil })
	w.cut(p1, true, true)
	began := time.Now()
	for !r.sessionVia(p2)() {
		if time.Since(began) > testWait+5*time.Second { // the machine may be busy
			t.Fatalf("not resumed by way of P2\n%+v", r.Status())
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("left after %v", time.Since(began).Round(time.Millisecond))
	echo(t, c, "after")
	c.Close()
}

// TestF17NewEdgeDiesInTheReplay: P2 dies when it has brought a part of what the anchor had to send again; P3 goes on with
// the next epoch, and what came twice is trimmed.
func TestF17NewEdgeDiesInTheReplay(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2, p3 := f.edge(false), f.edge(true), f.edge(true)
	anchor := f.anchor()
	w := newWires()
	r := f.on(w, func(*Agent) {})
	c := r.mustDial()
	r.eventually("control link", func() bool { return p1.links() == 1 })
	out := make([]byte, 16<<20)
	rand.Read(out)
	c.SetDeadline(time.Now().Add(testWait))
	sent := make(chan error, 1)
	go func() { _, err := c.Write(out); sent <- err }()
	in := make([]byte, len(out))
	half := len(in) / 4
	if _, err := io.ReadFull(c, in[:half]); err != nil {
		t.Fatal(err)
	}
	was := r.lead().epochNow()
	w.dieAfter(p2, 512<<10)
	p1.migrate(r, 1, p2, p3) // nobody reads meanwhile: a window is outstanding
	if _, err := io.ReadFull(c, in[half:]); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil || !bytes.Equal(in, out) {
		t.Errorf("%v, equal %v", err, bytes.Equal(in, out))
	}
	r.eventually("at P3", r.sessionVia(p3))
	if e := r.lead().epochNow(); !w.dead(p2) || e < was+2 {
		t.Errorf("P2 died %v, epoch %d after %d; want one for P2 and one for P3", w.dead(p2), e, was)
	}
	if anchor.opened() != 1 {
		t.Errorf("%d OPENs", anchor.opened())
	}
	c.Close()
}

// TestF29OffsetOutOfRange: an agent whose state is corrupted asks for what was never sent. That stream ends with a reset;
// the other streams, the session and the agent live.
func TestF29OffsetOutOfRange(t *testing.T) {
	f := newFleet(t, "fleet")
	p1 := f.edge(false)
	anchor := f.anchor()
	var bad atomic.Uint32
	anchor.resumed = func(m *proto.Resume, _ *link.Link) bool {
		for i := range m.Streams {
			if m.Streams[i].ID == bad.Load() {
				m.Streams[i].Received += 1 << 40
			}
		}
		return false
	}
	r := f.on(newWires(), func(*Agent) {})
	one, other := r.mustDial(), r.mustDial()
	echo(t, one, "before")
	echo(t, other, "before")
	bad.Store(1)
	p1.acc.CloseNode(anchor.id)
	one.SetDeadline(time.Now().Add(testWait))
	if _, err := one.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the stream with a bad offset: got %v, want a reset", err)
	}
	echo(t, other, "after")
	if e := r.lead().epochNow(); e != 1 || anchor.opened() != 2 {
		t.Errorf("epoch %d, %d OPENs; want one resume, and the session lives", e, anchor.opened())
	}
	other.Close()
}

// TestF59CapturedEdge: an edge that was captured can change nothing of the catalogue, and not even the fleet can have the
// agent take in its default route, its gateway or its resolver.
func TestF59CapturedEdge(t *testing.T) {
	f := newFleet(t, "fleet")
	e := f.edge(false)
	cfg := testConfig(t)
	cfg.Token = f.token().String()
	resolver := netip.MustParseAddr("198.18.0.53")
	r := start(t, cfg, System{Own: func() []netip.Addr { return []netip.Addr{resolver} }})
	r.eventually("control link", func() bool { return e.links() == 1 })
	before := r.Status().Protected
	good := f.newCatalogue(7, protected)
	changed := bytes.Replace(good, []byte("echo"), []byte("evil"), 1)
	if bytes.Equal(good, changed) {
		t.Fatal("nothing was changed")
	}
	e.say(&proto.CatalogueMsg{Doc: changed}, false)
	r.eventually("a changed catalogue is refused", r.event("catalogue refused", ""))
	for n, addr := range []string{"0.0.0.0:443", "198.18.0.53:53", "[::]:80"} {
		at := netip.MustParseAddrPort(addr)
		e.say(&proto.CatalogueMsg{Doc: f.newCatalogue(uint64(20+n), at)}, false)
		r.eventually(addr+" is refused, and said so", r.event("not protected", at.Addr().String()))
		if slices.Contains(r.Status().Protected, addr) {
			t.Errorf("%s is protected", addr)
		}
	}
	if len(before) == 0 {
		t.Error("nothing was protected at first: the test means nothing")
	}
}
