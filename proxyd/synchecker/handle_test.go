package synchecker

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"migrationsensor/proto"
)

var hello = bytes.Repeat([]byte{0x16}, 223) // stands for a ClientHello behind the preamble

func bothFamilies(t *testing.T, f func(t *testing.T, src netip.Addr)) {
	t.Run("IPv4", func(t *testing.T) { f(t, client4) })
	t.Run("IPv6", func(t *testing.T) { f(t, client6) })
}

func TestTransfer(t *testing.T) {
	bothFamilies(t, func(t *testing.T, src netip.Addr) {
		f := newFixture(t, Defend)
		data := f.connect(packet{src: src, seq: math.MaxUint32, options: linuxOptions})
		preamble := f.preamble(proto.KindControl, 1)
		data.payload = append(bytes.Clone(preamble), hello...)
		r := f.send(data)
		if r == nil {
			t.Fatalf("a proven client got nothing: %+v", f.c.Stats())
		}
		if !r.PSH || !r.FIN || !r.ACK || r.SYN || r.RST {
			t.Errorf("flags of the reply: %+v, want PSH|FIN|ACK", r.TCP)
		}
		if want := data.seq + 299; r.Ack != want || r.Seq != data.ack {
			t.Errorf("reply seq %d ack %d, want %d %d", r.Seq, r.Ack, data.ack, want)
		}
		got, err := proto.OpenReply(r.Payload, preamble, f.keys(1))
		if err != nil || got.Kind != proto.ReplyRetry {
			t.Errorf("the client reads %+v, %v", got, err)
		}
		want := Client{From: netip.AddrPortFrom(src, 40000), Local: netip.AddrPortFrom(data.withDefaults().dst, testPort)}
		if v := f.verified[0]; v.From != want.From || v.Local != want.Local || v.Agent != (proto.AgentID{1}) {
			t.Errorf("verified %+v, want from %v at %v", v, want.From, want.Local)
		}
		again := f.send(data)
		if again == nil || !bytes.Equal(again.Payload, r.Payload) || again.Seq != r.Seq || again.Ack != r.Ack {
			t.Error("a retransmitted preamble must get the identical segment")
		}
		f.wantCounts("transfer", map[string]uint64{"syn_answered": 1, "cookies_ok": 2, "transfers": 2})
	})
}

// TestProbe: a probe is a preamble with nothing behind it, and is answered like a link's.
func TestProbe(t *testing.T) {
	bothFamilies(t, func(t *testing.T, src netip.Addr) {
		f := newFixture(t, Defend)
		data := f.connect(packet{src: src})
		data.payload = f.preamble(proto.KindProbe, 1)
		r := f.send(data)
		if r == nil {
			t.Fatalf("a probe got nothing: %+v", f.c.Stats())
		}
		if got, err := proto.OpenReply(r.Payload, data.payload, f.keys(1)); err != nil || got.Kind != proto.ReplyRetry {
			t.Errorf("the client reads %+v, %v", got, err)
		}
		if v := f.verified[0]; v.Kind != proto.KindProbe || r.Ack != data.seq+proto.PreambleLen {
			t.Errorf("verified %+v, acknowledged to %d; want the probe and all of it, %d", v, r.Ack, data.seq+proto.PreambleLen)
		}
	})
}

