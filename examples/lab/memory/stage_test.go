package memory

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"migrationsensor/agent"
	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/netstack"
	"migrationsensor/netstack/memnet"
	"migrationsensor/proxyd"
)

// The scenarios of faults: each has a world of its own, with a client that is connected by way of P1 and that has a second
// entry. What the client speaks with at the origin is the test itself.

const (
	wordPort   = 84
	originWord = 9000

	rate   = 16e6             // bits per second of a client's line: long enough for something to happen in the middle
	enough = 40 * time.Second // for what needs no time by itself, or as much as a timer of the protocol
)

// size is what a transfer moves each way, busy is grace for a machine that does other things beside.
var size, busy = int64(4 << 20), 4 * time.Second

func init() {
	if racing { // bytes cost ten times as much
		size, busy = 1<<20, 15*time.Second
	}
}

// oneEntry is a fleet whose clients know P1 only.
var oneEntry = []fleet.Node{
	{Name: "p1", Kind: fleet.Entry}, {Name: "p2", Kind: fleet.Hidden}, {Name: "p3", Kind: fleet.Hidden}, {Name: "a1", Kind: fleet.Anchor},
}

// stage is a world as a scenario of a fault begins.
type stage struct {
	*World
	t    *testing.T
	word net.Listener
}

// newStage makes one with a client, with the nodes of c.
func newStage(t *testing.T, c fleet.Config) *stage {
	t.Helper()
	t.Parallel()
	c.Services = append(fleet.DefaultServices(), fleet.Service{Name: "word", Port: wordPort, Origin: originWord})
	c.LinkRate = cmp.Or(c.LinkRate, rate)
	s := &stage{World: newWorld(t, c), t: t}
	at, _ := lab.BackOrigin.Port(lab.OriginTransfer)
	transfers := s.listen(at)
	var served sync.WaitGroup
	served.Go(func() { app.ServeTransfers(transfers) })
	t.Cleanup(func() {
		transfers.Close()
		served.Wait()
	})
	at, _ = lab.BackOrigin.Port(originWord)
	s.word = s.listen(at)
	s.enter("client")
	return s
}

func (s *stage) listen(at netip.AddrPort) net.Listener {
	s.t.Helper()
	l, err := s.Network().Host("origin").Listen(at)
	try(s.t, err)
	s.t.Cleanup(func() { l.Close() })
	return l
}

// enter starts an agent and waits until it has all that it wants to have.
func (s *stage) enter(name string) {
	s.t.Helper()
	try(s.t, s.StartAgent(name, "warm"))
	try(s.t, s.WaitForAgent(s.t.Context(), name, enough))
	entries := 0
	for _, n := range s.Nodes() {
		if n.Kind == fleet.Entry {
			entries++
		}
	}
	s.until(name+" has its warm links", func() (bool, string) {
		st := s.agentOf(name)
		return (entries < 2 || st.Second != nil) && len(st.Sessions) > 0 && st.Sessions[0].Links > 0, fmt.Sprintf("%+v", st.Sessions)
	})
	s.lead(name, "p1") // it may have been quicker at E2
}

// until waits for something; what it is instead is told if it does not come.
func (s *stage) until(what string, ok func() (bool, string)) {
	s.t.Helper()
	try(s.t, s.Wait(s.t.Context(), enough, what, func() (bool, error) {
		yes, instead := ok()
		return yes, errors.New(instead)
	}))
}

// agentOf is all of an agent's status.
func (s *stage) agentOf(name string) (st agent.Status) {
	s.t.Helper()
	try(s.t, s.status(s.t.Context(), name, &st))
	return st
}

// proxyOf is all of a node's status.
func (s *stage) proxyOf(name string) (st proxyd.Status) {
	s.t.Helper()
	try(s.t, s.status(s.t.Context(), name, &st))
	return st
}

// edgeOf is where an agent is; empty: nowhere.
func (s *stage) edgeOf(name string) string {
	s.t.Helper()
	st := s.agentOf(name)
	if st.Edge == nil || st.State != "connected" {
		return ""
	}
	return fleet.NameOf(st.Edge.Addr)
}

// comes waits until an agent is at one of these edges, and says which.
func (s *stage) comes(name string, edges ...string) (now string) {
	s.t.Helper()
	s.until(fmt.Sprintf("%s comes to one of %v", name, edges), func() (bool, string) {
		now = s.edgeOf(name)
		if slices.Contains(edges, now) {
			return true, ""
		}
		st := s.agentOf(name)
		return false, fmt.Sprintf("it is %q (%s) at %q", st.State, st.Why, now)
	})
	return now
}

// order is `proxyd migrate`: an edge sends its agents on, in a planned move. It watches them go for a moment.
func (s *stage) order(from, to string) error {
	req := proxyd.MoveRequest{All: true, To: to, Wait: proxyd.Duration{Duration: 3 * time.Second}}
	_, err := proxyd.ControlMove(s.t.Context(), s.paths(from).Socket, req, func(proxyd.MoveProgress) {})
	return err
}

// lead brings an agent to an edge by planned moves.
func (s *stage) lead(name, to string) {
	s.t.Helper()
	try(s.t, s.Wait(s.t.Context(), enough, name+" comes to "+to, func() (bool, error) {
		now := s.edgeOf(name)
		if now == "" || now == to {
			return now == to, errors.New("it is not connected")
		}
		return false, errors.Join(fmt.Errorf("it is at %s", now), s.order(now, to))
	}))
}

