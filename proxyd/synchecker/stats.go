package synchecker

import (
	"reflect"
	"sync/atomic"
)

// Stats counts frames by what became of them, since New.
type Stats struct {
	Frames        uint64 // read from the port
	Malformed     uint64 // not a frame we can read
	Foreign       uint64 // another address or port, or an admitted client's, whom the kernel answers
	SYNSeen       uint64
	SYNAgain      uint64 // of them, ordinary ones that were retransmitted; not counted with Probability
	SYNCapped     uint64 // over the most answers a second
	SYNSampledOut uint64 // left out by their class's share
	SYNAnswered   uint64
	Keyed         uint64 // SYNs that carried a valid, timely preamble within the agent's rate
	KeyedLimited  uint64 // beyond it: treated as ordinary SYNs
	KeyedStale    uint64 // valid, but of another time: ordinary SYNs
	Short         uint64 // data shorter than a preamble or longer than a first flight
	CookiesBad    uint64
	CookiesOK     uint64
	BadTag        uint64
	BadMAC        uint64
	BadKind       uint64 // a knock over TCP, or the other way round
	Clock         uint64 // genuine but too early or too late: rejected, sealed
	Version       uint64 // genuine, of a version we do not speak: rejected, sealed
	// FlightsLimited, Flooded, PlainAnswered and PlainDropped are a packet program's, see Offload.
	FlightsLimited uint64 // good first flights beyond an address's rate
	Flooded        uint64 // neither TCP to a guarded port nor wanted, beyond what passes
	PlainAnswered  uint64 // SYNs to service ports, with the kernel's cookie
	PlainDropped   uint64 // TCP to service ports
	Replays        uint64 // nonce seen from another address
	EnrolLimited   uint64
	Unanswered     uint64 // verified, but the parent had nothing to say
	Transfers      uint64 // sealed replies sent
	Knocks         uint64 // knocks with a valid tag
	KnockLimited   uint64
	Repeated       uint64 // knocks too soon after an admission
	Admitted       uint64
	Resets         uint64 // RST for the FIN of one of our connections
	Ignored        uint64 // bare ACKs, RSTs and the rest
	SendLost       uint64 // answers the interface did not take
	RingLost       uint64 // frames that arrived when the port's buffer was full
}

// Add returns the sum, with what another part counted.
func (s Stats) Add(o Stats) Stats {
	a, b := reflect.ValueOf(&s).Elem(), reflect.ValueOf(o)
	for i := range a.NumField() {
		a.Field(i).SetUint(a.Field(i).Uint() + b.Field(i).Uint())
	}
	return s
}

// Counts gives the figures by the names that a status shows.
func (s Stats) Counts() map[string]uint64 {
	return map[string]uint64{
		"frames": s.Frames, "malformed": s.Malformed, "foreign": s.Foreign,
		"syn_seen": s.SYNSeen, "syn_again": s.SYNAgain, "syn_capped": s.SYNCapped, "syn_sampled_out": s.SYNSampledOut,
		"syn_answered": s.SYNAnswered,
		"keyed":        s.Keyed, "keyed_limited": s.KeyedLimited, "keyed_stale": s.KeyedStale,
		"short": s.Short, "cookies_bad": s.CookiesBad, "cookies_ok": s.CookiesOK,
		"bad_tag": s.BadTag, "bad_mac": s.BadMAC, "bad_kind": s.BadKind,
		"flights_limited": s.FlightsLimited, "flooded": s.Flooded,
		"plain_answered": s.PlainAnswered, "plain_dropped": s.PlainDropped,
		"clock": s.Clock, "version": s.Version, "replays": s.Replays,
		"enrol_limited": s.EnrolLimited, "unanswered": s.Unanswered, "transfers": s.Transfers,
		"knocks": s.Knocks, "knock_limited": s.KnockLimited, "knock_repeated": s.Repeated,
		"admitted": s.Admitted, "resets": s.Resets, "ignored": s.Ignored,
		"send_lost": s.SendLost, "ring_lost": s.RingLost,
	}
}

// counters is Stats as the loop counts them. One goroutine adds, any may read.
type counters struct {
	frames, malformed, foreign                       atomic.Uint64
	synSeen, synAgain                                atomic.Uint64
	synCapped, synSampledOut, synAnswered            atomic.Uint64
	keyed, keyedLimited, keyedStale                  atomic.Uint64
	short, cookiesBad, cookiesOK                     atomic.Uint64
	badTag, badMAC, badKind, clock, version, replays atomic.Uint64
	enrolLimited, unanswered, transfers              atomic.Uint64
	knocks, knockLimited, repeated, admitted         atomic.Uint64
	resets, ignored, sendLost                        atomic.Uint64
}

func (c *counters) stats() Stats {
	return Stats{
		Frames: c.frames.Load(), Malformed: c.malformed.Load(), Foreign: c.foreign.Load(),
		SYNSeen: c.synSeen.Load(), SYNAgain: c.synAgain.Load(), SYNCapped: c.synCapped.Load(),
		SYNSampledOut: c.synSampledOut.Load(), SYNAnswered: c.synAnswered.Load(),
		Keyed: c.keyed.Load(), KeyedLimited: c.keyedLimited.Load(), KeyedStale: c.keyedStale.Load(),
		Short: c.short.Load(), CookiesBad: c.cookiesBad.Load(), CookiesOK: c.cookiesOK.Load(),
		BadTag: c.badTag.Load(), BadMAC: c.badMAC.Load(), BadKind: c.badKind.Load(),
		Clock: c.clock.Load(), Version: c.version.Load(), Replays: c.replays.Load(),
		EnrolLimited: c.enrolLimited.Load(), Unanswered: c.unanswered.Load(),
		Transfers: c.transfers.Load(),
		Knocks:    c.knocks.Load(), KnockLimited: c.knockLimited.Load(),
		Repeated: c.repeated.Load(), Admitted: c.admitted.Load(),
		Resets: c.resets.Load(), Ignored: c.ignored.Load(), SendLost: c.sendLost.Load(),
	}
}
