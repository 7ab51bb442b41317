package synchecker

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"migrationsensor/proto"
)

const testPort = 7443

var (
	edge4   = netip.MustParseAddr("198.18.1.1")
	edge6   = netip.MustParseAddr("2001:2::1")
	client4 = netip.MustParseAddr("198.18.2.2")
	client6 = netip.MustParseAddr("2001:2::2")

	edgeMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	routerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}

	testNonces = proto.NewNonceSet() // 16 MiB: one for all; nonces are random

	epoch0 = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
)

// nopPort is for tests that call handle themselves.
type nopPort struct{}

func (nopPort) Read([]Frame) (int, error)     { return 0, net.ErrClosed }
func (nopPort) Write(f [][]byte) (int, error) { return len(f), nil }
func (nopPort) Arm(Mode) error                { return nil }
func (nopPort) Lost() uint64                  { return 0 }
func (nopPort) Close() error                  { return nil }

// fixture is a checker and the agents that talk to it. Frames go in by send, what it says comes out
// decoded.
type fixture struct {
	t      testing.TB
	c      *Checker
	now    time.Time
	secret proto.Secret
	node   proto.NodeID

	verified []Client
	admitted []netip.Addr
	reply    proto.Reply
	say      bool // what Verified's ok is
	kernel   map[netip.Addr]bool
}

func newFixture(t testing.TB, mode Mode, change ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{
		t: t, now: epoch0, node: proto.NodeID{1, 2, 3}, say: true, kernel: map[netip.Addr]bool{},
		secret: proto.FleetKey{7}.ProxySecret(proto.NodeID{1, 2, 3}, 1),
		reply:  proto.Reply{Kind: proto.ReplyRetry, After: time.Second},
	}
	keys := new(proto.Keyring)
	keys.Set(proto.KeyID{Gen: 1}, f.secret)
	cfg := Config{
		Port: nopPort{}, Addrs: []netip.Addr{edge4, edge6}, LinkPort: testPort,
		Keys: keys, Node: f.node, Nonces: testNonces, Budget: BudgetConfig{Probability: 1},
		Verified: func(c Client) (proto.Reply, bool) {
			f.verified = append(f.verified, c)
			return f.reply, f.say
		},
		Admit:    func(_ proto.Verified, a netip.Addr) { f.admitted = append(f.admitted, a) },
		Admitted: func(a netip.Addr) bool { return f.kernel[a] },
		Now:      func() time.Time { return f.now },
		Rand:     rand.NewPCG(1, 2),
	}
	for _, ch := range change {
		ch(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetMode(mode); err != nil {
		t.Fatal(err)
	}
	f.c = c
	return f
}

func (f *fixture) keys(agent byte) proto.Admission { return f.secret.Admission(proto.AgentID{agent}) }

// preamble makes an agent's preamble of the fixture's time, with a fresh nonce.
func (f *fixture) preamble(kind proto.Kind, agent byte) []byte {
	return f.preambleAt(kind, agent, f.now)
}

func (f *fixture) preambleAt(kind proto.Kind, agent byte, at time.Time) []byte {
	p := proto.Preamble{Kind: kind, Key: proto.KeyID{Gen: 1}, Target: f.node, Time: at, Nonce: proto.NewNonce()}
	return p.Append(nil, f.keys(agent), f.node)
}

// packet describes a frame from a client; the zero value is a plain SYN from client4.
type packet struct {
	src, dst     netip.Addr
	sport, dport uint16
	seq, ack     uint32
	flags        byte
	options      []layers.TCPOption
	payload      []byte
	vlan         uint16
	udp          bool
}

var linuxOptions = []layers.TCPOption{
	{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}},
	{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2},
	{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)},
	{OptionType: layers.TCPOptionKindNop},
	{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{7}},
}

func (p packet) withDefaults() packet {
	if !p.src.IsValid() {
		p.src = client4
	}
	if !p.dst.IsValid() {
		p.dst = edge4
		if p.src.Is6() {
			p.dst = edge6
		}
	}
	if p.sport == 0 {
		p.sport = 40000
	}
	if p.dport == 0 {
		p.dport = testPort
	}
	if p.flags == 0 {
		p.flags = flagSYN
	}
	return p
}

