package fleet

import (
	"net/netip"

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
}

// DeclaredNode is one [[node]].
type DeclaredNode struct {
	Name       string
	Kind       string
	Public     []netip.Addr
	LinkPort   uint16
	Backplane  netip.AddrPort
	Neighbours []string
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
