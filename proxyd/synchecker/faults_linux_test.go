package synchecker

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

// hands are where sealed replies pass through on their way from the checker to the client.
type hands struct {
	mu   sync.Mutex
	hold func(nth int, frame []byte) []byte // what goes on in a frame's place; nil: nothing
	seen [][]byte                           // frames with a reply, as the checker sent them
}

// handled and handledOffload are ports whose replies do.
type handled struct {
	Port
	*hands
}

type handledOffload struct {
	Offload
	*hands
}

func (h handled) Write(frames [][]byte) (int, error)        { return h.pass(h.Port, frames) }
func (h handledOffload) Write(frames [][]byte) (int, error) { return h.pass(h.Offload, frames) }

func (h *hands) pass(p Port, frames [][]byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out [][]byte
	for _, f := range frames {
		if len(payload(f)) == sealedLen {
			h.seen = append(h.seen, bytes.Clone(f))
			f = h.hold(len(h.seen), f)
		}
		if f != nil {
			out = append(out, f)
		}
	}
	if n, err := p.Write(out); err != nil || n < len(out) {
		return 0, err
	}
	return len(frames), nil
}

func (h *hands) holds(hold func(nth int, frame []byte) []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hold = hold
}

func (h *hands) replies() [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen)
}

// through puts hands on the checker's port.
func (h *hands) through(c *Config) {
	if o, ok := c.Port.(Offload); ok {
		c.Port = handledOffload{o, h}
	} else {
		c.Port = handled{c.Port, h}
	}
}

// payload is what a frame's TCP segment carries.
func payload(frame []byte) []byte {
	var s segment
	if !s.parse(&Frame{Data: frame}) {
		return nil
	}
	return s.data[:min(len(s.data), s.length)]
}

// rewritten is a frame with other data, right in every other way.
func rewritten(t *testing.T, frame, data []byte) []byte {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	tcp := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	tcp.SetNetworkLayerForChecksum(p.NetworkLayer())
	all := []gopacket.SerializableLayer{p.LinkLayer().(*layers.Ethernet), p.NetworkLayer().(gopacket.SerializableLayer), tcp, gopacket.Payload(data)}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Error(err)
	}
	return b.Bytes()
}

// dialContext connects from the namespace, on a thread of its own: dials don't wait for each other.
func (n *netns) dialContext(ctx context.Context, network, addr string) (c net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err = unix.Setns(n.fd, unix.CLONE_NEWNET); err == nil {
			var d net.Dialer
			d.SetMultipathTCP(false)
			c, err = d.DialContext(ctx, network, addr)
		}
	}()
	<-done
	return c, err
}

// spare is where these checkers send everybody: nobody is there.
var spare = struct{ v4, v6 netip.Addr }{netip.MustParseAddr("198.18.72.93"), netip.MustParseAddr("2001:2:0:72::93")}

func transferred(id proto.AgentID, from netip.AddrPort) proto.Reply {
	return proto.Reply{Kind: proto.ReplyTransfer, Round: 7, Client: from, Targets: []proto.Target{{
		Addr4: spare.v4, Addr6: spare.v6, Port: testPort, Node: proto.NodeID{9}, Key: proto.KeyID{Gen: 1}, Keys: proto.Secret{3}.Admission(id),
	}}}
}

func transferring(c *Config) {
	c.Verified = func(c Client) (proto.Reply, bool) { return transferred(c.Agent, c.From), true }
}

// dialer is an agent's own, in the client's namespace, with the edge as its target in both families.
func (l *live) dialer(id proto.AgentID) (*link.Dialer, proto.Target) {
	d := &link.Dialer{
		Creds: link.Credentials{CA: &x509.Certificate{}}, DialContext: l.w.client.dialContext, Forged: new(atomic.Uint64),
		Knock: func(context.Context, netip.AddrPort, []byte) error { return nil },
	}
	return d, proto.Target{Addr4: wire4, Addr6: wire6, Port: testPort, Node: l.node, Key: proto.KeyID{Gen: 1}, Keys: l.secret.Admission(id)}
}

// wantSent dials and wants the genuine TRANSFER.
func wantSent(t *testing.T, d *link.Dialer, to proto.Target) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := d.Dial(ctx, to, proto.KindControl, to.Node)
	se, ok := errors.AsType[*link.SealedError](err)
	if !ok || se.Reply.Kind != proto.ReplyTransfer || len(se.Reply.Targets) != 1 || se.Reply.Targets[0].Addr4 != spare.v4 {
		t.Errorf("got %v, want the TRANSFER", err)
	}
}

