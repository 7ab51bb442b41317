package memory

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/scenario"
	"migrationsensor/netstack/memnet"
)

// TestF1MigrateLost loses all that P1 says from the moment of the flood, for two seconds: its MIGRATE comes late, by TCP,
// or the agent has found out by itself.
func TestF1MigrateLost(t *testing.T) {
	s := newStage(t, fleet.Config{})
	end := s.begin(2 * size)
	s.Play(memnet.Fault{Host: "p1", Peer: "client", Way: memnet.Out, Until: 2 * time.Second, Conditions: memnet.Conditions{Loss: 1}})
	s.flood("p1")
	s.comes("client", "p2", "p3", "e2")
	s.whole(end)
}

// TestF2TwoEdgesAtOnce has the current edge and the other entry send the client to different places: it obeys the first.
func TestF2TwoEdgesAtOnce(t *testing.T) {
	s := newStage(t, fleet.Config{})
	before := s.agentOf("client").Counts.Moves
	end := s.begin(size)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.order("e2", "p3") }) // it carries nobody's links, or is refused
	wg.Go(func() { _ = s.order("p1", "p2") })
	wg.Wait()
	s.comes("client", "p2")
	s.whole(end)
	if n := s.agentOf("client").Counts.Moves - before; n != 1 || s.edgeOf("client") != "p2" {
		t.Errorf("%d moves, now at %q", n, s.edgeOf("client"))
	}
}

// capture is what an eavesdropper at a machine's line has seen.
type capture struct {
	mu      sync.Mutex
	packets [][]byte
}

func (s *stage) eavesdrop(host string) *capture {
	c := &capture{}
	s.Play(memnet.Fault{Host: host, Only: func(packet []byte) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.packets = append(c.packets, bytes.Clone(packet))
		return false
	}})
	return c
}

func (c *capture) seen() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.packets)
}

// sealed is a packet that is a sealed reply as a whole.
func sealed(packet []byte) (reply []byte, ok bool) {
	from, _, _, payload, ok := tcp(packet)
	return payload, ok && from.Port() == lab.LinkPort && len(payload) == 256 && payload[0] == 0xD5
}

// TestF4F10Eavesdropper writes down what crosses the line of a client that is moved, and of one that is sent on twice, and
// then says it all again.
func TestF4F10Eavesdropper(t *testing.T) {
	s := newStage(t, fleet.Config{Nodes: oneEntry})
	s.enter("fresh")
	try(t, s.Stop("fresh"))
	moved, told := s.eavesdrop("client"), s.eavesdrop("fresh")
	client, origin := s.joined()
	s.flood("p1")
	now := s.comes("client", "p2", "p3")
	s.says(client, origin, "moved")
	public, _ := fleet.AddressesOf(now)
	ids := [][]byte{}
	for _, name := range []string{"client"} {
		id, err := hex.DecodeString(s.agentOf(name).AgentID)
		try(t, err)
		ids = append(ids, id, []byte(s.agentOf(name).AgentID))
	}
	unnamed(t, moved.seen(), public, ids)

	var replies [][]byte
	for range 2 {
		try(t, s.StartAgent("fresh", "warm"))
		s.comes("fresh", "p2", "p3")
		for _, p := range told.seen() {
			if r, ok := sealed(p); ok && !slices.ContainsFunc(replies, func(o []byte) bool { return bytes.Equal(o, r) }) {
				replies = append(replies, r)
			}
		}
		try(t, s.Forget(t.Context(), "fresh"))
		try(t, s.Stop("fresh"))
	}
	if len(replies) < 2 {
		t.Fatalf("%d TRANSFERs were seen", len(replies))
	}
	for i, a := range replies {
		for _, b := range replies[:i] {
			if !bytes.Equal(a[:2], b[:2]) {
				t.Errorf("their headers differ: %x and %x", a[:2], b[:2])
			}
			for at := 2; at+4 <= len(a); at++ {
				if bytes.Equal(a[at:at+4], b[at:at+4]) {
					t.Errorf("two TRANSFERs are the same from byte %d on: %x", at, a[at:at+4])
				}
			}
		}
	}

	before := s.agentOf("client")
	for _, p := range moved.seen() { // F4: to both ends, from somebody on the way
		if from, _, _, _, ok := tcp(p); ok && from.Addr() == lab.P1.V4 {
			s.Network().Host("p1").Interface(lab.Uplink).Send(p)
		} else if ok && from.Addr() == lab.Client.V4 {
			s.Network().Host("client").Interface(lab.Uplink).Send(p)
		}
	}
	s.says(client, origin, "after what was said again")
	if after := s.agentOf("client"); after.Counts.Moves != before.Counts.Moves || s.edgeOf("client") != now {
		t.Errorf("what was said again moved it: %+v, at %q", after.Counts, s.edgeOf("client"))
	}
}

