// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

package synchecker

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"

	"migrationsensor/proto"
)

var le = binary.LittleEndian

// stat is a counter of the packet program. The first are the kinds of the DDoS Detector, of which a
// packet has one; their sum is all.
type stat int16

const (
	kindOther = iota
	kindSYN
	kindICMP
	kindUDP
	kinds
)

const (
	statFrames stat = kinds + iota
	statMalformed
	statSYNSeen
	statSYNAgain
	statSYNSampledOut
	statSYNCapped
	statSYNAnswered
	statKeyed
	statKeyedLimited
	statKeyedStale
	statShort
	statCookiesBad
	statCookiesOK
	statBadTag
	statFlightsLimited
	statKnocks
	statKnockLimited
	statIgnored
	statFlooded
	statPlainAnswered
	statPlainDropped
	statSendLost
	stats
)

func statsOf(n *[stats]uint64) Stats {
	return Stats{
		Frames: n[statFrames], Malformed: n[statMalformed], SYNSeen: n[statSYNSeen],
		SYNCapped: n[statSYNCapped], SYNAgain: n[statSYNAgain], SYNSampledOut: n[statSYNSampledOut],
		SYNAnswered: n[statSYNAnswered], Keyed: n[statKeyed], KeyedLimited: n[statKeyedLimited],
		KeyedStale: n[statKeyedStale], Short: n[statShort], CookiesBad: n[statCookiesBad],
		CookiesOK: n[statCookiesOK], BadTag: n[statBadTag], FlightsLimited: n[statFlightsLimited],
		Knocks: n[statKnocks], KnockLimited: n[statKnockLimited], Ignored: n[statIgnored],
		Flooded: n[statFlooded], PlainAnswered: n[statPlainAnswered], PlainDropped: n[statPlainDropped],
		SendLost: n[statSendLost],
	}
}

func packetsOf(n *[stats]uint64) Packets {
	return Packets{
		All: n[kindOther] + n[kindSYN] + n[kindICMP] + n[kindUDP],
		SYN: n[kindSYN], ICMP: n[kindICMP], UDP: n[kindUDP],
	}
}

// The rules as the program reads them: offsets, in a machine that is little-endian.
const (
	ruleMode    = 0
	ruleMAC     = 4  // 6
	rulePort    = 10 // 2, as on the wire
	ruleFlags   = 12
	ruleKey     = 16 // 16: of the cookies
	ruleStart   = 32 // when their epochs began, on the kernel's clock; may be below zero
	ruleWall    = 40 // from that clock to the time of day
	ruleFresh   = 48 // shares, of 2^32
	ruleAgain   = 56
	ruleAnswers = 64 // ns for each; 0: no limit
	ruleMSS     = 88 // 2 × 4: the option, IPv4 and IPv6
	ruleScale   = 96 // of the kernel's windows
	ruleSize    = 104

	ruleSlots = 8
)

// ruleFlags.
const (
	flagAllow    = 1 << iota // there are prefixes
	flagServices             // there are services
	flagStamps               // the kernel's timestamps have no secret offset
)

// Buckets of all processors together, each in a cache line of its own.
const (
	bucketAnswers = 64 * iota
	bucketTooBig
	bucketICMP
	bucketSYN
	bucketUDP
	bucketRest
	bucketPlain
	bucketsSize
)

// Packets a second that pass up though nobody vouches for them: never less than the firewall lets in, which
// also knows what the machine itself sent, and thins out the rest. Each costs about a µs.
const (
	icmpRate     = darkICMPRate
	otherSYNRate = 1_000  // SYNs to ports that nobody guards
	udpRate      = 20_000 // datagrams to no connected socket: to services, or masqueraded
	restRate     = 50_000 // TCP to other ports without a socket, fragments, other protocols
	plainRate    = 10_000 // SYNs to services that the kernel wants for itself, or that go elsewhere

	// As the firewall has it for path MTU discovery.
	darkICMPRate = 100

	flightRate  = 100 // first flights with a good cookie and tag, an address (IPv6: a /64)
	flightBurst = 200
)

// Classes of SYNs; the higher, the later the budget of answers ends for them.
const (
	synFresh = iota
	synAgain
	synKeyed

	// answerStep is how far each class may run ahead of the budget, longer than a tick of the coarse clock.
	answerStep = 20_000_000 // ns
)

// What has a bucket in the table of agents.
const (
	classSYN = iota
	classKnock
	classFlight
)

// What claim finds.
const (
	claimForged = iota
	claimGood
	claimLimited
)

const oneSecond = 1_000_000_000 // ns

// inAdvance is how far ahead of its rate a bucket may be so that it holds burst, ns.
func inAdvance(rate, burst int64) uint64 { return uint64((burst - 1) * (oneSecond / rate)) }

