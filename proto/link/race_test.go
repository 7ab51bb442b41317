package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"migrationsensor/proto"
)

var (
	at4 = netip.MustParseAddrPort("198.18.0.1:7443")
	at6 = netip.MustParseAddrPort("[2001:2::1]:7443")
)

// plan writes steps down: k and p are keyed and ordinary SYNs, with the IP version and the time in quarters of a second.
func plan(steps []step) string {
	var out []string
	for _, s := range steps {
		kind, version := "p", 6
		if s.keyed {
			kind = "k"
		}
		if s.at.Addr().Is4() {
			version = 4
		}
		out = append(out, fmt.Sprintf("%s%d@%d", kind, version, s.after/minRedial))
	}
	return strings.Join(out, " ")
}

func TestSteps(t *testing.T) {
	one := proto.Target{Addr4: at4.Addr(), Port: at4.Port()}
	two := proto.Target{Addr4: at4.Addr(), Addr6: at6.Addr(), Port: at4.Port()}
	for _, row := range []struct {
		name               string
		t                  proto.Target
		told, keyed, eaten bool
		want               string
	}{
		{"Linux", one, false, true, false, "k4@0 k4@1 p4@1 k4@2 k4@4"},
		{"Linux, both versions", two, false, true, false, "k4@0 k6@1 p4@1 k4@2 p6@2 k6@4"},
		{"network that eats them", one, false, true, true, "p4@0 k4@1 k4@2 k4@3 k4@5"},
		{"network that eats them, both versions", two, false, true, true, "p4@0 k4@1 p6@1 k6@2 k4@3 k6@5"},
		{"other systems", one, false, false, false, "p4@0 p4@2 p4@4"},
		{"other systems, both versions", two, false, false, false, "p4@0 p6@1 p4@2 p6@4"},
		{"told, Linux", one, true, true, false, "k4@0 p4@1 k4@3"},
		{"told, network that eats them", one, true, true, true, "p4@0 k4@1 p4@3"},
		{"told, other systems", one, true, false, false, "p4@0 p4@1 p4@3"},
		{"told, both versions", two, true, true, false, "k4@0 p4@1 k6@1 k4@3 p6@3"},
	} {
		if got := plan((&Dialer{}).steps(attempt{t: row.t, told: row.told}, row.keyed, row.eaten)); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
	far := &Dialer{SRTT: func() time.Duration { return 600 * time.Millisecond }}
	if got := far.steps(attempt{t: one}, true, false)[1].after; got != 900*time.Millisecond {
		t.Errorf("a proxy 600 ms away is dialled again after %v, want 900 ms", got)
	}
}

// door is the network of a Dialer without sockets of its own: behave says what becomes of the nth dial.
type door struct {
	mu    sync.Mutex
	dials []string
}

func (d *door) dial(to netip.AddrPort, behave func(n int, addr string) string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		d.mu.Lock()
		d.dials = append(d.dials, addr)
		n := len(d.dials)
		d.mu.Unlock()
		switch behave(n, addr) {
		case "silent":
			<-ctx.Done()
			return nil, ctx.Err()
		case "refused":
			return nil, errors.New("connection refused")
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	}
}

func TestFamilies(t *testing.T) {
	f := newFleet(t, "lab")
	n := f.node(nil)
	creds, id := f.agent()
	tgt := n.target(id)
	tgt.Addr4, tgt.Addr6, tgt.Port = at4.Addr(), at6.Addr(), at4.Port()
	for _, c := range []struct {
		name, dead, how, want string
		least, most           time.Duration
	}{
		{"IPv4 refused at once: IPv6 without waiting", at4.String(), "refused", at6.String(), 0, 2 * minRedial},
		{"IPv4 silent: IPv6 a little later", at4.String(), "silent", at6.String(), minRedial, 10 * minRedial},
		{"IPv6 silent: IPv4", at6.String(), "silent", at4.String(), 0, 10 * minRedial},
	} {
		var d door
		began := time.Now()
		l, err := (&Dialer{Creds: creds, DialContext: d.dial(n.at, func(_ int, addr string) string {
			if addr == c.dead {
				return c.how
			}
			return ""
		})}).Dial(t.Context(), tgt, proto.KindControl, n.id)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		l.Close()
		if took := time.Since(began); d.dials[len(d.dials)-1] != c.want || took < c.least || took > c.most {
			t.Errorf("%s: dials %v, took %v", c.name, d.dials, took)
		}
	}
}

// TestRedialsUntilOneIsThere: lost SYNs are followed by others, a connection that is only slow is not.
func TestRedialsUntilOneIsThere(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	lossy := f.node(nil)
	var d door
	l, err := (&Dialer{Creds: creds, DialContext: d.dial(lossy.at, func(n int, _ string) string {
		return map[bool]string{true: "silent"}[n < 3]
	})}).Dial(t.Context(), lossy.target(id), proto.KindControl, lossy.id)
	if err != nil {
		t.Fatal(err)
	}
	ping(t, l)
	l.Close()
	if len(d.dials) != 3 {
		t.Errorf("%d dials, want 3: two SYNs were lost", len(d.dials))
	}
	slow := f.node(func(n *node) {
		n.Decide = func(proto.Verified, netip.AddrPort) *proto.Reply { time.Sleep(6 * minRedial); return nil }
	})
	d = door{}
	if l, err = (&Dialer{Creds: creds, DialContext: d.dial(slow.at, func(int, string) string { return "" })}).Dial(t.Context(), slow.target(id), proto.KindControl, slow.id); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if len(d.dials) != 1 {
		t.Errorf("%d dials of a proxy that is only slow, want 1", len(d.dials))
	}
}

// TestF12NoDialOutlastsItsTime: whom nothing answers, the race gives up in the time of one connect, whatever it had to do.
func TestF12NoDialOutlastsItsTime(t *testing.T) {
	for _, told := range []bool{false, true} {
		var d door
		dd := &Dialer{Knock: (&knocks{}).knock, Timeout: 3 * minRedial, DialContext: d.dial(at4, func(int, string) string { return "silent" })}
		began := time.Now()
		tgt := proto.Target{Addr4: at4.Addr(), Port: at4.Port(), Node: proto.NewNodeID()}
		_, err := dd.reach(t.Context(), tgt, errand{kind: proto.KindControl}, told)
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrSilent) || took < 3*minRedial || took > 6*minRedial {
			t.Errorf("told %v: %v after %v, want a connect's silence after %v", told, err, took, 3*minRedial)
		}
		if len(d.dials) != 2 {
			t.Errorf("told %v: %d dials, want 2", told, len(d.dials))
		}
	}
}