// flood attacks an edge until the end of the test or stop.
func (s *stage) flood(edge string) (stop func()) {
	s.t.Helper()
	public, _ := fleet.AddressesOf(edge)
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Attack(ctx, fleet.Attack{
			Kind: flood.SYN, Rate: 2000, Time: 2 * time.Minute, Target: netip.AddrPortFrom(public[0], lab.LinkPort),
		})
		done <- err
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("the flood of %s: %v", edge, err)
		}
	})
	s.t.Cleanup(stop)
	s.until(edge+" defends itself", func() (bool, string) {
		st := s.proxyOf(edge)
		return st.State == proxyd.Defending || st.State == proxyd.Suspended, fmt.Sprintf("it is %q at %v", st.State, st.Rates)
	})
	return stop
}

// dial connects an application of the client's to a service at P1.
func (s *stage) dial(port uint16) netstack.Conn {
	s.t.Helper()
	at, _ := lab.P1.Port(port)
	ctx, cancel := context.WithTimeout(s.t.Context(), enough)
	defer cancel()
	c, err := s.Dial(ctx, "client", at)
	try(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	try(s.t, c.SetDeadline(time.Now().Add(90*time.Second)))
	return c.(netstack.Conn)
}

// joined is a connection of the client's, and the origin's side of it.
func (s *stage) joined() (client, origin netstack.Conn) {
	s.t.Helper()
	client = s.dial(wordPort)
	o, err := s.word.Accept()
	try(s.t, err)
	s.t.Cleanup(func() { o.Close() })
	try(s.t, o.SetDeadline(time.Now().Add(time.Minute)))
	return client, o.(netstack.Conn)
}

// says has one end say something to the other.
func (s *stage) says(from, to net.Conn, what string) {
	s.t.Helper()
	_, err := io.WriteString(from, what)
	try(s.t, err)
	b := make([]byte, len(what))
	if _, err := io.ReadFull(to, b); err != nil || string(b) != what {
		s.t.Fatalf("heard %q, %v, want %q", b, err, what)
	}
}

// ended is how a transfer ended.
type ended struct {
	app.Transferred
	err error
}

// begin starts a transfer both ways, and returns when a third of it is done.
func (s *stage) begin(size int64) <-chan ended {
	s.t.Helper()
	c := s.dial(lab.TransferPort)
	var p app.Progress
	end := make(chan ended, 1)
	go func() {
		r, err := app.Transfer(s.t.Context(), c, size, s.Seed(), &p)
		end <- ended{r, err}
	}()
	s.until("a third is done", func() (bool, string) { return p.Bytes() >= 2*size/3, fmt.Sprintf("%d bytes", p.Bytes()) })
	if len(end) > 0 {
		s.t.Fatal("the transfer is over before anything happened")
	}
	return end
}

// whole fails the test unless every byte arrives.
func (s *stage) whole(end <-chan ended) app.Transferred {
	s.t.Helper()
	var r ended
	select {
	case r = <-end:
	case <-time.After(time.Minute):
		s.t.Fatalf("the transfer does not end; the agent: %+v\n%s", s.agentOf("client"), s.Describe())
	}
	if r.err != nil || r.Lost != 0 || r.Wrong != "" {
		s.t.Fatalf("%v: %d bytes lost, digests %q; the agent: %v", r.err, r.Lost, r.Wrong, s.agentOf("client").Events)
	}
	s.t.Logf("%d KiB each way in %v, longest wait %v", r.Size>>10, r.Took.Round(time.Millisecond), r.Longest.Round(time.Millisecond))
	return r.Transferred
}

// during lets something happen in the middle of a transfer both ways.
func (s *stage) during(happen func()) app.Transferred {
	s.t.Helper()
	end := s.begin(size)
	happen()
	return s.whole(end)
}

// within fails the test if a wait was longer than a fault allows.
func (s *stage) within(r app.Transferred, limit time.Duration) {
	s.t.Helper()
	if r.Longest > limit+busy {
		s.t.Errorf("the longest wait is %v, want at most %v (and %v of grace)", r.Longest, limit, busy)
	}
}

// cut makes everything vanish between a host and another, for the rest of the test or until stop.
func (s *stage) cut(host, peer string, way memnet.Way) (stop func()) {
	return s.Play(memnet.Fault{Host: host, Peer: peer, Way: way, Conditions: memnet.Conditions{Cut: true}})
}

// try fails the test on an error.
func try(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tcp takes a packet's addresses and what it carries apart; false: it is no TCP.
func tcp(packet []byte) (src, dst netip.AddrPort, seq uint32, payload []byte, ok bool) {
	proto, seg := transport(packet)
	if proto != protoTCP || len(seg) < 20 || len(seg) < int(seg[12]>>4)*4 {
		return
	}
	var from, to netip.Addr
	if packet[0]>>4 == 4 {
		from, to = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
	} else {
		from, to = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
	}
	src = netip.AddrPortFrom(from, binary.BigEndian.Uint16(seg))
	dst = netip.AddrPortFrom(to, binary.BigEndian.Uint16(seg[2:]))
	return src, dst, binary.BigEndian.Uint32(seg[4:]), seg[int(seg[12]>>4)*4:], true
}
