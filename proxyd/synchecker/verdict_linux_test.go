package synchecker

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"migrationsensor/proto"
)

// icmp builds an ICMP or ICMPv6 message to one of our addresses.
func icmp(t testing.TB, src netip.Addr, hops, kind, code uint8) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: routerMAC, DstMAC: edgeMAC, EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer = &layers.IPv4{Version: 4, TTL: hops, Protocol: layers.IPProtocolICMPv4, SrcIP: src.AsSlice(), DstIP: edge4.AsSlice()}
	if src.Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: hops, NextHeader: layers.IPProtocolICMPv6, SrcIP: src.AsSlice(), DstIP: edge6.AsSlice()}
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, eth, ip,
		gopacket.Payload(append([]byte{kind, code}, make([]byte, 46)...))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var verdictNames = map[uint32]string{xdpDrop: "drop", xdpPass: "pass", xdpTX: "answer"}

// TestProgramVerdicts has a row for each rule of what passes, is answered and is dropped.
func TestProgramVerdicts(t *testing.T) {
	peer4, peer6 := netip.MustParseAddr("198.18.7.7"), netip.MustParseAddr("2001:2::77")
	const cookiePort, dropPort, admitPort, otherPort = 81, 82, 83, 8080
	tcp := func(src netip.Addr, port uint16, flags byte) []byte {
		return packet{src: src, dport: port, flags: flags}.frame(t)
	}
	udp := func(src netip.Addr, port uint16) []byte {
		return packet{src: src, dport: port, udp: true, payload: make([]byte, 20)}.frame(t)
	}
	fragment := func(src netip.Addr) []byte {
		b := udp(src, 53)
		b[20] = 0x20
		return b
	}
	protocol := func(src netip.Addr, n byte) []byte {
		b := udp(src, 53)
		if src.Is6() {
			b[20] = n
		} else {
			b[23] = n
		}
		return b
	}
	rows := []struct {
		what         string
		frame        []byte
		defend, dark string
	}{
		{"SYN to the link port", tcp(client4, testPort, flagSYN), "answer", "drop"},
		{"SYN of a peer", tcp(peer4, testPort, flagSYN), "pass", "pass"},
		{"SYN of a peer, IPv6", tcp(peer6, testPort, flagSYN), "pass", "pass"},
		{"ACK of a peer", tcp(peer4, testPort, flagACK), "pass", "pass"},
		{"RST", tcp(client4, testPort, flagRST), "drop", "drop"},
		{"bare ACK", tcp(client4, testPort, flagACK), "drop", "drop"},
		{"SYN to a service, drop", tcp(client4, dropPort, flagSYN), "drop", "drop"},
		{"ACK to a service, drop", tcp(client4, dropPort, flagACK), "drop", "pass"},
		{"SYN of a peer to a service", tcp(peer4, dropPort, flagSYN), "pass", "pass"},
		{"SYN to a service, admit", tcp(client4, admitPort, flagSYN), "pass", "drop"},
		{"ACK to a service, admit", tcp(client4, admitPort, flagACK), "pass", "pass"},
		{"SYN to a service on IPv6", tcp(client6, dropPort, flagSYN), "drop", "drop"},
		{"SYN to a service without a listener, cookie", tcp(client4, cookiePort, flagSYN), "pass", "drop"},
		{"SYN to a port nobody guards", tcp(client4, otherPort, flagSYN), "pass", "drop"},
		{"ACK to a port nobody guards", tcp(client4, otherPort, flagACK), "pass", "pass"},
		{"DNS answer", udp(client4, 53), "pass", "pass"},
		{"UDP to the link port", udp(client4, testPort), "drop", "drop"},
		{"UDP of a peer to the link port", udp(peer4, testPort), "drop", "drop"},
		{"a fragment", fragment(client4), "pass", "drop"},
		{"a peer's fragment", fragment(peer4), "pass", "pass"},
		{"GRE", protocol(client4, 47), "pass", "drop"},
		{"extension header", protocol(client6, 0), "pass", "drop"},
		{"echo request", icmp(t, client4, 64, 8, 0), "pass", "drop"},
		{"echo request of a peer", icmp(t, peer4, 64, 8, 0), "pass", "pass"},
		{"fragmentation needed", icmp(t, client4, 64, 3, 4), "pass", "pass"},
		{"port unreachable", icmp(t, client4, 64, 3, 3), "pass", "drop"},
		{"packet too big", icmp(t, client6, 64, 2, 0), "pass", "pass"},
		{"echo request, IPv6", icmp(t, client6, 255, 128, 0), "pass", "drop"},
		{"neighbour solicitation", icmp(t, client6, 255, 135, 0), "pass", "pass"},
		{"neighbour solicitation, routed", icmp(t, client6, 254, 135, 0), "pass", "drop"},
		{"MLD query", icmp(t, netip.MustParseAddr("fe80::1"), 1, 130, 0), "pass", "pass"},
		{"another address", packet{dst: edge4.Next()}.frame(t), "pass", "pass"},
	}
	for _, m := range []Mode{Off, Defend, Dark} {
		w := newTwin(t, m)
		w.gate(Gate{
			Allow: []netip.Prefix{netip.MustParsePrefix("198.18.7.0/24"), netip.MustParsePrefix("2001:2::70/124")},
			Services: map[netip.AddrPort]Plain{
				netip.AddrPortFrom(edge4, cookiePort): PlainCookie, netip.AddrPortFrom(edge4, dropPort): PlainDrop,
				netip.AddrPortFrom(edge4, admitPort): PlainAdmit, netip.AddrPortFrom(edge6, dropPort): PlainDrop,
			},
		})
		for _, row := range rows {
			want := map[Mode]string{Off: "pass", Defend: row.defend, Dark: row.dark}[m]
			if got, _ := w.run(row.frame); verdictNames[got] != want {
				t.Errorf("%s in mode %v: %s, want %s", row.what, m, verdictNames[got], want)
			}
		}
	}
}

