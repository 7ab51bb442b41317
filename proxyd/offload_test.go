package proxyd

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"migrationsensor/detect"
	"migrationsensor/proxyd/firewall"
	"migrationsensor/proxyd/synchecker"
)

// program is a port with a packet program that notes what it is told, in order.
type program struct {
	*vanishing
	told  []string
	gate  synchecker.Gate
	admit []synchecker.Admission
	count synchecker.Packets
	err   error
}

func (p *program) Arm(m synchecker.Mode) error {
	p.told = append(p.told, m.String())
	return p.vanishing.Arm(m)
}
func (p *program) Offloads() bool                 { return true }
func (p *program) Program(synchecker.Rules) error { p.told = append(p.told, "rules"); return p.err }
func (p *program) Gate(g synchecker.Gate) error {
	p.told, p.gate = append(p.told, "gate"), g
	return p.err
}
func (p *program) Admit(a []synchecker.Admission, _ []netip.Addr) error {
	p.told, p.admit = append(p.told, "admit"), append(p.admit, a...)
	return p.err
}
func (p *program) Strangers() (map[netip.Prefix]uint64, error) { return nil, p.err }
func (p *program) Counts() (synchecker.Packets, error)         { return p.count, p.err }
func (p *program) Stats() (synchecker.Stats, error) {
	return synchecker.Stats{SYNAnswered: p.count.SYN}, p.err
}