// unnamed fails the test if packets give away an agent, or the next proxy before the client itself spoke to it.
func unnamed(t *testing.T, packets [][]byte, next []netip.Addr, ids [][]byte) {
	t.Helper()
	spoke := false
	for i, p := range packets {
		for _, id := range ids {
			if bytes.Contains(p, id) {
				t.Errorf("packet %d names the agent: %x", i, p)
			}
		}
		for _, a := range next {
			if proto, _ := transport(p); proto == 0 {
				continue
			}
			var dst []byte
			if p[0]>>4 == 4 {
				dst = p[16:20]
			} else {
				dst = p[24:40]
			}
			spoke = spoke || bytes.Equal(dst, a.AsSlice())
			if !spoke && (bytes.Contains(p, a.AsSlice()) || bytes.Contains(p, []byte(a.String()))) {
				t.Errorf("packet %d of %d names the next proxy before the client spoke to it: %x", i, len(packets), p)
			}
		}
	}
	if !spoke {
		t.Error("the client never spoke to its next proxy")
	}
}

// TestF11TransferSegmentLost loses the first three sealed replies: the preamble that comes again gets the same one.
func TestF11TransferSegmentLost(t *testing.T) {
	s := newStage(t, fleet.Config{Nodes: oneEntry})
	s.enter("fresh")
	try(t, s.Stop("fresh"))
	var mu sync.Mutex
	replies := map[netip.AddrPort][][]byte{} // by the client's end: one attempt
	n := 0
	s.Play(memnet.Fault{Host: "fresh", Way: memnet.In, Conditions: memnet.Conditions{Cut: true}, Only: func(packet []byte) bool {
		r, ok := sealed(packet)
		if !ok {
			return false
		}
		_, to, _, _, _ := tcp(packet)
		mu.Lock()
		defer mu.Unlock()
		replies[to] = append(replies[to], bytes.Clone(r))
		n++
		return n <= 3
	}})
	s.flood("p1")
	try(t, s.StartAgent("fresh", "warm"))
	s.comes("fresh", "p2", "p3")
	mu.Lock()
	defer mu.Unlock()
	again := false
	for at, same := range replies {
		for _, r := range same[1:] {
			again = true
			if !bytes.Equal(r, same[0]) {
				t.Errorf("%v got another reply to the same preamble", at)
			}
		}
	}
	if !again {
		t.Errorf("no reply came again; %d in all", n)
	}
}

// TestF12NeitherAnswer has a P1 that answers nothing at all: the other entry is asked soon, and no application waits long.
func TestF12NeitherAnswer(t *testing.T) {
	s := newStage(t, fleet.Config{})
	s.enter("fresh")
	try(t, s.Stop("fresh"))
	s.cut("p1", "fresh", memnet.Both)
	begin := time.Now()
	try(t, s.StartAgent("fresh", "warm"))
	s.comes("fresh", "e2")
	if took := time.Since(begin); took > 3*time.Second+busy {
		t.Errorf("it took %v", took)
	}
	at, _ := lab.P1.Port(lab.WebPort)
	if f := scenario.Fetch(t.Context(), s, "fresh", at, "/file", fleet.FetchLimit); !f.OK() || f.Connect > time.Second+busy {
		t.Errorf("a download through it: %+v", f)
	}
}

// TestF61AdmittedAgentIsSentOn has an agent come back that P1 still admits, while P1 defends: the listener answers it like
// the SYN Checker, and with no reset.
func TestF61AdmittedAgentIsSentOn(t *testing.T) {
	s := newStage(t, fleet.Config{Nodes: oneEntry})
	s.enter("fresh")
	s.flood("p1") // its links live: its address is admitted
	s.comes("fresh", "p2", "p3")
	try(t, s.Forget(t.Context(), "fresh"))
	heard := s.eavesdrop("fresh")
	s.until("it is sent on again", func() (bool, string) {
		now := s.edgeOf("fresh")
		return now == "p2" || now == "p3", "it is at " + now
	})
	replies, made := 0, map[netip.AddrPort]bool{} // links of this time by the client's end
	for _, p := range heard.seen() {
		from, to, _, _, ok := tcp(p)
		_, seg := transport(p)
		switch {
		case !ok:
		case seg[13]&(flagSYN|flagACK) == flagSYN:
			made[from] = true
		case from.Addr() == lab.P1.V4 && seg[13]&flagRST != 0 && made[to]:
			t.Errorf("P1 sent a reset: %x", p)
		}
		if _, ok := sealed(p); ok {
			replies++
		}
	}
	if st := s.agentOf("fresh"); st.Counts.Transfers == 0 {
		t.Errorf("no TRANSFER: %+v, %d sealed replies", st.Counts, replies)
	}
}