// TestProgramBudgets: what passes though nobody vouches for it is bounded, and what is beyond is counted
// for the DDoS Detector.
func TestProgramBudgets(t *testing.T) {
	for _, row := range []struct {
		what  string
		frame []byte
		most  int
		kind  func(Packets) uint64
	}{
		{"UDP", packet{udp: true, dport: 53}.frame(t), udpRate, func(p Packets) uint64 { return p.UDP }},
		{"echo requests", icmp(t, client4, 64, 8, 0), icmpRate, func(p Packets) uint64 { return p.ICMP }},
		{"packets too big", icmp(t, client6, 64, 2, 0), icmpRate, func(p Packets) uint64 { return p.ICMP }},
		{"SYNs to a port nobody guards", packet{dport: 8080}.frame(t), otherSYNRate, func(p Packets) uint64 { return p.SYN }},
		{"ACKs to a port nobody guards", packet{dport: 8080, flags: flagACK}.frame(t), restRate, func(p Packets) uint64 { return p.All }},
	} {
		w := newTwin(t, Defend)
		n := 2 * row.most
		start := time.Now()
		s, p := w.counted(func() {
			if _, err := w.d.prog.Run(&ebpf.RunOptions{Data: row.frame, Repeat: uint32(n)}); err != nil {
				t.Fatal(err)
			}
		})
		most := float64(row.most) * (1 + time.Since(start).Seconds() + 0.02)
		passed := n - int(s.Frames)
		if float64(passed) > most || passed < row.most {
			t.Errorf("%s: %d of %d passed, want %d and at most %.0f", row.what, passed, n, row.most, most)
		}
		if dropped := uint64(n - passed); s.Flooded != dropped || row.kind(p) != dropped || p.All != dropped || s.Frames != dropped {
			t.Errorf("%s: %d dropped, counted %+v, %+v", row.what, dropped, s, p)
		}
	}
}