// eachPathAtOnce is eachPath for tests that mostly wait.
func eachPathAtOnce(t *testing.T, f func(t *testing.T, path Path)) {
	t.Parallel()
	eachPath(t, func(t *testing.T, path Path) {
		t.Parallel()
		f(t, path)
	})
}

// TestF5ForgedTransfer: somebody on the way puts his own in each TRANSFER's place: noise, a part of it, one that is another
// agent's. The attempt goes on with its next dial.
func TestF5ForgedTransfer(t *testing.T) {
	eachPathAtOnce(t, func(t *testing.T, path Path) {
		id := proto.AgentID{1}
		h := &hands{}
		l := newLiveBy(t, path, Defend, h.through, transferring)
		noise := make([]byte, sealedLen)
		rand.Read(noise)
		noise[0], noise[1] = proto.SealedFirst, proto.Version
		other := transferred(proto.AgentID{2}, netip.AddrPortFrom(client4, 1)).Seal(l.preambleAt(proto.KindControl, 2, time.Now()), l.keys(2))
		h.holds(func(nth int, frame []byte) []byte {
			switch nth {
			case 1:
				return rewritten(t, frame, noise)
			case 2:
				return rewritten(t, frame, payload(frame)[:100])
			case 3:
				return rewritten(t, frame, other[:])
			}
			return frame
		})
		d, to := l.dialer(id)
		wantSent(t, d, to)
		if n := d.Forged.Load(); n != 3 || len(h.replies()) != 4 {
			t.Errorf("%d forgeries counted, %d replies seen, want 3 and 4", n, len(h.replies()))
		}
	})
}

// TestF6TransferOfAnotherAttempt: the TRANSFER is genuine and this agent's, but of an attempt that is over.
func TestF6TransferOfAnotherAttempt(t *testing.T) {
	eachPathAtOnce(t, func(t *testing.T, path Path) {
		h := &hands{hold: func(_ int, frame []byte) []byte { return frame }}
		l := newLiveBy(t, path, Defend, h.through, transferring)
		d, to := l.dialer(proto.AgentID{1})
		wantSent(t, d, to)
		old := payload(h.replies()[0])
		h.holds(func(nth int, frame []byte) []byte {
			if nth == 2 {
				return rewritten(t, frame, old)
			}
			return frame
		})
		wantSent(t, d, to)
		if n := d.Forged.Load(); n != 1 || len(h.replies()) != 3 {
			t.Errorf("%d refused, %d replies seen, want 1 and 3", n, len(h.replies()))
		}
	})
}

// TestF11TransferSegmentLost: the client's kernel repeats its first flight and gets the same segment, to the byte.
func TestF11TransferSegmentLost(t *testing.T) {
	eachPathAtOnce(t, func(t *testing.T, path Path) {
		h := &hands{hold: func(nth int, frame []byte) []byte {
			if nth == 1 {
				return nil
			}
			return frame
		}}
		l := newLiveBy(t, path, Defend, h.through)
		if err := l.transfer(wire4, noQuickACK); err != nil {
			t.Fatalf("%v, %+v", err, l.c.Stats())
		}
		if got := h.replies(); len(got) < 2 || !bytes.Equal(got[0], got[1]) {
			t.Errorf("%d replies; the first two:\n%x", len(got), got[:min(2, len(got))])
		}
	})
}

// TestF8WrongProofs: silence for a wrong MAC and for a key that nobody knows, the right time for a clock that is 11 minutes off.
func TestF8WrongProofs(t *testing.T) { eachPath(t, testWrongProofs) }

