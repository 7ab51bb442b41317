package flood

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/frame"
)

// noting is a Sender that notes from where packets come.
type noting map[netip.AddrPort]bool

func (n noting) Send(frames [][]byte) (int, error) {
	for _, f := range frames {
		v, _ := frame.Look(f)
		from, _ := netip.AddrFromSlice(v.Src)
		n[netip.AddrPortFrom(from, binary.BigEndian.Uint16(v.Segment))] = true
	}
	return len(frames), nil
}

// TestSourcesAreBounded: what tracks connections on the way has no more to remember than sources times ports.
func TestSourcesAreBounded(t *testing.T) {
	at, _ := lab.P1.Port(lab.WebPort)
	c := Config{Kind: SYN, Target: at, Sources: netip.PrefixFrom(lab.FloodSources4.Addr(), 30), Ports: 8, Rate: 20000, Time: 10 * time.Second, Count: 2000, Seed: 1}
	sources := noting{}
	if r, err := Over(t.Context(), c, sources); err != nil || r.Sent != c.Count {
		t.Fatalf("%+v, %v", r, err)
	}
	if len(sources) != 4*8 {
		t.Errorf("%d pairs of address and port, want all 32 of 4 addresses and 8 ports, and no other", len(sources))
	}
	for _, ports := range []int{-1, allPorts + 1} {
		c.Ports = ports
		if err := c.Check(); !errors.Is(err, ErrRefused) {
			t.Errorf("%d ports: %v, want ErrRefused", ports, err)
		}
	}
}