// TestProgramSockets: who has a connection, or is asked something by UDP, passes whatever the mode.
func TestProgramSockets(t *testing.T) {
	ns := newNetns(t)
	ns.must("lo", func() error { return up("lo", "198.18.1.1/32", "2001:2::1/128", "198.18.2.2/32", "2001:2::2/128") })
	w := newTwin(t, Defend)
	w.gate(Gate{Services: map[netip.AddrPort]Plain{netip.AddrPortFrom(edge4, 443): PlainDrop, netip.AddrPortFrom(edge6, 443): PlainDrop}})
	for _, end := range [][2]netip.Addr{{edge4, client4}, {edge6, client6}} {
		edge, client := end[0], end[1]
		for _, port := range []uint16{testPort, 443, 8443} {
			var listener net.Listener
			var c, udp net.Conn
			ns.must("connect", func() (err error) {
				if listener, err = net.Listen("tcp", netip.AddrPortFrom(edge, port).String()); err != nil {
					return err
				}
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: client.AsSlice()}}
				wait(t, "the kernel has routes for its new addresses", func() bool {
					c, err = d.Dial("tcp", listener.Addr().String())
					return !errors.Is(err, unix.ENETUNREACH)
				})
				if err != nil {
					return err
				}
				du := net.Dialer{LocalAddr: &net.UDPAddr{IP: edge.AsSlice(), Port: int(port) + 1}}
				udp, err = du.Dial("udp", netip.AddrPortFrom(client, 53).String())
				return err
			})
			sport := c.LocalAddr().(*net.TCPAddr).AddrPort().Port()
			run := func(what, want string, p packet) {
				t.Helper()
				p.src = client
				ns.must(what, func() error {
					if got, _ := w.run(p.frame(t)); verdictNames[got] != want {
						return fmt.Errorf("at %v port %d: %s, want %s", edge, port, verdictNames[got], want)
					}
					return nil
				})
			}
			for _, flags := range []byte{flagACK, flagACK | flagPSH, flagACK | flagFIN, flagRST} {
				run("packet of a connection", "pass", packet{sport: sport, dport: port, flags: flags, payload: make([]byte, 100)})
			}
			stranger := map[uint16]string{testPort: "drop", 443: "drop", 8443: "pass"}[port] // within the budget
			run("a stranger's", stranger, packet{sport: 1, dport: port, flags: flagACK})
			run("an answer to a connected UDP socket", "pass", packet{udp: true, sport: 53, dport: port + 1, payload: make([]byte, 9)})
			for _, x := range []interface{ Close() error }{c, udp, listener} {
				x.Close()
			}
		}
	}
}

func (w *twin) shares(s Shares) {
	w.t.Helper()
	w.c.told.Store(&Sampling{Shares: s})
	w.reprogram()
}

// TestProgramShares: fresh and retransmitted SYNs have shares of their own.
func TestProgramShares(t *testing.T) {
	const n = 20_000
	for _, s := range []Shares{{Fresh: 0}, {Fresh: 0.25}, {Fresh: 0.75, Again: 1}, {Fresh: 1}} {
		w := newTwin(t, Defend)
		w.shares(s)
		b := packet{options: linuxOptions}.frame(t)
		counts, p := w.counted(func() {
			for i := range n {
				be.PutUint32(b[38:], uint32(i)*2654435761)
				w.run(b)
			}
		})
		if got := float64(counts.SYNAnswered) / n; math.Abs(got-s.Fresh) > 0.02 {
			t.Errorf("%+v: answered a share of %v", s, got)
		}
		if counts.SYNSeen != n || counts.SYNAnswered+counts.SYNSampledOut != n || p.SYN != n {
			t.Errorf("%+v: counted %+v, %+v", s, counts, p)
		}
	}
}

// TestProgramKnowsRetransmission: a SYN that comes again after a second is one, a copy at once is not.
func TestProgramKnowsRetransmission(t *testing.T) {
	w := newTwin(t, Defend)
	w.shares(Shares{Fresh: 0, Again: 1})
	bothFamilies(t, func(t *testing.T, src netip.Addr) {
		const n = 100
		var frames [][]byte
		for i := range n {
			frames = append(frames, packet{src: src, sport: uint16(1000 + i), seq: uint32(i) * 77777, options: linuxOptions}.frame(t))
		}
		run := func() (answered int) {
			for _, b := range frames {
				if v, _ := w.run(b); v == xdpTX {
					answered++
				}
			}
			return answered
		}
		// The program's ticks are those of the kernel's clock, some ms late.
		ticks := func() (n, rest int64) {
			now, err := monotonic()
			if err != nil {
				t.Fatal(err)
			}
			return now >> seenTick, now & (1<<seenTick - 1)
		}
		var first int64
		wait(t, "the first half of a tick", func() bool {
			n, rest := ticks()
			first = n
			return rest > 20e6 && rest < 200e6
		})
		fresh, copies := run(), run()
		if n, _ := ticks(); fresh != 0 || copies != 0 && n == first {
			t.Errorf("%d fresh SYNs answered, %d of their copies at once, of %d", fresh, copies, len(frames))
		}
		wait(t, "two ticks later", func() bool {
			n, rest := ticks()
			return n >= first+2 && rest > 20e6
		})
		got := 0
		if s, _ := w.counted(func() { got = run() }); got != n || s.SYNAgain != n {
			t.Errorf("%d of %d retransmitted SYNs answered, %d counted", got, n, s.SYNAgain)
		}
	})
}