func TestCancelledRaceEndsAtOnce(t *testing.T) {
	var d door
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := (&Dialer{DialContext: d.dial(at4, func(int, string) string { return "silent" })}).
		Dial(ctx, proto.Target{Addr4: at4.Addr(), Port: at4.Port()}, proto.KindControl, proto.NodeID{})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > minRedial {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

func TestNetworks(t *testing.T) {
	now := time.Now()
	home, cafe := NetworkOf(netip.MustParseAddr("198.18.7.9")), NetworkOf(netip.MustParseAddr("2001:2::5%eth0"))
	if home.String() != "198.18.7.0/24" || cafe.String() != "2001:2::/64" || NetworkOf(netip.Addr{}).IsValid() {
		t.Fatalf("networks %v, %v", home, cafe)
	}
	var n Networks
	if n.note(netip.Prefix{}, true, now) || n.any() {
		t.Error("no network was noted")
	}
	if !n.note(home, true, now) || n.note(home, true, now) || !n.eats(home, now) || n.eats(cafe, now) {
		t.Error("a network that eats keyed SYNs must be news once, and be remembered")
	}
	if n.eats(home, now.Add(eatenFor)) || len(n.List(now.Add(eatenFor))) != 0 {
		t.Error("remembered for ever")
	}
	n.note(home, true, now)
	if !n.note(home, false, now) || n.eats(home, now) || n.note(home, false, now) {
		t.Error("an answer to a keyed SYN must end it")
	}
	for i := range 3 * maxNetworks {
		n.note(NetworkOf(netip.AddrFrom4([4]byte{198, 18, byte(i), 1})), true, now.Add(time.Duration(i)))
	}
	if got := n.List(now); len(got) != maxNetworks || got[0].Prefix.Addr() != netip.AddrFrom4([4]byte{198, 18, 2 * maxNetworks, 0}) {
		t.Errorf("%d networks from %v on, want the last %d", len(got), got[0].Prefix, maxNetworks)
	}
}

// TestLateDoorIsNoNetworkThatEats: a told target may open its door after the keyed SYN came, so its silence tells nothing of the
// network; an entry's does.
func TestLateDoorIsNoNetworkThatEats(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, told := range []bool{true, false} {
		var nets Networks
		mute, heard := &dial{step: step{at: at4, keyed: true}, began: time.Now().Add(-2 * minRedial)}, &dial{step: step{at: at4}}
		mute.conn.Store(&conn{c, true})
		heard.conn.Store(&conn{c, false})
		r := &race{d: &Dialer{Networks: &nets}, a: attempt{told: told}, dials: []*dial{mute, heard}}
		r.learn(result{dial: heard, heard: true})
		if ate := len(nets.List(time.Now())) > 0; ate == told {
			t.Errorf("told %v: keyed SYNs are taken for eaten: %v", told, ate)
		}
	}
}