// TestPacketProgramIsToldAgain: the program at the next interface knows rules, doors and who is admitted before it judges its first
// packet; what the one before did is not forgotten.
func TestPacketProgramIsToldAgain(t *testing.T) {
	first := &program{vanishing: newVanishing(), count: synchecker.Packets{All: 10, SYN: 7, UDP: 3}}
	plain := newVanishing()
	second := &program{vanishing: newVanishing(), count: synchecker.Packets{All: 1, ICMP: 1}}
	ports := map[string]synchecker.Port{"eth0": first, "eth1": plain, "eth2": second}
	p, err := newMovingPort("eth0", func(name string) (synchecker.Port, synchecker.Taken, error) {
		return ports[name], synchecker.Taken{Path: synchecker.Path(name)}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for buf, err := make([]synchecker.Frame, 1), error(nil); err == nil; {
			_, err = p.Read(buf)
		}
	}()
	guest := synchecker.Admission{Addr: netip.MustParseAddr("198.18.0.9"), Until: time.Now().Add(time.Minute)}
	p.doors = func() []synchecker.Admission { return []synchecker.Admission{guest} }
	late := synchecker.Admission{Addr: netip.MustParseAddr("198.18.0.10"), Until: guest.Until} // the firewall does not have it yet
	gate := synchecker.Gate{Allow: []netip.Prefix{netip.MustParsePrefix("198.18.1.0/24")}}
	if err := errors.Join(p.Program(synchecker.Rules{}), p.Gate(gate), p.Admit([]synchecker.Admission{guest}, nil), p.Arm(synchecker.Defend)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"eth1", "eth2"} {
		if err := p.move(name); err != nil {
			t.Fatal(err)
		}
		if got := p.Taken().Path; got != synchecker.Path(name) {
			t.Errorf("at %s the path is %s", name, got)
		}
		if name == "eth1" {
			err = p.Admit([]synchecker.Admission{late}, nil)
		} else {
			err = p.Admit(nil, nil)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if want := []string{"rules", "gate", "admit", "defend", "admit"}; !slices.Equal(second.told, want) {
		t.Errorf("the next program was told %v, want %v", second.told, want)
	}
	if !slices.Equal(second.gate.Allow, gate.Allow) || !slices.Equal(second.admit, []synchecker.Admission{guest, guest, late}) {
		t.Errorf("the next program lets in %+v and %+v", second.gate, second.admit)
	}
	e := &edge{port: p, counter: &counter{began: time.Now()}}
	c, err := e.count()
	if want := (detect.Counts{detect.All: 11, detect.SYN: 7, detect.UDP: 3, detect.ICMP: 1}); err != nil || c != want {
		t.Errorf("counted %v, %v; want %v", c, err, want)
	}
	if s, err := p.Stats(); err != nil || s.SYNAnswered != 7 {
		t.Errorf("%d SYNs answered, %v; want the 7 of before", s.SYNAnswered, err)
	}
	second.err = errors.New("map is full")
	if p.Admit(nil, nil) == nil || p.Gate(gate) == nil || p.Program(synchecker.Rules{}) == nil {
		t.Error("a program that refuses was not heard")
	}
	if _, err := e.count(); err == nil {
		t.Error("a program that counts no more was not heard")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Gate(gate); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestLostProgramIsStillCounted: what a program handled before its interface went is not taken back, or the detector would take
// all that ever came for the packets of one step.
func TestLostProgramIsStillCounted(t *testing.T) {
	first := &program{vanishing: newVanishing(), count: synchecker.Packets{All: 10, SYN: 7}}
	second := &program{vanishing: newVanishing(), count: synchecker.Packets{All: 1, SYN: 1}}
	ports := []synchecker.Port{first, second}
	p, err := newMovingPort("eth0", func(string) (synchecker.Port, synchecker.Taken, error) {
		next := ports[0]
		ports = ports[1:]
		return next, synchecker.Taken{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	first.end <- errNoDevice
	go func() {
		for buf, err := make([]synchecker.Frame, 1), error(nil); err == nil; {
			_, err = p.Read(buf)
		}
	}()
	<-p.lost
	want := func(when string, all, syn uint64) {
		t.Helper()
		s, failed := p.Stats()
		if n, err := p.Counts(); err != nil || failed != nil || n.All != all || n.SYN != syn || s.SYNAnswered != syn {
			t.Errorf("%s: %+v, %d answered, %v, %v; want %d of them, %d SYNs", when, n, s.SYNAnswered, err, failed, all, syn)
		}
	}
	want("the interface is gone", 10, 7)
	if err := p.move("eth0"); err != nil {
		t.Fatal(err)
	}
	want("it is back", 11, 8)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	want("closed", 11, 8)
}

// occupant is a port that nobody reads, with the one place there is at its interface.
type occupant struct {
	*vanishing
	closed bool
}

func (p *occupant) Close() error { p.closed = true; return nil }

// TestOldPortMakesRoom: an interface takes one packet program, and may be the same under another name.
func TestOldPortMakesRoom(t *testing.T) {
	var old *occupant
	p, err := newMovingPort("eth0", func(name string) (synchecker.Port, synchecker.Taken, error) {
		if old != nil && !old.closed {
			t.Errorf("the port at %s is opened beside the old one", name)
		}
		old = &occupant{vanishing: newVanishing()}
		return old, synchecker.Taken{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"eth1", "eth2"} { // the second before anybody reads
		if err := p.move(name); err != nil {
			t.Fatal(err)
		}
	}
	if p.Close(); !old.closed {
		t.Error("the last port was left open")
	}
}

func TestGateIsTheFirewalls(t *testing.T) {
	at := func(port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("198.18.0.10"), port)
	}
	plain := map[netip.AddrPort]string{at(1): PlainDrop, at(2): PlainCookie, at(3): PlainAdmit, at(4): "", at(5): "what a later version knows"}
	cfg := firewall.Config{Plain: func(a netip.AddrPort) firewall.Plain { return plainOf(plain[a]) }}
	for a := range plain {
		cfg.Services = append(cfg.Services, a)
	}
	want := map[uint16]synchecker.Plain{1: synchecker.PlainDrop, 2: synchecker.PlainCookie, 3: synchecker.PlainAdmit, 4: synchecker.PlainDrop, 5: synchecker.PlainDrop}
	for a, got := range gateOf(cfg).Services {
		if got != want[a.Port()] {
			t.Errorf("plain = %q: %v, want %v", plain[a], got, want[a.Port()])
		}
	}
}