func (p packet) frame(t testing.TB) []byte {
	t.Helper()
	p = p.withDefaults()
	eth := &layers.Ethernet{SrcMAC: routerMAC, DstMAC: edgeMAC, EthernetType: layers.EthernetTypeIPv4}
	proto := layers.IPProtocolTCP
	if p.udp {
		proto = layers.IPProtocolUDP
	}
	var network gopacket.NetworkLayer
	var ip gopacket.SerializableLayer
	if p.src.Is4() {
		l := &layers.IPv4{Version: 4, TTL: 60, Protocol: proto, SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice()}
		network, ip = l, l
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		l := &layers.IPv6{Version: 6, HopLimit: 60, NextHeader: proto, SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice()}
		network, ip = l, l
	}
	all := []gopacket.SerializableLayer{eth}
	if p.vlan != 0 {
		all = append(all, &layers.Dot1Q{VLANIdentifier: p.vlan, Type: eth.EthernetType})
		eth.EthernetType = layers.EthernetTypeDot1Q
	}
	all = append(all, ip, p.transport(network), gopacket.Payload(p.payload))
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (p packet) transport(n gopacket.NetworkLayer) gopacket.SerializableLayer {
	if p.udp {
		u := &layers.UDP{SrcPort: layers.UDPPort(p.sport), DstPort: layers.UDPPort(p.dport)}
		u.SetNetworkLayerForChecksum(n)
		return u
	}
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(p.sport), DstPort: layers.TCPPort(p.dport), Seq: p.seq, Ack: p.ack,
		FIN: p.flags&flagFIN != 0, SYN: p.flags&flagSYN != 0, RST: p.flags&flagRST != 0,
		PSH: p.flags&flagPSH != 0, ACK: p.flags&flagACK != 0, Window: 64240, Options: p.options,
	}
	tcp.SetNetworkLayerForChecksum(n)
	return tcp
}

// raw handles one frame and returns the answer, if any.
func (f *fixture) raw(b []byte) []byte {
	f.c.out = f.c.out[:0]
	f.c.handle(&Frame{Data: b}, f.now)
	switch len(f.c.out) {
	case 0:
		return nil
	case 1:
		return append([]byte(nil), f.c.out[0]...)
	}
	f.t.Fatalf("%d answers to one frame", len(f.c.out))
	return nil
}

// send handles p and decodes the answer; nil: silence.
func (f *fixture) send(p packet) *reply {
	f.t.Helper()
	b := f.raw(p.frame(f.t))
	if b == nil {
		return nil
	}
	return decode(f.t, b)
}

// reply is a decoded answer with both checksums verified.
type reply struct {
	*layers.TCP
	eth      *layers.Ethernet
	src, dst netip.Addr
	size     int // of the frame
	vlan     uint16
}

func decode(t testing.TB, b []byte) *reply {
	t.Helper()
	pkt := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if e := pkt.ErrorLayer(); e != nil {
		t.Fatalf("answer %x: %v", b, e.Error())
	}
	tcp, ok := pkt.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if !ok {
		t.Fatalf("answer %x is not TCP", b)
	}
	r := &reply{TCP: tcp, eth: pkt.Layer(layers.LayerTypeEthernet).(*layers.Ethernet), size: len(b)}
	if l, ok := pkt.Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q); ok {
		r.vlan = l.VLANIdentifier
	}
	r.src, _ = netip.AddrFromSlice(pkt.NetworkLayer().NetworkFlow().Src().Raw())
	r.dst, _ = netip.AddrFromSlice(pkt.NetworkLayer().NetworkFlow().Dst().Raw())
	wantChecksums(t, pkt, b)
	return r
}

// wantChecksums serializes the packet again with computed checksums: every byte must be the same.
func wantChecksums(t testing.TB, pkt gopacket.Packet, b []byte) {
	t.Helper()
	if tcp := pkt.Layer(layers.LayerTypeTCP).(*layers.TCP); tcp != nil {
		tcp.SetNetworkLayerForChecksum(pkt.NetworkLayer())
	}
	again := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializePacket(again, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, pkt); err != nil {
		t.Fatal(err)
	}
	if string(again.Bytes()[:len(b)]) != string(b) {
		t.Fatalf("checksums or lengths wrong:\n got %x\nwant %x", b, again.Bytes())
	}
}

// connect sends a SYN and fails the test without a SYN-ACK; it returns the packet that the client's
// first data would be, still without payload.
func (f *fixture) connect(p packet) packet {
	f.t.Helper()
	r := f.send(p)
	if r == nil || !r.SYN || !r.ACK {
		f.t.Fatalf("no SYN-ACK: %v", f.c.Stats())
	}
	p.seq, p.ack, p.flags, p.options = p.seq+1, r.Seq+1, flagACK|flagPSH, nil
	p.payload = nil
	return p
}

func (f *fixture) wantCounts(what string, want map[string]uint64) {
	f.t.Helper()
	got := f.c.Stats().Counts()
	for name, n := range want {
		if got[name] != n {
			f.t.Errorf("%s: %s = %d, want %d", what, name, got[name], n)
		}
	}
}