func testWrongProofs(t *testing.T, path Path) {
	l := newLiveBy(t, path, Defend, transferring)
	wrongMAC := l.preambleAt(proto.KindControl, 1, time.Now())
	wrongMAC[preambleLen-1] ^= 1
	unknown := proto.Preamble{Kind: proto.KindControl, Key: proto.KeyID{Gen: 77}, Target: l.node, Time: time.Now(), Nonce: proto.NewNonce()}.
		Append(nil, l.keys(1), l.node)
	for what, x := range map[string]struct {
		preamble []byte
		count    func(Stats) uint64
	}{
		"wrong MAC":      {wrongMAC, func(s Stats) uint64 { return s.BadMAC }},
		"unknown key id": {unknown, func(s Stats) uint64 { return s.BadTag }},
	} {
		c, err := l.dial(wire4, noQuickACK)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(append(x.preamble[:preambleLen:preambleLen], hello...)); err != nil {
			t.Fatal(err)
		}
		wait(t, what+" is counted", func() bool { return x.count(l.c.Stats()) > 0 })
		d, to := l.dialer(proto.AgentID{2})
		wantSent(t, d, to) // what was answered before it is here
		c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if n, err := c.Read(make([]byte, 1)); n != 0 || !isTimeout(err) {
			t.Errorf("%s: %d bytes, %v, want silence", what, n, err)
		}
	}
	for i, off := range []time.Duration{-11 * time.Minute, 11 * time.Minute} {
		before := l.c.Stats()
		d, to := l.dialer(proto.AgentID{byte(3 + i)})
		d.Clock = func() time.Time { return time.Now().Add(off) }
		to.Addr6 = netip.Addr{}
		// To the edge, which tells the time, and again. Then to the spare, where nobody is.
		ctx, cancel := context.WithCancel(t.Context())
		d.Knock = func(context.Context, netip.AddrPort, []byte) error { cancel(); return nil }
		_, hops, err := d.Follow(ctx, to, proto.KindControl)
		cancel()
		if len(hops) != 2 || hops[1].Addr4 != spare.v4 {
			t.Errorf("a clock %v off: %d hops, %v", off, len(hops), err)
		}
		if s := l.c.Stats(); s.Clock != before.Clock+1 || s.Transfers != before.Transfers+1 {
			t.Errorf("a clock %v off: %+v", off, s)
		}
		if diff := (d.Skew() + off).Abs(); diff > 2*time.Second {
			t.Errorf("a clock %v off: the agent believes %v", off, d.Skew())
		}
	}
}

// capture keeps what crosses the client's line, in both directions.
func (w *wire) capture() (frames func() [][]byte) {
	w.client.t.Helper()
	fd := -1
	w.client.must("capture", func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		const all = unix.ETH_P_ALL
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: eth.Attrs().Index})
	})
	w.client.t.Cleanup(func() { unix.Close(fd) })
	var got [][]byte
	return func() [][]byte {
		b := make([]byte, 4096)
		for {
			n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return got
			case errors.Is(err, unix.EINTR):
			case err != nil:
				w.client.t.Fatal(err)
			default:
				got = append(got, bytes.Clone(b[:n]))
			}
		}
	}
}

// TestF10Eavesdropper: nothing on the client's line, of two attempts by each kind of SYN and in each family, names the agent or
// says where it is sent.
func TestF10Eavesdropper(t *testing.T) { eachPath(t, testEavesdropper) }

func testEavesdropper(t *testing.T, path Path) {
	var id proto.AgentID
	rand.Read(id[:])
	l := newLiveBy(t, path, Defend, transferring)
	frames := l.w.capture()
	d, to := l.dialer(id)
	keys := l.secret.Admission(id)
	for range 2 {
		wantSent(t, d, to)
	}
	for _, addr := range []netip.Addr{wire4, wire6} {
		p := proto.Preamble{Kind: proto.KindControl, Key: proto.KeyID{Gen: 1}, Target: l.node, Time: time.Now(), Nonce: proto.NewNonce()}.Append(nil, keys, l.node)
		c, err := l.dial(addr, noQuickACK, keyedSYN, lateConnect)
		if err != nil {
			t.Fatal(err)
		}
		b, err := sayAll(c, append(p[:preambleLen:preambleLen], hello...))
		if r, oerr := proto.OpenReply(b, p, keys); err != nil || oerr != nil || r.Kind != proto.ReplyTransfer {
			t.Fatalf("keyed: %d bytes, %v, %v", len(b), err, oerr)
		}
	}
	var replies [][]byte
	for i, f := range frames() {
		for what, secret := range map[string][]byte{
			"the agent": id[:], "the agent, in letters": []byte(id.String()), "a key": keys.K[:],
			"the next edge": spare.v4.AsSlice(), "the next edge (IPv6)": spare.v6.AsSlice(),
			"its key": transferred(id, netip.AddrPort{}).Targets[0].Keys.K[:],
		} {
			if bytes.Contains(f, secret) {
				t.Errorf("frame %d shows %s: %x", i, what, f)
			}
		}
		if p := payload(f); len(p) == sealedLen && p[0] == proto.SealedFirst {
			replies = append(replies, p)
		}
	}
	if len(replies) < 4 {
		t.Fatalf("%d TRANSFERs were captured, want 4", len(replies))
	}
	for i, a := range replies {
		for _, b := range replies[:i] {
			same := 0
			for at := range a {
				if a[at] == b[at] {
					same++
				}
			}
			if !bytes.Equal(a[:2], b[:2]) || same > 2+12 { // one of 256 by chance
				t.Errorf("two TRANSFERs share %d bytes, begin with %x and %x", same, a[:2], b[:2])
			}
		}
	}
}