const (
	seenRows = 1 << 20 // 16 MiB
	seenTick = 29      // 2^29 ns, 0.54 s: a SYN is retransmitted after a second
	seenAge  = 16      // ticks

	maxSkew        = proto.MaxSkew
	firstFlightMax = proto.FirstFlightMax

	plainWindow = 64240 // what the kernel begins with: no more than it will take
	noScale     = 15
	optionSACK  = 1 << 4

	maxAdmitted = 1 << 17

	// One bit of hints is set for each address that is admitted: 8 KiB, which stay in a processor's first cache.
	hintBits   = 16
	hintSize   = 1 << hintBits / 8
	hintFactor = 0x9e3779b97f4a7c15

	maxServices = 4096
	maxAllow    = 4096
	maxAgents   = 1 << 16

	maxStrangers = 1 << 10
)

// shared is what the program and Go share.
type shared struct {
	which, rules, counters, buckets    *ebpf.Map
	hints                              *ebpf.Map
	admitted, services, allow4, allow6 *ebpf.Map
	agents, masters, seen              *ebpf.Map
	strangers                          *ebpf.Map
}

// hint is the bit of an address.
func hint(addr [16]byte) uint64 {
	return (le.Uint64(addr[:]) ^ le.Uint64(addr[8:])) * hintFactor >> (64 - hintBits)
}

func newShared() (_ *shared, err error) {
	m := &shared{}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	for _, spec := range m.specs() {
		s := spec.MapSpec
		if s.KeySize == 0 {
			s.KeySize = 4
		}
		if *spec.to, err = ebpf.NewMap(&s); err != nil {
			return nil, fmt.Errorf("map %s: %w", s.Name, err)
		}
	}
	return m, nil
}

type mapSpec struct {
	to **ebpf.Map
	ebpf.MapSpec
}

func (m *shared) specs() []mapSpec {
	const noPrealloc = 1 // BPF_F_NO_PREALLOC: freed after every reader is done
	return []mapSpec{
		{&m.which, ebpf.MapSpec{Name: "ms_which", Type: ebpf.Array, ValueSize: 8, MaxEntries: 1}},
		{&m.rules, ebpf.MapSpec{Name: "ms_rules", Type: ebpf.Array, ValueSize: ruleSize, MaxEntries: ruleSlots}},
		{&m.counters, ebpf.MapSpec{Name: "ms_counters", Type: ebpf.PerCPUArray, ValueSize: uint32(stats) * 8, MaxEntries: 1}},
		{&m.buckets, ebpf.MapSpec{Name: "ms_buckets", Type: ebpf.Array, ValueSize: bucketsSize, MaxEntries: 1}},
		{&m.hints, ebpf.MapSpec{Name: "ms_hints", Type: ebpf.Array, ValueSize: hintSize, MaxEntries: 1}},
		{&m.admitted, ebpf.MapSpec{Name: "ms_admitted", Type: ebpf.Hash, KeySize: 16, ValueSize: 8, MaxEntries: maxAdmitted, Flags: noPrealloc}},
		{&m.services, ebpf.MapSpec{Name: "ms_services", Type: ebpf.Hash, KeySize: 20, ValueSize: 4, MaxEntries: maxServices, Flags: noPrealloc}},
		{&m.allow4, ebpf.MapSpec{Name: "ms_allow4", Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: maxAllow, Flags: noPrealloc}},
		{&m.allow6, ebpf.MapSpec{Name: "ms_allow6", Type: ebpf.LPMTrie, KeySize: 20, ValueSize: 4, MaxEntries: maxAllow, Flags: noPrealloc}},
		{&m.agents, ebpf.MapSpec{Name: "ms_agents", Type: ebpf.LRUHash, KeySize: 24, ValueSize: 8, MaxEntries: maxAgents}},
		{&m.strangers, ebpf.MapSpec{Name: "ms_strangers", Type: ebpf.LRUHash, KeySize: 8, ValueSize: 8, MaxEntries: maxStrangers}},
		{&m.masters, ebpf.MapSpec{Name: "ms_masters", Type: ebpf.Hash, ValueSize: 16, MaxEntries: 1 << 16, Flags: noPrealloc}},
		{&m.seen, ebpf.MapSpec{Name: "ms_seen", Type: ebpf.Array, ValueSize: 16, MaxEntries: seenRows}},
	}
}

func (m *shared) close() {
	for _, s := range m.specs() {
		if *s.to != nil {
			(*s.to).Close()
		}
	}
}

// load loads the program. The kernel lends the helpers that make its cookies only to programs under the GPL, which is the
// second licence of the files that write it.
func (m *shared) load(f Filter) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "ms_synchecker", Type: ebpf.XDP, License: "GPL", Instructions: f.packetProgram(m),
	})
	if err != nil {
		return nil, fmt.Errorf("load packet program: %w", err)
	}
	return p, nil
}

// counts adds up what all processors counted.
func (m *shared) counts() (n [stats]uint64, err error) {
	var each [][stats]uint64
	if err := m.counters.Lookup(uint32(0), &each); err != nil {
		return n, fmt.Errorf("read counters of the packet program: %w", err)
	}
	for _, cpu := range each {
		for i, v := range cpu {
			n[i] += v
		}
	}
	return n, nil
}
