package netstack

import "sync/atomic"

// Stats counts since New. A packet may be larger than the device's MTU where segmentation is offloaded.
type Stats struct {
	PacketsIn, PacketsOut uint64 // PacketsIn is every packet that entered the device, whatever it was
	Ignored               uint64 // entered, but not TCP: neither delivered nor answered
	WriteErrors           uint64 // packets the device refused

	Flows                                   uint64 // handed to the handler
	Accepted, Refused, Unreachable, Dropped uint64 // verdicts
	GaveUp                                  uint64 // accepted, but the application was gone by then
	InFlightDrops, PerDestinationDrops      uint64 // SYNs over a cap, answered with silence
	InFlight, Open                          int    // now: flows without a verdict, connections

	Retransmits, ChecksumErrors uint64 // of the leg to the applications; zero on a healthy device
}

type counters struct {
	flows, accepted, refused, unreachable, dropped, gaveUp atomic.Uint64
	inFlightDrops, perDestinationDrops                     atomic.Uint64
}

// Stats returns the counts so far.
func (s *Stack) Stats() Stats {
	s.mu.Lock()
	inFlight, open := len(s.pending), len(s.conns)
	s.mu.Unlock()
	t, c := s.ip.Stats().TCP, &s.counts
	return Stats{
		PacketsIn:   s.link.in.Load(),
		PacketsOut:  s.link.out.Load(),
		Ignored:     s.link.ignored.Load(),
		WriteErrors: s.link.failed.Load(),

		Flows:               c.flows.Load(),
		Accepted:            c.accepted.Load(),
		Refused:             c.refused.Load(),
		Unreachable:         c.unreachable.Load(),
		Dropped:             c.dropped.Load(),
		GaveUp:              c.gaveUp.Load(),
		InFlightDrops:       c.inFlightDrops.Load(),
		PerDestinationDrops: c.perDestinationDrops.Load(),
		InFlight:            inFlight,
		Open:                open,

		Retransmits:    t.Retransmits.Value(),
		ChecksumErrors: t.ChecksumErrors.Value(),
	}
}
