package link

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dchest/siphash"

	"migrationsensor/proto"
)

// wantSilence wants the connection closed without a byte, and soon.
func wantSilence(t *testing.T, why string, c net.Conn) {
	t.Helper()
	b, err := io.ReadAll(c) // its deadline is the test's patience; the kernel keeps who says nothing to itself for a while
	if len(b) > 0 {
		t.Errorf("%s: got %d bytes, want silence", why, len(b))
	}
	if errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: got a reset, want a quiet end", why)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: not closed at all, want it after %v", why, preambleTimeout)
	}
}

func (n *node) dialFrom(t *testing.T, from string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(from)}, net.TCPAddrFromAddrPort(n.at))
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

func TestStrangersHearNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "lab")
	_, id := f.agent()
	told, names := make(map[string]int), sync.Mutex{}
	n := f.node(func(n *node) {
		n.Enrol = nil
		n.Stranger = func(from netip.Addr, why string) {
			names.Lock()
			defer names.Unlock()
			told[fmt.Sprint(from, " ", why)]++
		}
	})
	flip := func(at int) []byte { b := n.preamble(id, nil); b[at] ^= 1; return b }
	good := n.preamble(id, nil)
	with := func(edit func(*proto.Preamble)) []byte { return n.preamble(id, edit) }
	count := func(get func(Stats) uint64) func() uint64 { return func() uint64 { return get(n.Stats()) } }
	var wg sync.WaitGroup
	for i, c := range []struct {
		rule  string
		flown []byte
		count func() uint64
	}{
		{"another protocol", bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 20), count(func(s Stats) uint64 { return s.BadMagic })},
		{"nothing but the magic", good[:4], count(func(s Stats) uint64 { return s.Short })},
		{"one byte short", good[:proto.PreambleLen-1], count(func(s Stats) uint64 { return s.Short })},
		{"unknown key", with(func(p *proto.Preamble) { p.Key.Gen = 9 }), count(func(s Stats) uint64 { return s.BadKey })},
		{"tag", flip(53), count(func(s Stats) uint64 { return s.BadTag })},
		{"MAC", flip(proto.PreambleLen - 1), count(func(s Stats) uint64 { return s.BadMAC })},
		{"a knock by TCP", with(func(p *proto.Preamble) { p.Kind = proto.KindKnock }), count(func(s Stats) uint64 { return s.BadKind })},
		{"a kind that is not served", with(func(p *proto.Preamble) { p.Kind = proto.KindEnrol }), nil},
		{"another target", with(func(p *proto.Preamble) { p.Target = proto.NewNodeID() }), nil},
	} {
		conn := n.dialFrom(t, netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}).String())
		wg.Go(func() {
			conn.Write(c.flown)
			wantSilence(t, c.rule, conn)
			if c.count != nil && c.count() == 0 {
				t.Errorf("%s: not counted: %+v", c.rule, n.Stats())
			}
		})
	}
	wg.Wait()
	if s := n.Stats(); s.Sealed != 0 || s.TLSFailed != 0 || s.BadKind != 3 {
		t.Errorf("stats got %+v", s)
	}
	want := map[string]int{
		"127.0.1.0 bad_magic": 1, "127.0.1.1 mute": 1, "127.0.1.2 mute": 1, "127.0.1.3 bad_key": 1, "127.0.1.4 bad_tag": 1, "127.0.1.5 bad_mac": 1,
	}
	names.Lock()
	defer names.Unlock()
	if !maps.Equal(told, want) {
		t.Errorf("told of %v, want %v", told, want)
	}
}

func TestANonceAdmitsOneAddress(t *testing.T) {
	f := newFleet(t, "lab")
	_, id := f.agent()
	n := f.node(func(n *node) {
		n.Decide = func(proto.Verified, netip.AddrPort) *proto.Reply {
			return &proto.Reply{Kind: proto.ReplyBusy, After: time.Second}
		}
	})
	first := n.preamble(id, nil)
	answer := func(from string) []byte {
		c := n.dialFrom(t, from)
		c.Write(first)
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		return b
	}
	want := answer("127.0.0.1")
	if len(want) != proto.SealedLen {
		t.Fatalf("got %d bytes", len(want))
	}
	if got := answer("127.0.0.2"); len(got) != 0 {
		t.Error("a captured preamble is answered at another address")
	}
	if got := answer("127.0.0.1"); len(got) != proto.SealedLen {
		t.Error("a retransmission is not answered")
	}
	if n.Stats().Replayed != 1 {
		t.Errorf("stats got %+v", n.Stats())
	}
}

