package agent

import (
	"net/netip"
	"slices"

	"migrationsensor/proto"
)

// candidate is a proxy that the agent may connect to.
type candidate struct {
	proto.Target
	name string // empty for a hidden one
	told bool   // its door opens to a knock
}

// entries are the catalogue's entries for which there is a key, in its order.
func (e *enrolment) entries() (out []candidate) {
	for _, c := range e.catalogue.Entries {
		i := slices.IndexFunc(e.Keys, func(k savedKeys) bool { return k.Node == c.Node })
		if i < 0 {
			continue
		}
		t := proto.Target{Port: c.LinkPort, Node: c.Node, Key: e.Keys[i].keyID(), Keys: e.Keys[i].admission()}
		for _, a := range c.Addrs {
			switch a = a.Unmap(); {
			case a.Is4() && !t.Addr4.IsValid():
				t.Addr4 = a
			case a.Is6() && !t.Addr6.IsValid():
				t.Addr6 = a
			}
		}
		if len(t.Addrs()) > 0 {
			out = append(out, candidate{Target: t, name: c.Name})
		}
	}
	return out
}

// isEntry reports whether anyone may know the node.
func (e *enrolment) isEntry(n proto.NodeID) bool { return e.nameOf(n) != "" }

func (e *enrolment) nameOf(n proto.NodeID) string {
	for _, c := range e.catalogue.Entries {
		if c.Node == n {
			return c.Name
		}
	}
	return ""
}

// candidates are where to connect: what an unfinished migration named, the edge that the agent was told to use last,
// then the entries.
func (e *enrolment) candidates(named []proto.Target) (out []candidate) {
	add := func(c candidate) {
		if !slices.ContainsFunc(out, func(o candidate) bool { return o.Node == c.Node }) {
			out = append(out, c)
		}
	}
	entries := e.entries()
	for _, t := range named {
		add(candidate{Target: t, told: true})
	}
	if e.Current != nil {
		i := slices.IndexFunc(entries, func(c candidate) bool { return c.Node == e.Current.Node })
		if i >= 0 {
			add(entries[i])
		} else {
			add(candidate{Target: e.Current.target(), told: true})
		}
	}
	for _, c := range entries {
		add(c)
	}
	return out
}

// entryAt is the entry with the address, else the first: whom the paper's Connection Handler asks first.
func (e *enrolment) entryAt(a netip.Addr) (candidate, bool) {
	entries := e.entries()
	for _, c := range entries {
		if c.Addr4 == a || c.Addr6 == a {
			return c, true
		}
	}
	if len(entries) == 0 {
		return candidate{}, false
	}
	return entries[0], true
}

// publics are the addresses that the catalogue asks to protect.
func (e *enrolment) publics() (out []public) {
	for _, s := range e.catalogue.Services {
		for _, a := range s.Public {
			out = append(out, public{s.Name, a})
		}
	}
	return out
}
