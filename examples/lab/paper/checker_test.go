package paper

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"migrationsensor/examples/lab/frame"
)

var testAddress = netip.MustParseAddr("198.18.72.11")

// testChecker answers half of the SYNs: draw says 0.4 and 0.6 in turn.
func testChecker() *checker {
	draws, i := []float64{0.4, 0.6}, 0
	c := Config{
		Address: testAddress, Ports: []uint16{80}, P2: testNotice.to.Addr(), P: 0.5,
		Assumed: Assumed{Key: testKey},
	}
	return newChecker(c, func() float64 { i++; return draws[(i-1)%2] }, [2]uint64{1, 2})
}

// toP1 is a segment of the test's client.
func toP1(seq, ack uint32, flags uint8, data int) segment {
	return segment{client: testClient, to: testAddress, port: 80, seq: seq, ack: ack, flags: flags, data: data}
}

// TestCheckerSegmentBySegment plays a transfer and everything that is none.
func TestCheckerSegmentBySegment(t *testing.T) {
	now := time.Unix(1000, 0)
	first := testChecker().cookie(testClient, 80)
	end := first + 1 + uint32(noticeLen) + 1
	elsewhere, otherPort := toP1(100, 0, frame.SYN, 0), toP1(100, 0, frame.SYN, 0)
	elsewhere.to, otherPort.port = netip.MustParseAddr("198.18.72.12"), 81
	for _, tc := range []struct {
		rule string
		s    segment
		want verdict
	}{
		{"a SYN that is drawn is answered", toP1(100, 0, frame.SYN, 0), answer},
		{"one to another address is not ours", elsewhere, ignore},
		{"one to another port is not ours", otherPort, ignore},
		{"a SYN with FIN is no SYN", toP1(100, 0, frame.SYN|frame.FIN, 0), ignore},
		{"a SYN-ACK is nobody's to send", toP1(100, first+1, frame.SYN|frame.ACK, 0), ignore},
		{"ack − 1 is our number: P2 is asked", toP1(101, first+1, frame.ACK, 0), ratify},
		{"ack − 1 is one less", toP1(101, first, frame.ACK, 0), ignore},
		{"ack − 1 is one more", toP1(101, first+2, frame.ACK, 0), ignore},
		{"an ACK with data is the application's, not a handshake's end", toP1(101, first+1, frame.ACK|frame.PSH, 9), ignore},
		{"a reset ends nothing, there is no state", toP1(101, first+1, frame.ACK|frame.RST, 0), ignore},
		{"the ACK of the notification", toP1(101, end, frame.ACK, 0), ignore},
		{"the client's FIN after it is acknowledged", toP1(101, end, frame.ACK|frame.FIN, 0), answer},
		{"a FIN without a notification too", toP1(101, first+1, frame.ACK|frame.FIN, 0), answer},
		{"a stranger's FIN is not", toP1(101, 7, frame.ACK|frame.FIN, 0), ignore},
		{"no flags at all", toP1(101, first+1, 0, 0), ignore},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			if got, _, _ := testChecker().handle(now, tc.s); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestCheckerWritesWhatAClientUnderstands(t *testing.T) {
	now, c := time.Unix(1000, 0), testChecker()
	_, synAck, _ := c.handle(now, toP1(100, 0, frame.SYN, 0))
	if synAck.Flags != frame.SYN|frame.ACK || synAck.Ack != 101 || synAck.Dst != testClient.Addr() || synAck.DstPort != testClient.Port() || synAck.SrcPort != 80 {
		t.Errorf("SYN-ACK: %+v", synAck)
	}
	v, _, r := c.handle(now, toP1(101, synAck.Seq+1, frame.ACK, 0))
	if v != ratify || r.client != testClient || r.word == (Word{}) {
		t.Fatalf("the ACK: verdict %d, ratification %+v", v, r)
	}
	sent, ok := parseRatification(r.append(nil, kindApproval), kindApproval)
	if !ok {
		t.Fatal("our own approval is none")
	}
	p, ok := c.approved(sent)
	if !ok || p.Flags&frame.FIN == 0 || p.Seq != synAck.Seq+1 || p.Ack != 101 {
		t.Errorf("notification: %v %+v", ok, p)
	}
	n, err := openNotice(testKey, p.Payload)
	if err != nil || n.to != testNotice.to || n.word != r.word {
		t.Errorf("notification says %+v, %v", n, err)
	}
	_, last, _ := c.handle(now, toP1(101, p.Seq+uint32(len(p.Payload))+1, frame.ACK|frame.FIN, 0))
	if last.Flags != frame.ACK || last.Ack != 102 || last.Seq != p.Seq+uint32(noticeLen)+1 {
		t.Errorf("the end: %+v", last)
	}
	want := CheckerCounts{SYNs: 1, Answered: 1, ACKs: 1, Approved: 1, Ended: 1}
	if c.counts != want {
		t.Errorf("counts %+v, want %+v", c.counts, want)
	}
}

func TestApprovalOfNothingWeAsked(t *testing.T) {
	c := testChecker()
	if _, ok := c.approved(ratification{client: testClient, service: 80, ours: 5}); ok || c.counts.Refused != 1 {
		t.Errorf("got %v, %+v, want a refusal", ok, c.counts)
	}
}

func TestSamplingAndFirewallAreCounted(t *testing.T) {
	now, c := time.Unix(1000, 0), testChecker()
	c.filter = firewall{rate: 1, burst: 4}
	for range 10 {
		c.handle(now, toP1(100, 0, frame.SYN, 0))
	}
	want := CheckerCounts{SYNs: 10, Filtered: 6, Unsampled: 2, Answered: 2}
	if c.counts != want {
		t.Errorf("counts %+v, want %+v", c.counts, want)
	}
}

func TestCookieDependsOnEveryPartOfTheConnection(t *testing.T) {
	c := testChecker()
	seen := map[uint32]string{}
	for _, client := range []string{"198.18.1.1:40000", "198.18.1.1:40001", "198.18.1.2:40000"} {
		for _, port := range []uint16{80, 81} {
			v := c.cookie(netip.MustParseAddrPort(client), port)
			if other, twice := seen[v]; twice {
				t.Errorf("%s to %d has the number of %s", client, port, other)
			}
			seen[v] = client
		}
	}
}

// synFrame is a client's SYN on the wire.
func synFrame() []byte {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	return frame.Packet{
		SrcMAC: mac, DstMAC: mac, Src: testClient.Addr(), Dst: testAddress, Proto: frame.TCP,
		SrcPort: testClient.Port(), DstPort: 80, Seq: 100, Flags: frame.SYN, Options: []byte{2, 4, 5, 0xb4}, Payload: []byte("abc"),
	}.Append(nil)
}

func TestParseReadsWhatFrameWrites(t *testing.T) {
	want := toP1(100, 0, frame.SYN, 3)
	if got, ok := parse(synFrame()); !ok || got != want {
		t.Errorf("got %+v, %v, want %+v", got, ok, want)
	}
}

func TestParseRefuses(t *testing.T) {
	const ip, tcp = 14, 34
	for rule, spoil := range map[string]func(f []byte) []byte{
		"a fragment":                     func(f []byte) []byte { f[ip+6] = 0x20; return f },
		"a later fragment":               func(f []byte) []byte { f[ip+7] = 1; return f },
		"another version":                func(f []byte) []byte { f[ip] = 0x65; return f },
		"UDP":                            func(f []byte) []byte { f[ip+9] = 17; return f },
		"a TCP header longer than it is": func(f []byte) []byte { f[tcp+12] = 0xf0; return f },
		"a TCP header of no length":      func(f []byte) []byte { f[tcp+12] = 0; return f },
		"a cut frame":                    func(f []byte) []byte { return f[:len(f)-1] },
		"an IP header only":              func(f []byte) []byte { f[ip+3] = 20; return f },
		"a source that is a group":       func(f []byte) []byte { f[ip+12] = 224; return f },
		"source port 0":                  func(f []byte) []byte { f[tcp], f[tcp+1] = 0, 0; return f },
		"nothing":                        func([]byte) []byte { return nil },
	} {
		if s, ok := parse(spoil(synFrame())); ok {
			t.Errorf("%s: parsed as %+v", rule, s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(synFrame())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := parse(b)
		if !ok {
			return
		}
		if s.data > len(b) || !host(s.client) {
			t.Errorf("got %+v of %d bytes", s, len(b))
		}
		testChecker().handle(time.Unix(0, 0), s)
	})
}
