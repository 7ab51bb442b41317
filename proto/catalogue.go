package proto

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Catalogue is what agents are told: entries and services. It is signed, so no edge can change it, and
// its version rises, so none can bring back an old one.
type Catalogue struct {
	Fleet    string             `json:"fleet"`
	Version  uint64             `json:"version"`
	Issued   time.Time          `json:"issued"`
	Entries  []CatalogueEntry   `json:"entries"`
	Services []CatalogueService `json:"services"`
}

// CatalogueEntry is an edge whose address is public.
type CatalogueEntry struct {
	Node     NodeID       `json:"node"`
	Name     string       `json:"name"`
	Addrs    []netip.Addr `json:"addrs"`
	LinkPort uint16       `json:"link_port"`
}

// CatalogueService is a service as agents see it. Anchors are in order of preference.
type CatalogueService struct {
	Name    string           `json:"name"`
	Public  []netip.AddrPort `json:"public"`
	Groups  []string         `json:"groups,omitempty"`
	Anchors []NodeID         `json:"anchors,omitempty"`
}

// FleetDoc is what nodes are told: everything. It is signed like the catalogue.
type FleetDoc struct {
	Fleet    string         `json:"fleet"`
	Version  uint64         `json:"version"`
	Issued   time.Time      `json:"issued"`
	Services []FleetService `json:"services"`
	Nodes    []FleetNode    `json:"nodes"`
	Rescue   string         `json:"rescue,omitempty"` // "standby": agents are told one next proxy ahead
}

// FleetService is a service as nodes see it.
type FleetService struct {
	Name          string           `json:"name"`
	Public        []netip.AddrPort `json:"public"`
	Origin        string           `json:"origin"` // host:port
	Groups        []string         `json:"groups,omitempty"`
	Plain         string           `json:"plain"` // during an attack: cookie, drop or admit
	ProxyProtocol bool             `json:"proxy_protocol,omitempty"`
}

// FleetNode is a declared node.
type FleetNode struct {
	ID         NodeID         `json:"id"`
	Name       string         `json:"name"`
	Kind       string         `json:"kind"` // entry, hidden, anchor, signer
	Public     []netip.Addr   `json:"public,omitempty"`
	LinkPort   uint16         `json:"link_port,omitempty"`
	Backplane  netip.AddrPort `json:"backplane"`
	Relay      []uint16       `json:"relay,omitempty"` // ports on the backplane's address for data links that edges pass on
	Neighbours []NodeID       `json:"neighbours,omitempty"`
}

// Node returns the node with the id.
func (f *FleetDoc) Node(id NodeID) (FleetNode, bool) {
	for _, n := range f.Nodes {
		if n.ID == id {
			return n, true
		}
	}
	return FleetNode{}, false
}

const docMax = 1 << 20

// ErrDoc is a document that was not signed by the fleet's signing node as it stands.
var ErrDoc = errors.New("signed document refused")

// signedDoc is the outer form: the body's exact bytes, its signature, the signer's chain.
type signedDoc struct {
	Body  json.RawMessage `json:"body"`
	Sig   []byte          `json:"sig"`
	Chain [][]byte        `json:"chain"`
}

// Document is what the signing node signs: a Catalogue, a FleetDoc, or what embeds one of them.
type Document interface {
	// DocKind goes before what is signed, so that one kind of document cannot pass for another.
	DocKind() string
}

// DocKind is that of catalogues.
func (Catalogue) DocKind() string { return "ms catalogue v1\x00" }

// DocKind is that of FLEET documents.
func (FleetDoc) DocKind() string { return "ms fleet v1\x00" }

// SignDoc signs a Catalogue or a FleetDoc with the signing node's key; chain is its certificate and
// what lies between it and the CA (DER, leaf first).
func SignDoc(v Document, key ed25519.PrivateKey, chain [][]byte) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("sign document: %w", err)
	}
	return json.Marshal(signedDoc{Body: body, Sig: ed25519.Sign(key, append([]byte(v.DocKind()), body...)), Chain: chain})
}

// OpenDoc checks a signed document against the fleet's CA and reads it into a *Catalogue or *FleetDoc.
func OpenDoc(b []byte, ca *x509.Certificate, now time.Time, into Document) error {
	if len(b) > docMax {
		return fmt.Errorf("%d bytes: %w", len(b), ErrDoc)
	}
	var s signedDoc
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%w: %w", ErrDoc, err)
	}
	id, err := VerifyPeer(s.Chain, ca, now, x509.ExtKeyUsageAny)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDoc, err)
	}
	if !id.Has(RoleSigner) {
		return fmt.Errorf("%w: signed by a %v, not by the signing node", ErrDoc, id.Roles)
	}
	leaf, err := x509.ParseCertificate(s.Chain[0])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDoc, err)
	}
	pub, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok || !ed25519.Verify(pub, append([]byte(into.DocKind()), s.Body...), s.Sig) {
		return fmt.Errorf("%w: wrong signature", ErrDoc)
	}
	if err := json.Unmarshal(s.Body, into); err != nil {
		return fmt.Errorf("%w: %w", ErrDoc, err)
	}
	return nil
}