// sayAll writes each part by itself, reads to the end and closes.
func sayAll(c net.Conn, parts ...[]byte) ([]byte, error) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	for _, p := range parts {
		if _, err := c.Write(p); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(c)
}

// TestF56SplitFlight: a first flight that comes in two segments, whichever way, is answered whole, and the connection is never
// reset before the client itself has ended it. Without a whole preamble in the first segment there is silence.
func TestF56SplitFlight(t *testing.T) { eachPath(t, testSplitFlight) }

func testSplitFlight(t *testing.T, path Path) {
	l := newLiveBy(t, path, Defend)
	frames := l.w.capture()
	begin := func() (net.Conn, []byte) {
		c, err := l.dial(wire4, noQuickACK)
		if err != nil {
			t.Fatal(err)
		}
		l.agent++
		return c, l.preambleAt(proto.KindControl, l.agent, time.Now())
	}
	c, p := begin()
	defer c.Close()
	for _, part := range [][]byte{p[:40], slices.Concat(p[40:], hello)} {
		if _, err := c.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	for what, parts := range map[string]func(p []byte) [][]byte{
		"preamble and hello apart":      func(p []byte) [][]byte { return [][]byte{p, hello} },
		"apart in the hello":            func(p []byte) [][]byte { return [][]byte{slices.Concat(p, hello[:50]), hello[50:]} },
		"three writes":                  func(p []byte) [][]byte { return [][]byte{slices.Concat(p, hello[:1]), hello[1:9], hello[9:]} },
		"a hello longer than a segment": func(p []byte) [][]byte { return [][]byte{slices.Concat(p, bytes.Repeat(hello, 8))} },
	} {
		c, p := begin()
		b, err := sayAll(c, parts(p)...)
		if r, oerr := proto.OpenReply(b, p, l.keys(l.agent)); err != nil || oerr != nil || r.Kind != proto.ReplyRetry {
			t.Errorf("%s: %d bytes, %v, %v, %+v", what, len(b), err, oerr, l.c.Stats())
		}
	}
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !isTimeout(err) {
		t.Errorf("apart in the preamble: %d bytes, %v, want silence", n, err)
	}
	wantNoEarlyReset(t, frames())
}

// wantNoEarlyReset wants no RST of the edge's on a connection that the client has not ended.
func wantNoEarlyReset(t *testing.T, frames [][]byte) {
	t.Helper()
	ended := map[uint16]bool{} // by the client's port
	var s segment
	for _, f := range frames {
		switch {
		case !s.parse(&Frame{Data: f}) || s.proto != protoTCP:
		case s.dport == testPort && s.flags&flagSYN != 0:
			ended[s.sport] = false
		case s.dport == testPort && s.flags&(flagFIN|flagRST) != 0:
			ended[s.sport] = true
		case s.sport == testPort && s.flags&flagRST != 0 && !ended[s.dport]:
			t.Errorf("the edge reset port %d: %x", s.dport, f)
		}
	}
}

// TestF61AdmittedAgent: the same preamble from the same address and port, at first to the checker, then, the address being
// admitted, to the kernel and its listener: the answer is the same to the byte, and neither resets.
func TestF61AdmittedAgent(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		var mu sync.Mutex
		admitted := false
		l := newLiveBy(t, path, Defend, transferring, func(c *Config) {
			c.Admitted = func(a netip.Addr) bool {
				mu.Lock()
				defer mu.Unlock()
				return admitted && a == client4
			}
		})
		frames := l.w.capture()
		l.listen(t)
		preamble := l.preambleAt(proto.KindControl, 1, time.Now())
		var answers [2][]byte
		for i := range answers {
			if i == 1 {
				l.admit(client4)
				mu.Lock()
				admitted = true
				mu.Unlock()
			}
			var c net.Conn
			l.w.client.must("dial", func() (err error) {
				d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: client4.AsSlice(), Port: 45000}}
				d.SetMultipathTCP(false)
				c, err = d.Dial("tcp", netip.AddrPortFrom(wire4, testPort).String())
				return err
			})
			b, err := sayAll(c, append(preamble[:preambleLen:preambleLen], clientHello...))
			if err != nil || len(b) != sealedLen {
				t.Fatalf("answer %d: %d bytes, %v, %+v", i, len(b), err, l.c.Stats())
			}
			answers[i] = b
			if i == 0 {
				wait(t, "the port is free again", func() bool { return l.c.Stats().Resets > 0 })
			}
		}
		if !bytes.Equal(answers[0], answers[1]) {
			t.Errorf("the checker and the listener say\n%x\n%x", answers[0], answers[1])
		}
		if s := l.c.Stats(); s.Transfers != 1 {
			t.Errorf("%d TRANSFERs of the checker, want 1", s.Transfers)
		}
		wantNoEarlyReset(t, frames())
	})
}

