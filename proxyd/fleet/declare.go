package fleet

import (
	"net/netip"
	"slices"

	"migrationsensor/proto"
)

// The kinds of node.
const (
	KindEntry  = "entry"
	KindHidden = "hidden"
	KindAnchor = "anchor"
	KindSigner = "signer"
)

// Declaration is what the signing node's configuration says about the fleet. It has been checked:
// names are names and unique, neighbours exist and are edges, exactly one node is the signer.
type Declaration struct {
	Fleet    string
	Rescue   string
	Services []DeclaredService
	Nodes    []DeclaredNode
}

// DeclaredService is one [[service]].
type DeclaredService struct {
	Name          string
	Public        []netip.AddrPort
	Origin        string
	Groups        []string
	Plain         string
	ProxyProtocol bool
	Anchors       []string // names of nodes, in order of preference; empty: the fleet's order
}

// DeclaredNode is one [[node]].
type DeclaredNode struct {
	Name       string
	Kind       string
	Public     []netip.Addr
	LinkPort   uint16
	Backplane  netip.AddrPort
	RelayPorts []uint16
	Neighbours []string
}

// anchorsOf are who may end the sessions of a service, in order of preference. By default those are the nodes of kind
// anchor, then the hidden edges, then the entries: an address that is secret is attacked last.
func anchorsOf(decl Declaration, l *ledger, s DeclaredService) (out []proto.NodeID) {
	for _, name := range s.Anchors {
		out = append(out, l.node(name).ID)
	}
	if len(out) > 0 {
		return out
	}
	of := func(kind string) (ids []proto.NodeID) {
		for _, n := range decl.Nodes {
			if n.Kind == kind {
				ids = append(ids, l.node(n.Name).ID)
			}
		}
		return ids
	}
	return slices.Concat(of(KindAnchor), of(KindHidden), of(KindEntry))
}

// roleOf is the token role that lets a node of this kind join.
func roleOf(kind string) proto.Role {
	switch kind {
	case KindEntry, KindHidden:
		return proto.RoleEdge
	case KindAnchor:
		return proto.RoleAnchor
	case KindSigner:
		return proto.RoleSigner
	}
	return ""
}