// TestFirst has one row for each rule that client data can break.
func TestFirst(t *testing.T) {
	for name, row := range map[string]struct {
		change func(f *fixture, p *packet)
		count  string // which counter tells; "" with an answer
	}{
		"good":                       {func(*fixture, *packet) {}, ""},
		"good, exactly a preamble":   {func(_ *fixture, p *packet) { p.payload = p.payload[:76] }, ""},
		"good, second epoch":         {func(f *fixture, _ *packet) { f.now = f.now.Add(epochLen) }, ""},
		"good, though now admitted":  {func(f *fixture, _ *packet) { f.kernel[client4] = true }, ""},
		"cookie too old":             {func(f *fixture, _ *packet) { f.now = f.now.Add(2 * epochLen) }, "cookies_bad"},
		"cookie wrong":               {func(_ *fixture, p *packet) { p.ack ^= 1 }, "cookies_bad"},
		"cookie wrong in high half":  {func(_ *fixture, p *packet) { p.ack ^= 1 << 31 }, "cookies_bad"},
		"ISN wrong":                  {func(_ *fixture, p *packet) { p.seq++ }, "cookies_bad"},
		"second segment":             {func(_ *fixture, p *packet) { p.seq += 300 }, "cookies_bad"},
		"cookie of another port":     {func(_ *fixture, p *packet) { p.sport++ }, "cookies_bad"},
		"cookie of another address":  {func(_ *fixture, p *packet) { p.src = client4.Next() }, "cookies_bad"},
		"half a preamble":            {func(_ *fixture, p *packet) { p.payload = p.payload[:75] }, "short"},
		"longer than a first flight": {func(_ *fixture, p *packet) { p.payload = append(p.payload, make([]byte, 214)...) }, "short"},
		"magic wrong":                {func(_ *fixture, p *packet) { p.payload[0]++ }, "bad_tag"},
		"tag wrong":                  {func(_ *fixture, p *packet) { p.payload[52]++ }, "bad_tag"},
		"MAC wrong":                  {func(_ *fixture, p *packet) { p.payload[75]++ }, "bad_mac"},
		"a knock over TCP":           {func(f *fixture, p *packet) { copy(p.payload, f.preamble(proto.KindKnock, 1)) }, "bad_kind"},
		"nothing to say":             {func(f *fixture, _ *packet) { f.say = false }, "unanswered"},
		"bare ACK":                   {func(_ *fixture, p *packet) { p.payload = nil }, "ignored"},
		"RST":                        {func(_ *fixture, p *packet) { p.flags |= flagRST }, "ignored"},
		"no ACK flag":                {func(_ *fixture, p *packet) { p.flags = flagPSH }, "ignored"},
		"SYN-ACK":                    {func(_ *fixture, p *packet) { p.flags |= flagSYN }, "ignored"},
		"another port":               {func(_ *fixture, p *packet) { p.dport = 443 }, "foreign"},
		"another address of the net": {func(_ *fixture, p *packet) { p.dst = edge4.Next() }, "foreign"},
		"dark":                       {func(f *fixture, _ *packet) { f.c.SetMode(Dark) }, "ignored"},
		"off":                        {func(f *fixture, _ *packet) { f.c.SetMode(Off) }, "ignored"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Defend)
			data := f.connect(packet{seq: 1000, options: linuxOptions})
			data.payload = append(f.preamble(proto.KindData, 1), hello...)
			row.change(f, &data)
			r := f.send(data)
			if (r != nil) != (row.count == "") {
				t.Errorf("answer %v, stats %+v", r, f.c.Stats())
			}
			if row.count != "" {
				f.wantCounts("silent, and counted", map[string]uint64{row.count: 1, "transfers": 0})
			}
		})
	}
}

func TestRejectsAreSealed(t *testing.T) {
	f := newFixture(t, Defend)
	data := f.connect(packet{})
	preamble := f.preambleAt(proto.KindControl, 1, f.now.Add(-proto.MaxSkew-time.Second))
	data.payload = preamble
	r := f.send(data)
	if r == nil {
		t.Fatal("an agent whose clock is wrong must be told")
	}
	got, err := proto.OpenReply(r.Payload, preamble, f.keys(1))
	if err != nil || got.Kind != proto.ReplyReject || got.Code != proto.RejectClock || !got.ServerTime.Equal(f.now) {
		t.Errorf("reply %+v, %v; want REJECT(clock) with %v", got, err, f.now)
	}
	if len(f.verified) != 0 {
		t.Error("it was taken for verified all the same")
	}
	f.wantCounts("clock", map[string]uint64{"clock": 1, "transfers": 0})
}

func TestNonceAdmitsOneAddress(t *testing.T) {
	f := newFixture(t, Defend)
	preamble := f.preamble(proto.KindControl, 1)
	first := f.connect(packet{})
	first.payload = preamble
	if f.send(first) == nil {
		t.Fatal("first use refused")
	}
	thief := f.connect(packet{src: client4.Next()})
	thief.payload = preamble
	if f.send(thief) != nil {
		t.Error("a captured preamble, replayed from another address, was answered")
	}
	f.wantCounts("replay", map[string]uint64{"replays": 1, "transfers": 1})
}

func TestEnrolIsLimited(t *testing.T) {
	f := newFixture(t, Defend)
	answered := 0
	for i := range enrolBurst + 20 {
		data := f.connect(packet{src: netip.AddrFrom4([4]byte{198, 18, 9, byte(i)})})
		data.payload = f.preamble(proto.KindEnrol, 1)
		if f.send(data) != nil {
			answered++
		}
	}
	if answered != enrolBurst {
		t.Errorf("%d tokens answered at once, want %d", answered, enrolBurst)
	}
}