// TestProgramAnswerCap: the cap holds, and keyed SYNs find something left.
func TestProgramAnswerCap(t *testing.T) {
	w := newTwin(t, Defend)
	const cap = 1000
	w.shares(Shares{Fresh: 1, Again: 1, Answers: cap})
	b := packet{options: linuxOptions}.frame(t)
	start := time.Now()
	answered, keyed := 0, 0
	const n, proofs = 20_000, 30
	s, _ := w.counted(func() {
		for i := range n {
			if v, _ := w.run(b); v == xdpTX {
				answered++
			}
			if i%(n/proofs) == 0 {
				p := packet{sport: uint16(1024 + i), payload: w.preambleAt(proto.KindData, byte(i), time.Now())}
				if v, _ := w.run(p.frame(t)); v == xdpTX {
					keyed++
				}
			}
		}
	})
	most := cap * (time.Since(start).Seconds() + 3*answerStep/1e9 + 0.01)
	if float64(answered+keyed) > most || answered < 10 {
		t.Errorf("%d and %d SYNs answered, want at most %.0f", answered, keyed, most)
	}
	if keyed < proofs {
		t.Errorf("%d of %d keyed SYNs answered", keyed, proofs)
	}
	if s.SYNCapped != uint64(n-answered) {
		t.Errorf("%d not answered, counted %d", n-answered, s.SYNCapped)
	}
}

