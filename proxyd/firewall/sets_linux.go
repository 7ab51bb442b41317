package firewall

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
)

// sets are the sets of the table. Their ids are fixed, so the same plan gives the same bytes.
type sets struct{ v4, v6 familySets }

type familySets struct {
	family
	allow    *nftables.Set // prefixes
	ours     *nftables.Set // our addresses
	doors    *nftables.Set // our address . guarded port
	plain    *nftables.Set // those of doors that take plain clients
	cookie   *nftables.Set // and those that take them by SYN cookies
	flows    *nftables.Set // theirs . ours
	admitted *nftables.Set // addresses, with a time
	own      *nftables.Set // protocol . theirs . ours, filled by the egress chain
}

// maxOwn bounds what the egress chain notes.
const maxOwn = 262144

func newSets(t *nftables.Table) *sets {
	return &sets{v4: newFamilySets(t, v4, 1), v6: newFamilySets(t, v6, 11)}
}

func (s *sets) families() []*familySets { return []*familySets{&s.v4, &s.v6} }

func (s *sets) of(a netip.Addr) *familySets {
	if a.Is4() {
		return &s.v4
	}
	return &s.v6
}

func newFamilySets(t *nftables.Table, f family, id uint32) familySets {
	set := func(name string, key ...nftables.SetDatatype) *nftables.Set {
		s := &nftables.Set{Table: t, ID: id, Name: name + f.suffix, KeyType: key[0]}
		if len(key) > 1 {
			s.KeyType, s.Concatenation = nftables.MustConcatSetType(key...), true
		}
		id++
		return s
	}
	end := []nftables.SetDatatype{f.addr, nftables.TypeInetService}
	s := familySets{
		family:   f,
		allow:    set("allow", f.addr),
		ours:     set("ours", f.addr),
		doors:    set("doors", end...),
		plain:    set("plain", end...),
		cookie:   set("cookie", end...),
		flows:    set("flows", slices.Concat(end, end)...),
		admitted: set("admitted", f.addr),
		own:      set("own", slices.Concat([]nftables.SetDatatype{nftables.TypeInetProto}, end, end)...),
	}
	s.allow.Interval = true
	s.admitted.HasTimeout = true
	s.own.HasTimeout, s.own.Dynamic, s.own.Size, s.own.Timeout = true, true, maxOwn, ownTCP
	return s
}

func (f *familySets) all() []*nftables.Set {
	return []*nftables.Set{f.allow, f.ours, f.doors, f.plain, f.cookie, f.flows, f.admitted, f.own}
}

// fixed returns the elements that come from the config.
func (s *sets) fixed(cfg Config) map[*nftables.Set][]nftables.SetElement {
	out := make(map[*nftables.Set][]nftables.SetElement)
	for _, f := range s.families() {
		out[f.allow] = intervals(cfg.Allow, f.addr.Bytes)
	}
	seen := make(map[*nftables.Set]map[netip.AddrPort]bool)
	once := func(set *nftables.Set, at netip.AddrPort) {
		if seen[set] == nil {
			seen[set] = make(map[netip.AddrPort]bool)
		}
		if !seen[set][at] {
			seen[set][at] = true
			out[set] = append(out[set], nftables.SetElement{Key: endKey(at)})
		}
	}
	for _, a := range cfg.Addrs {
		f := s.of(a)
		out[f.ours] = append(out[f.ours], nftables.SetElement{Key: a.AsSlice()})
		once(f.doors, netip.AddrPortFrom(a, cfg.LinkPort))
	}
	for _, service := range cfg.Services {
		plain := cfg.Plain(service)
		for _, at := range public(service, cfg.Addrs) {
			f := s.of(at.Addr())
			once(f.doors, at)
			switch plain {
			case PlainAdmit:
				once(f.plain, at)
			case PlainCookie:
				once(f.cookie, at)
			case PlainDrop:
			}
		}
	}
	return out
}

// public returns where a service is reached: a wildcard is each of our addresses that its
// listener answers on.
func public(service netip.AddrPort, addrs []netip.Addr) []netip.AddrPort {
	service = unmap(service)
	if !service.Addr().IsUnspecified() {
		return []netip.AddrPort{service}
	}
	var out []netip.AddrPort
	for _, a := range addrs {
		if service.Addr().Is6() || a.Is4() {
			out = append(out, netip.AddrPortFrom(a, service.Port()))
		}
	}
	return out
}

// endKey is address . port, each padded to whole words.
func endKey(a netip.AddrPort) []byte {
	return append(binary.BigEndian.AppendUint16(a.Addr().AsSlice(), a.Port()), 0, 0)
}

func flowElement(f Flow) nftables.SetElement {
	return nftables.SetElement{Key: append(endKey(f.Src), endKey(f.Dst)...)}
}

// admissionElement counts from now; the kernel keeps milliseconds and takes 0 for "never ends".
func admissionElement(a admission, now time.Time) nftables.SetElement {
	return nftables.SetElement{Key: a.addr.AsSlice(), Timeout: max(a.until.Sub(now), time.Millisecond)}
}

// intervals turns the prefixes of a family into begin and end elements. The kernel refuses
// overlaps, so a prefix inside another is left out, and neighbours are joined.
func intervals(prefixes []netip.Prefix, size uint32) []nftables.SetElement {
	var ps []netip.Prefix
	for _, p := range prefixes {
		if uint32(p.Addr().BitLen()/8) == size {
			ps = append(ps, p)
		}
	}
	slices.SortFunc(ps, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []nftables.SetElement
	var end netip.Addr // after the interval that is open; invalid: none, or up to the last address
	for i, p := range ps {
		if i > 0 && (!end.IsValid() || p.Addr().Less(end)) {
			continue
		}
		if i > 0 && p.Addr() == end {
			out = out[:len(out)-1] // goes on
		} else {
			out = append(out, nftables.SetElement{Key: p.Addr().AsSlice()})
		}
		if end = after(p); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

// after returns the first address behind the prefix; there is none behind the last address.
func after(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last.Next()
}