func TestSealedReplyArrivesWhole(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "lab")
	_, id := f.agent()
	n := f.node(func(n *node) {
		n.Decide = func(proto.Verified, netip.AddrPort) *proto.Reply {
			return &proto.Reply{Kind: proto.ReplyRetry, After: time.Second}
		}
	})
	hello := func(n int) []byte {
		b := make([]byte, 5+n)
		b[0], b[1] = recordHandshake, 3
		binary.BigEndian.PutUint16(b[3:], uint16(n))
		return b
	}
	for name, write := range map[string]func(c *net.TCPConn, pre []byte){
		"one flight":         func(c *net.TCPConn, pre []byte) { c.Write(append(pre, hello(200)...)) },
		"in pieces":          func(c *net.TCPConn, pre []byte) { c.Write(pre); c.Write(hello(200)[:7]); c.Write(hello(200)[7:]) },
		"a flight too long":  func(c *net.TCPConn, pre []byte) { c.Write(append(pre, hello(3000)...)) },
		"not TLS":            func(c *net.TCPConn, pre []byte) { c.Write(append(pre, "hello, world"...)) },
		"nothing more":       func(c *net.TCPConn, pre []byte) { c.Write(pre) },
		"nothing more, ever": func(c *net.TCPConn, pre []byte) { c.Write(pre); c.CloseWrite() },
	} {
		c := n.dial(t)
		pre := n.preamble(id, nil)
		write(c, pre[:len(pre):len(pre)])
		b, err := io.ReadAll(c)
		if err != nil {
			t.Errorf("%s: %v after %d bytes", name, err, len(b))
		}
		if r, err := proto.OpenReply(b, pre, n.secret.Admission(id)); err != nil || r.Kind != proto.ReplyRetry {
			t.Errorf("%s: got %v, %v", name, r.Kind, err)
		}
		c.Close()
	}
}

func TestAnotherVersionIsTold(t *testing.T) {
	f := newFleet(t, "lab")
	_, id := f.agent()
	n := f.node(nil)
	pre, keys := n.preamble(id, nil), n.secret.Admission(id)
	pre[4] = 200
	k0, k1 := binary.LittleEndian.Uint64(keys.Tag[:]), binary.LittleEndian.Uint64(keys.Tag[8:])
	binary.BigEndian.PutUint64(pre[52:], siphash.Hash(k0, k1, pre[:52]))
	h := hmac.New(sha256.New, keys.K[:])
	h.Write(pre[:60])
	h.Write(n.id[:])
	copy(pre[60:], h.Sum(nil))
	c := n.dial(t)
	c.Write(pre)
	c.CloseWrite()
	b, _ := io.ReadAll(c)
	if r, err := proto.OpenReply(b, pre, keys); err != nil || r.Code != proto.RejectVersion {
		t.Errorf("got %+v, %v, want REJECT(version)", r, err)
	}
}

// counted counts what the Acceptor reads.
type counted struct {
	net.Conn
	n int
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n += n
	return n, err
}

func TestGarbageCostsBoundedBytes(t *testing.T) {
	f := newFleet(t, "lab")
	n := f.node(nil)
	n.init()
	near, far := net.Pipe()
	conn := &counted{Conn: far}
	done := make(chan struct{})
	go func() { n.serve(t.Context(), conn); close(done) }()
	b := bytes.Repeat([]byte{0x16}, 1<<16)
	for {
		if _, err := near.Write(b); err != nil {
			break
		}
	}
	<-done
	if conn.n > proto.PreambleLen+muteBytes {
		t.Errorf("read %d bytes of garbage, want at most %d", conn.n, proto.PreambleLen+muteBytes)
	}
}

func TestPendingIsNoLockout(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	n := f.node(func(n *node) { n.MaxPending = 4 })
	for i := range 4 { // four that say one byte and then nothing
		c := n.dialFrom(t, netip.AddrFrom4([4]byte{127, 0, 2, byte(i)}).String())
		c.Write([]byte("M"))
	}
	until(t, "all places are taken", func() bool { return n.Stats().Accepted == 4 })
	began := time.Now()
	l, err := (&Dialer{Creds: creds}).Dial(t.Context(), n.target(id), proto.KindControl, n.id)
	if err != nil {
		t.Fatal(err)
	}
	ping(t, l)
	l.Close()
	if d := time.Since(began); d > preambleTimeout/2 {
		t.Errorf("the agent waited %v for the strangers", d)
	}
	if s := n.Stats(); s.Evicted != 1 {
		t.Errorf("stats got %+v", s)
	}
}

func TestOneSourceHasFewPlaces(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "lab")
	n := f.node(nil)
	for range perSource + 3 {
		n.dial(t).Write([]byte("M"))
	}
	until(t, "those over the limit are closed", func() bool { return n.Stats().PerSource == 3 })
	until(t, "the others end in time", func() bool { return n.Stats().Short == perSource })
	n.pending.mu.Lock()
	defer n.pending.mu.Unlock()
	if len(n.pending.all) > perSource {
		t.Errorf("%d pending", len(n.pending.all))
	}
}