// TestProgramAdmits thousands at once, until a time.
func TestProgramAdmits(t *testing.T) {
	w := newTwin(t, Defend)
	const n = 10_000
	var all []Admission
	a, b := client4, client6
	for range n / 2 {
		a, b = a.Next(), b.Next()
		all = append(all, Admission{a, time.Now().Add(time.Hour)}, Admission{b, time.Now().Add(time.Hour)})
	}
	start := time.Now()
	if err := w.d.admit(append(all, all[0], all[3]), nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d addresses admitted in %v", n, time.Since(start))
	verdict := func(what string, addr netip.Addr, want string) {
		t.Helper()
		for _, flags := range []byte{flagSYN, flagACK} {
			if got, _ := w.run(packet{src: addr, flags: flags}.frame(t)); (verdictNames[got] == "pass") != (want == "pass") {
				t.Errorf("%s, flags %x: %s, want %s", what, flags, verdictNames[got], want)
			}
		}
		if got, _ := w.run(packet{src: addr, dport: 443, flags: flagSYN}.frame(t)); verdictNames[got] != "drop" {
			t.Errorf("%s: SYN to a service: %s, want drop", what, verdictNames[got])
		}
	}
	w.gate(Gate{Services: map[netip.AddrPort]Plain{netip.AddrPortFrom(edge4, 443): PlainDrop, netip.AddrPortFrom(edge6, 443): PlainDrop}})
	verdict("admitted", all[0].Addr, "pass")
	verdict("admitted, IPv6", all[n-1].Addr, "pass")
	verdict("a stranger", client4, "none")
	if err := w.d.admit([]Admission{{all[0].Addr, time.Now().Add(-time.Second)}}, []netip.Addr{all[n-1].Addr, client6}); err != nil {
		t.Fatal(err)
	}
	verdict("expired", all[0].Addr, "none")
	verdict("evicted", all[n-1].Addr, "none")
	verdict("admitted still", all[1].Addr, "pass")
	var addrs []netip.Addr
	for _, x := range all {
		addrs = append(addrs, x.Addr)
	}
	if err := w.d.admit(nil, addrs); err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(addrs, func(a netip.Addr) bool { v, _ := w.run(packet{src: a}.frame(t)); return v == xdpPass }); i >= 0 {
		t.Errorf("%v passes still", addrs[i])
	}
}

// TestProgramLimitsFlights: a good first flight, replayed, does not get far.
func TestProgramLimitsFlights(t *testing.T) {
	w := newTwin(t, Defend)
	b := w.corpus()["first flight v4"]
	passed := 0
	s, _ := w.counted(func() {
		for range 1000 {
			if v, _ := w.run(b); v == xdpPass {
				passed++
			}
		}
	})
	if passed < flightBurst || passed > flightBurst+flightRate || s.FlightsLimited != uint64(1000-passed) {
		t.Errorf("%d of 1000 passed, %d counted; want about %d", passed, s.FlightsLimited, flightBurst)
	}
}

// TestProgramForOneFamily: a machine may have addresses of one only.
func TestProgramForOneFamily(t *testing.T) {
	for _, a := range []netip.Addr{edge4, edge6} {
		d, err := newDatapath(Filter{Addrs: []netip.Addr{a}, LinkPort: testPort}, &net.Interface{HardwareAddr: edgeMAC, MTU: wireMTU})
		if err != nil {
			t.Skipf("%v: %v (run as root)", a, err)
		}
		d.close()
	}
	if _, err := newDatapath(Filter{LinkPort: testPort}, &net.Interface{}); err == nil {
		t.Error("a program for no address was loaded")
	}
}

// TestProgramHints: who is admitted is let in whoever else is, whoever left, and however many there are.
func TestProgramHints(t *testing.T) {
	w := newTwin(t, Defend)
	var all []Admission
	for i := range 3000 {
		a := netip.AddrFrom4([4]byte{198, 19, byte(i >> 8), byte(i)})
		if i%2 == 1 {
			a = netip.AddrFrom16([16]byte{0x20, 0x01, 0, 2, 9: 1, 14: byte(i >> 8), 15: byte(i)})
		}
		all = append(all, Admission{a, time.Now().Add(time.Hour)})
	}
	if err := w.d.admit(all, nil); err != nil {
		t.Fatal(err)
	}
	var gone []netip.Addr
	for i := 0; i < len(all); i += 3 {
		gone = append(gone, all[i].Addr)
	}
	if err := w.d.admit(nil, gone); err != nil {
		t.Fatal(err)
	}
	for i, a := range all {
		dst := edge4
		if a.Addr.Is6() {
			dst = edge6
		}
		verdict, _ := w.run(packet{src: a.Addr, dst: dst}.frame(t))
		if passed := verdict == xdpPass; passed != (i%3 != 0) {
			t.Fatalf("%v, admitted %v: verdict %d", a.Addr, i%3 != 0, verdict)
		}
	}
}

// TestProgramStrangers: who shows a good cookie and a forged tag is counted by prefix, by program and checker alike.
func TestProgramStrangers(t *testing.T) {
	w := newTwin(t, Defend)
	told := map[netip.Prefix]uint64{}
	w.c.cfg.Stranger = func(a netip.Addr, why string) {
		bits := 24
		if a.Is6() {
			bits = 48
		}
		if p, err := a.Prefix(bits); err == nil && why == "bad_tag" {
			told[p]++
		}
	}
	all := w.corpus()
	before, err := w.d.whoElse() // of the tests before: the program is loaded once
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, name := range []string{"first flight with a forged tag v4", "first flight with a forged tag v6", "first flight v4"} {
			w.run(all[name])
			w.c.handle(&Frame{Data: all[name]}, w.now)
		}
	}
	seen, err := w.d.whoElse()
	for p := range seen {
		if seen[p] -= before[p]; seen[p] == 0 {
			delete(seen, p)
		}
	}
	if err != nil || len(told) != 2 || !maps.Equal(seen, told) {
		t.Errorf("the program saw %v (%v), the checker %v; want three of each prefix", seen, err, told)
	}
	for p, n := range told {
		if n != 3 {
			t.Errorf("%v: %d, want 3", p, n)
		}
	}
}
