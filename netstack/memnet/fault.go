package memnet

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Way is the direction of packets, as the host sees it that a fault is about.
type Way string

// The ways.
const (
	Both Way = ""
	Out  Way = "out" // from the host
	In   Way = "in"  // to the host
)

// Fault is what is wrong for a time: conditions that come on top of the links' own.
type Fault struct {
	From    time.Duration `json:"from,omitempty"`    // since Play
	Until   time.Duration `json:"until,omitempty"`   // since Play; 0: for good
	Host    string        `json:"host"`              // whose packets
	Peer    string        `json:"peer,omitempty"`    // only those to or from this host; empty: everybody's
	Segment string        `json:"segment,omitempty"` // only those on this segment; empty: on every one
	Way     Way           `json:"way,omitempty"`
	Conditions

	// Only chooses packets, by all their bytes from the IP header on; nil: every one. It is called for each packet that
	// the rest is about, by whoever sends it and from several goroutines at once; it must neither block nor keep the bytes.
	Only func(packet []byte) bool `json:"-"`
}

// String is the fault as a person reads it in a failed test.
func (f Fault) String() string {
	peer, way, until := f.Peer, "to and from", "for good"
	switch f.Way {
	case Out:
		way = "out to"
	case In:
		way = "in from"
	}
	if peer == "" {
		peer = "everybody"
	}
	if f.Until > 0 {
		until = "until " + f.Until.String()
	}
	c, _ := json.Marshal(f.Conditions) // numbers and words always marshal
	return fmt.Sprintf("from %v %s: %s %s %s %s", f.From, until, f.Host, way, peer, c)
}

// playing is a fault in the time of the network.
type playing struct {
	Fault
	start time.Time
	lanes [2]*lane // out and in
}

// Play adds faults whose times count from now, and returns what takes them away again.
func (n *Network) Play(faults ...Fault) (stop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	var added []*playing
	old := *n.faults.Load()
	all := append(make([]*playing, 0, len(old)+len(faults)), old...)
	for _, f := range faults {
		n.streams += 2
		p := &playing{Fault: f, start: now}
		p.lanes = [2]*lane{newLane(f.Conditions, n.cfg.Seed, n.streams), newLane(f.Conditions, n.cfg.Seed, n.streams+1)}
		all, added = append(all, p), append(added, p)
	}
	n.faults.Store(&all)
	return func() { n.remove(added) }
}

func (n *Network) remove(gone []*playing) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var left []*playing
	for _, p := range *n.faults.Load() {
		stays := true
		for _, g := range gone {
			stays = stays && p != g
		}
		if stays {
			left = append(left, p)
		}
	}
	n.faults.Store(&left)
}

// lane is the fault's for a packet from one interface to another; nil: none of its business.
func (p *playing) lane(from, to *Interface, pkt *stack.PacketBuffer, now time.Time) *lane {
	since := now.Sub(p.start)
	if since < p.From || p.Until > 0 && since >= p.Until || p.Segment != "" && p.Segment != from.segment {
		return nil
	}
	is := func(i *Interface, name string) bool { return i != nil && i.host.Name == name }
	switch {
	case p.Way != In && is(from, p.Host) && (p.Peer == "" || is(to, p.Peer)):
		return p.chosen(pkt, p.lanes[0])
	case p.Way != Out && is(to, p.Host) && (p.Peer == "" || is(from, p.Peer)):
		return p.chosen(pkt, p.lanes[1])
	}
	return nil
}

func (p *playing) chosen(pkt *stack.PacketBuffer, l *lane) *lane {
	if p.Only != nil && !p.Only(slices.Concat(pkt.AsSlices()...)) {
		return nil
	}
	return l
}