// clientHello is a TLS record of a client's, as long as hello.
var clientHello = append(binary.BigEndian.AppendUint16([]byte{0x16, 3, 1}, uint16(len(hello)-5)), hello[5:]...)

// listen serves the link port as an edge does that sends everybody on.
func (l *live) listen(t *testing.T) {
	t.Helper()
	var listener net.Listener
	l.w.edge.must("listen", func() (err error) {
		listener, err = link.Listen(t.Context(), netip.AddrPortFrom(wire4, testPort))
		return err
	})
	a := &link.Acceptor{
		Node: l.node, Keys: l.c.cfg.Keys, Nonces: testNonces,
		Decide:  func(v proto.Verified, from netip.AddrPort) *proto.Reply { r := transferred(v.Agent, from); return &r },
		Control: func(context.Context, *link.Link, proto.Verified) {},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// admit opens the door for an address as the firewall does: the kernel hears it.
func (l *live) admit(a netip.Addr) {
	l.t.Helper()
	l.w.edge.must("admit", func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.DelTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: silenceTable})
		if err := c.Flush(); err != nil {
			return fmt.Errorf("take the silence away: %w", err)
		}
		if o, ok := l.c.cfg.Port.(Offload); ok {
			return o.Admit([]Admission{{a, time.Now().Add(time.Minute)}}, nil)
		}
		return nil
	})
}

// TestF12NeitherAnswer: nobody answers, neither the kernel nor the checker. The agent dials four times, each with a SYN of a
// connection of its own, and gives up when its time is over.
func TestF12NeitherAnswer(t *testing.T) {
	t.Parallel()
	l := newLive(t, Dark)
	frames := l.w.capture()
	d, to := l.dialer(proto.AgentID{1})
	d.Timeout = 1200 * time.Millisecond // the last dial is after 1 s
	_, err := d.Dial(t.Context(), to, proto.KindControl, to.Node)
	if !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("got %v, want a timeout", err)
	}
	dials := map[netip.AddrPort]bool{}
	var s segment
	for _, f := range frames() {
		if s.parse(&Frame{Data: f}) && s.proto == protoTCP && s.dport == testPort && s.flags&flagSYN != 0 {
			dials[s.from()] = true
		}
	}
	if len(dials) != 4 {
		t.Errorf("SYNs of %d connections, want 4: %v", len(dials), dials)
	}
}

// TestF36KnockAfterEviction: an agent whose door was closed for somebody else's, or never opened, knocks again at once and is
// admitted; one whose door is open is not admitted twice.
func TestF36KnockAfterEviction(t *testing.T) { eachPath(t, testKnockAfterEviction) }

func testKnockAfterEviction(t *testing.T, path Path) {
	var mu sync.Mutex
	open := false
	l := newLiveBy(t, path, Dark, func(c *Config) {
		c.Admitted = func(netip.Addr) bool { mu.Lock(); defer mu.Unlock(); return open }
	})
	var c net.Conn
	l.w.client.must("knock", func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(wire4, testPort).String())
		return err
	})
	defer c.Close()
	for i, x := range []struct {
		open               bool
		admitted, repeated uint64
	}{{false, 1, 0}, {true, 1, 1}, {false, 2, 1}, {true, 2, 2}} {
		mu.Lock()
		open = x.open
		mu.Unlock()
		if _, err := c.Write(l.preambleAt(proto.KindKnock, 1, time.Now())); err != nil {
			t.Fatal(err)
		}
		wait(t, "the knock is judged", func() bool { s := l.c.Stats(); return s.Admitted+s.Repeated == uint64(i+1) })
		if s := l.c.Stats(); s.Admitted != x.admitted || s.Repeated != x.repeated {
			t.Errorf("knock %d, door open %v: %d admitted, %d not again; want %d and %d", i, x.open, s.Admitted, s.Repeated, x.admitted, x.repeated)
		}
	}
}