func TestSYNACK(t *testing.T) {
	bothFamilies(t, func(t *testing.T, src netip.Addr) {
		for name, options := range map[string][]layers.TCPOption{
			"none": nil, "linux": linuxOptions, "only MSS": linuxOptions[:1],
			"only NOPs": {{OptionType: layers.TCPOptionKindNop}},
		} {
			t.Run(name, func(t *testing.T) {
				f := newFixture(t, Defend)
				p := packet{src: src, seq: 77, options: options}
				r := f.send(p)
				if r == nil || !r.SYN || !r.ACK || r.FIN || r.RST || r.Ack != 78 {
					t.Fatalf("answer %+v, want a SYN-ACK of 78", r)
				}
				if syn := len(p.frame(t)); r.size > syn {
					t.Errorf("SYN-ACK of %d bytes for a SYN of %d", r.size, syn)
				}
				if mss := len(r.Options) == 1 && r.Options[0].OptionType == layers.TCPOptionKindMSS; mss != (options != nil) || len(r.Options) > 1 {
					t.Errorf("options %v, want MSS only if the SYN had any", r.Options)
				}
				if r.Window > proto.FirstFlightMax {
					t.Errorf("window %d, want at most %d", r.Window, proto.FirstFlightMax)
				}
				if r.src != p.withDefaults().dst || r.dst != src || r.SrcPort != testPort || r.DstPort != 40000 {
					t.Errorf("answer goes %v:%d → %v:%d", r.src, r.SrcPort, r.dst, r.DstPort)
				}
				if !bytes.Equal(r.eth.SrcMAC, edgeMAC) || !bytes.Equal(r.eth.DstMAC, routerMAC) {
					t.Errorf("MACs not swapped: %v → %v", r.eth.SrcMAC, r.eth.DstMAC)
				}
			})
		}
	})
}

func TestVLANComesBack(t *testing.T) {
	f := newFixture(t, Defend)
	if r := f.send(packet{vlan: 5}); r == nil || r.vlan != 5 {
		t.Errorf("tag in the frame: answer %+v, want it in VLAN 5", r)
	}
	f.c.out = f.c.out[:0]
	f.c.handle(&Frame{Data: packet{}.frame(t), VLAN: 0x88a80007}, f.now)
	if b := f.c.out[0]; !bytes.Equal(b[12:16], []byte{0x88, 0xa8, 0, 7}) {
		t.Errorf("tag beside the frame: answer has %x, want it tagged back", b[12:16])
	}
}

func TestSampling(t *testing.T) {
	const n = 40_000
	for _, p := range []float64{0.01, 0.25, 0.75, 1} {
		f := newFixture(t, Defend, func(c *Config) { c.Budget.Probability = p })
		b := packet{}.frame(t)
		for i := range n {
			be.PutUint32(b[38:], uint32(i))
			f.raw(b)
		}
		got := float64(f.c.Stats().SYNAnswered) / n
		if math.Abs(got-p) > 0.02 { // 9 standard deviations
			t.Errorf("answered a share of %v, want %v", got, p)
		}
		f.wantCounts("sampled", map[string]uint64{"syn_seen": n, "syn_sampled_out": n - f.c.Stats().SYNAnswered})
	}
}

// TestPaperTheory: a client that sends n SYNs is answered with probability 1 - (1-p)^n; Linux sends three in three
// seconds.
func TestPaperTheory(t *testing.T) {
	const clients = 10_000
	f := newFixture(t, Defend, func(c *Config) { c.Budget = BudgetConfig{Probability: 0.25, Answers: 100_000, Processor: 0.5} })
	b, served := packet{options: linuxOptions}.frame(t), 0
	for i := range clients {
		be.PutUint32(b[38:], uint32(i))
		f.now = f.now.Add(time.Millisecond)
		for range 3 {
			if f.raw(b) != nil {
				served++
				break
			}
		}
	}
	if got, want := float64(served)/clients, 1-math.Pow(0.75, 3); math.Abs(got-want) > 0.025 { // 5 standard deviations
		t.Errorf("%.3f of the clients served, want %.3f", got, want)
	}
}

func TestAnswersSpareKeyed(t *testing.T) {
	f := newFixture(t, Defend, func(c *Config) { c.Budget.Answers = 100 })
	for range 1000 {
		f.send(packet{})
		f.now = f.now.Add(time.Millisecond)
	}
	if n := f.c.Stats().SYNAnswered; n < 80 || n > 100 {
		t.Errorf("%d SYNs of 1000 in a second answered, want 100 at most and not much less", n)
	}
	if f.send(packet{payload: f.preamble(proto.KindData, 1)}) == nil {
		t.Error("a keyed SYN went without for ordinary ones")
	}
	for i := range 100 {
		f.send(packet{payload: f.preamble(proto.KindData, byte(i))})
	}
	if n := f.c.Stats().SYNAnswered; n > 110 {
		t.Errorf("%d answers in a second and a moment: keyed SYNs too are under the most", n)
	}
}

