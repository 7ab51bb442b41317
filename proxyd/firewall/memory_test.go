package firewall

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// headOf is the first bytes of a packet.
func headOf(proto byte, src, dst netip.AddrPort, flags byte) []byte {
	var b []byte
	if src.Addr().Is4() {
		b = make([]byte, 20)
		b[0], b[9] = 0x45, proto
		copy(b[12:], src.Addr().AsSlice())
		copy(b[16:], dst.Addr().AsSlice())
	} else {
		b = make([]byte, 40)
		b[0], b[6] = 0x60, proto
		copy(b[8:], src.Addr().AsSlice())
		copy(b[24:], dst.Addr().AsSlice())
	}
	segment := make([]byte, 20)
	binary.BigEndian.PutUint16(segment, src.Port())
	binary.BigEndian.PutUint16(segment[2:], dst.Port())
	segment[13] = flags
	return append(b, segment...)
}

// TestMemoryDecidesAsTheDocumentationSays is the table of the package's documentation, in both families.
func TestMemoryDecidesAsTheDocumentationSays(t *testing.T) {
	type family struct{ ours, peer, live, admitted, stranger string }
	for name, a := range map[string]family{
		"IPv4": {"198.18.72.11", "198.18.80.12", "198.18.1.1", "198.18.2.1", "198.19.1.1"},
		"IPv6": {"2001:2:0:72::11", "2001:2:0:80::12", "2001:2:0:1::1", "2001:2:0:2::1", "2001:2:0:8000::1"},
	} {
		t.Run(name, func(t *testing.T) { memoryTable(t, a.ours, a.peer, a.live, a.admitted, a.stranger) })
	}
}

func memoryTable(t *testing.T, ours, peer, live, admitted, stranger string) {
	const link, drop, admit = 7443, 80, 81
	at := func(a string, port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(a), port) }
	us := netip.MustParseAddr(ours)
	for _, state := range []string{"entry, active", "entry, defending", "hidden, standby"} {
		f, m, err := NewMemory(Config{
			Interfaces: []string{"eth0"}, Addrs: []netip.Addr{us}, LinkPort: link,
			Services: []netip.AddrPort{at(ours, drop), at(ours, admit)},
			Plain:    func(s netip.AddrPort) Plain { return map[uint16]Plain{admit: PlainAdmit}[s.Port()] },
			Hidden:   state == "hidden, standby",
			Allow:    []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(peer), us.BitLen())},
		})
		if err != nil {
			t.Fatal(err)
		}
		stranger80 := headOf(protoTCP, at(stranger, 1000), at(ours, drop), tcpSYN)
		if !m.In(stranger80) {
			t.Error("drops before Open")
		}
		undo, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Admit(netip.MustParseAddr(admitted), time.Minute); err != nil {
			t.Fatal(err)
		}
		if state == "entry, defending" {
			if err := f.Defend([]Flow{{Src: at(live, 1000), Dst: at(ours, drop)}}); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			what     string
			head     []byte
			act, def bool // at an entry
			dark     bool // at a hidden edge
		}{
			{"knock", headOf(protoUDP, at(stranger, 1000), at(ours, link), 0), false, false, false},
			{"stranger's SYN to the link port", headOf(protoTCP, at(stranger, 1000), at(ours, link), tcpSYN), true, false, false},
			{"admitted SYN to the link port", headOf(protoTCP, at(admitted, 1000), at(ours, link), tcpSYN), true, true, true},
			{"admitted SYN to a service", headOf(protoTCP, at(admitted, 1000), at(ours, drop), tcpSYN), true, false, false},
			{"stranger's SYN to a service that drops", stranger80, true, false, false},
			{"stranger's SYN to a service that admits", headOf(protoTCP, at(stranger, 1000), at(ours, admit), tcpSYN), true, true, false},
			{"live flow", headOf(protoTCP, at(live, 1000), at(ours, drop), tcpACK), true, true, false},
			{"another port of the live flow's address", headOf(protoTCP, at(live, 1001), at(ours, drop), tcpACK), true, false, false},
			{"peer", headOf(protoTCP, at(peer, 1000), at(ours, link), tcpSYN), true, true, true},
			{"another port", headOf(protoTCP, at(stranger, 1000), at(ours, 9), tcpSYN), true, true, false},
			{"ping", headOf(protoICMP, at(stranger, 0x0800), at(ours, 0), 0), true, true, false},
		} {
			want := map[string]bool{"entry, active": c.act, "entry, defending": c.def, "hidden, standby": c.dark}[state]
			if got := m.In(c.head); got != want {
				t.Errorf("%s: %s: let in %v, want %v", state, c.what, got, want)
			}
		}
		if err := undo(); err != nil {
			t.Fatal(err)
		}
		if !m.In(stranger80) {
			t.Errorf("%s: drops after the undo", state)
		}
	}
}

func TestMemoryLetsInWhatAHiddenEdgeAskedFor(t *testing.T) {
	f, m, undo := darkMemory(t)
	us, server := netip.MustParseAddrPort("198.18.72.93:4000"), netip.MustParseAddrPort("198.18.10.1:80")
	answer := headOf(protoTCP, server, us, tcpSYN|tcpACK)
	if m.In(answer) {
		t.Error("an answer to nothing is let in")
	}
	m.Out(headOf(protoTCP, us, server, tcpSYN))
	if !m.In(answer) {
		t.Error("the answer to its own SYN is dropped")
	}
	link := netip.AddrPortFrom(us.Addr(), 7443)
	m.Out(headOf(protoTCP, link, server, tcpSYN|tcpACK)) // as the link port would answer
	if m.In(headOf(protoTCP, server, link, tcpACK)) {
		t.Error("who was answered on the link port is let in for good")
	}
	s, err := f.Stats()
	if err != nil || s.Own != 1 || s.Dropped != 2 {
		t.Errorf("counted %+v, %v", s, err)
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
}

func TestMemoryStaysWhenItsProcessWasKilled(t *testing.T) {
	_, m, undo := darkMemory(t)
	m.Keep()
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if m.In(headOf(protoTCP, netip.MustParseAddrPort("198.19.1.1:1"), netip.MustParseAddrPort("198.18.72.93:7443"), tcpSYN)) {
		t.Error("a killed edge is not dark any more")
	}
}

func darkMemory(t *testing.T) (*Firewall, *Memory, func() error) {
	t.Helper()
	f, m, err := NewMemory(Config{
		Interfaces: []string{"eth0"}, Addrs: []netip.Addr{netip.MustParseAddr("198.18.72.93")}, LinkPort: 7443, Hidden: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	undo, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	return f, m, undo
}