func TestPendingForgets(t *testing.T) {
	p := newPending(3, perSource)
	var s counters
	var in []*waiting
	for i := range 50 {
		a, b := net.Pipe()
		defer b.Close()
		w, ok := p.add(a, netip.AddrFrom4([4]byte{127, 0, 0, byte(i)}), &s)
		if !ok {
			t.Fatal("not let in")
		}
		in = append(in, w)
		if len(p.all) != len(p.sources) || len(p.all) > 3 {
			t.Fatalf("%d pending of %d sources", len(p.all), len(p.sources))
		}
	}
	for _, w := range in {
		p.remove(w)
		p.remove(w)
	}
	if len(p.all) != 0 || len(p.sources) != 0 || s.evicted.Load() != 47 {
		t.Errorf("left %d of %d sources, evicted %d", len(p.all), len(p.sources), s.evicted.Load())
	}
}

func TestMuteHandshakeIsBounded(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "lab")
	_, id := f.agent()
	n := f.node(nil)
	c := n.dial(t)
	c.Write(n.preamble(id, nil)) // a good preamble, then no ClientHello
	if b, _ := io.ReadAll(c); len(b) > 16 {
		t.Errorf("got %d bytes", len(b))
	}
	until(t, "the handshake is given up", func() bool { return n.Stats().TLSFailed == 1 })
}

func TestFullIsBusy(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	n := f.node(func(n *node) { n.MaxLinks = 1 })
	d := &Dialer{Creds: creds}
	l, err := d.Dial(t.Context(), n.target(id), proto.KindControl, n.id)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ping(t, l)
	var se *SealedError
	if _, err = d.Dial(t.Context(), n.target(id), proto.KindControl, n.id); !errors.As(err, &se) || se.Reply.Kind != proto.ReplyBusy {
		t.Errorf("got %v, want BUSY", err)
	}
}

func TestListenSaysWhatToDo(t *testing.T) {
	l, err := Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := addrPort(l.Addr())
	if _, err := Listen(t.Context(), at); !errors.Is(err, syscall.EADDRINUSE) || !bytes.Contains([]byte(err.Error()), []byte("link_port")) {
		t.Errorf("busy: got %v", err)
	}
	if _, err := Listen(t.Context(), netip.MustParseAddrPort("198.18.255.254:7443")); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("foreign address: got %v", err)
	}
}

// sickListener fails a few times before it lets anybody in.
type sickListener struct {
	net.Listener
	errs []error
}

func (l *sickListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: err}
	}
	return l.Listener.Accept()
}

func TestAcceptSurvives(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	n := f.node(nil)
	l, err := Listen(context.Background(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	other := &Acceptor{Creds: n.Creds, Node: n.id, Keys: n.Keys, Control: n.Control}
	serve(t, other, &sickListener{l, []error{syscall.EMFILE, syscall.ECONNABORTED, syscall.ENFILE}})
	tgt := n.target(id)
	tgt.Port = addrPort(l.Addr()).Port()
	link, err := (&Dialer{Creds: creds}).Dial(t.Context(), tgt, proto.KindControl, n.id)
	if err != nil {
		t.Fatal(err)
	}
	link.Close()
	if s := other.Stats(); s.AcceptErrors != 3 {
		t.Errorf("accept errors got %d, want 3", s.AcceptErrors)
	}
}

// FuzzServe: whatever a stranger sends, it hears nothing, and serving it ends.
func FuzzServe(f *testing.F) {
	node, agent := proto.NewNodeID(), proto.AgentID{1}
	keys := &proto.Keyring{}
	keys.Set(proto.KeyID{Gen: 1}, proto.Secret{1})
	p := proto.Preamble{Kind: proto.KindControl, Key: proto.KeyID{Gen: 1}, Target: node, Time: time.Now(), Nonce: proto.NewNonce()}
	stranger := p.Append(nil, proto.Secret{2}.Admission(agent), node)
	f.Add(stranger)
	f.Add(stranger[:40])
	f.Add(append(stranger, 0x16, 3, 1, 1, 0xff))
	never := func(context.Context, *Link, proto.Verified) { f.Error("a stranger's link came up") }
	a := &Acceptor{Node: node, Keys: keys, Control: never, Data: never}
	a.init()
	f.Fuzz(func(t *testing.T, b []byte) {
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() { a.serve(t.Context(), far); close(done) }()
		go func() { near.Write(b); near.SetReadDeadline(time.Now().Add(time.Millisecond)) }()
		if n, _ := near.Read(make([]byte, 1)); n > 0 {
			t.Error("a stranger got an answer")
		}
		near.Close()
		<-done
	})
}