func TestAdmittedIsTheKernels(t *testing.T) {
	f := newFixture(t, Defend)
	f.kernel[client4] = true
	if f.send(packet{}) != nil || f.send(packet{payload: f.preamble(proto.KindData, 1)}) != nil {
		t.Error("both kernel and checker would answer")
	}
	if f.send(packet{src: client4.Next()}) == nil {
		t.Error("a stranger got nothing")
	}
}

func TestFIN(t *testing.T) {
	f := newFixture(t, Defend)
	data := f.connect(packet{seq: 5})
	fin := data
	fin.flags, fin.seq = flagFIN|flagACK, data.seq+299
	for what, ack := range map[string]uint32{"before the reply": data.ack, "after it": data.ack + 257} {
		fin.ack = ack
		r := f.send(fin)
		if r == nil || !r.RST || r.ACK || r.Seq != ack || len(r.Payload) != 0 {
			t.Errorf("FIN %s: got %+v, want RST at %d", what, r, ack)
		}
	}
	fin.ack ^= 1 << 20
	if f.send(fin) != nil {
		t.Error("RST for a connection that is not ours")
	}
	fin.ack ^= 1 << 20
	f.kernel[client4] = true
	if f.send(fin) != nil {
		t.Error("RST for an admitted client's connection")
	}
}

// TestMalformed changes one thing of a good SYN at a time.
func TestMalformed(t *testing.T) {
	frame4, frame6 := packet{options: linuxOptions}.frame(t), packet{src: client6}.frame(t)
	for name, row := range map[string]struct {
		frame []byte
		at    int
		value []byte
	}{
		"source MAC is a group":   {frame4, 6, []byte{1}},
		"not IP":                  {frame4, 12, []byte{8, 6}},
		"version 4 says 6":        {frame4, 14, []byte{0x65}},
		"header length 16":        {frame4, 14, []byte{0x44}},
		"header beyond the total": {frame4, 14, []byte{0x4f}},
		"total below the header":  {frame4, 16, []byte{0, 19}},
		"total cuts TCP":          {frame4, 16, []byte{0, 30}},
		"more fragments":          {frame4, 20, []byte{0x20}},
		"fragment offset":         {frame4, 21, []byte{1}},
		"ICMP":                    {frame4, 23, []byte{1}},
		"source 0":                {frame4, 26, []byte{0}},
		"source loopback":         {frame4, 26, []byte{127}},
		"source multicast":        {frame4, 26, []byte{224}},
		"source broadcast":        {frame4, 26, []byte{255, 255, 255, 255}},
		"source port 0":           {frame4, 34, []byte{0, 0}},
		"TCP header 16":           {frame4, 46, []byte{0x40}},
		"TCP header too long":     {frame4, 46, []byte{0xf0}},
		"version 6 says 4":        {frame6, 14, []byte{0x40}},
		"extension header":        {frame6, 20, []byte{0}},
		"payload cuts TCP":        {frame6, 18, []byte{0, 19}},
		"source v6 unspecified":   {frame6, 22, make([]byte, 16)},
		"source v6 multicast":     {frame6, 22, []byte{0xff}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Defend)
			if f.raw(row.frame) == nil {
				t.Fatal("the frame was not good to begin with")
			}
			b := bytes.Clone(row.frame)
			copy(b[row.at:], row.value)
			if f.raw(b) != nil {
				t.Error("answered")
			}
			f.wantCounts("malformed", map[string]uint64{"malformed": 1})
		})
	}
	for _, whole := range [][]byte{frame4[:54], frame6} {
		for n := range whole {
			f := newFixture(t, Defend)
			if f.raw(whole[:n]) != nil {
				t.Errorf("answered the first %d bytes of a SYN", n)
			}
		}
	}
}

func TestNewRefuses(t *testing.T) {
	good := newFixture(t, Off).c.cfg
	for name, change := range map[string]func(*Config){
		"no port":             func(c *Config) { c.Port = nil },
		"no keys":             func(c *Config) { c.Keys = nil },
		"no address":          func(c *Config) { c.Addrs = nil },
		"probability above 1": func(c *Config) { c.Budget.Probability = 1.01 },
		"probability NaN":     func(c *Config) { c.Budget.Probability = math.NaN() },
		"answers below 0":     func(c *Config) { c.Budget.Answers = -1 },
		"two processors":      func(c *Config) { c.Budget.Processor = 2 },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestModeNames(t *testing.T) {
	if got, want := fmt.Sprint(Off, Dark, Defend), "off dark defend"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
