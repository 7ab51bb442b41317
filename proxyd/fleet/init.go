package fleet

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"migrationsensor/proto"
)

// ErrExists says that the state directory already belongs to a fleet.
var ErrExists = errors.New("there is a fleet in this state directory already")

// ledger is what the signing node must not forget.
type ledger struct {
	Gen      uint8                  `json:"gen"`      // of proxy secrets
	Version  uint64                 `json:"version"`  // of the documents
	Declared string                 `json:"declared"` // digest of what the documents say
	Nodes    map[string]*ledgerNode `json:"nodes"`    // by name
	Revoked  []issued               `json:"revoked,omitempty"`
}

// ledgerNode is a node: its id is given once and kept for good.
type ledgerNode struct {
	ID    proto.NodeID `json:"id"`
	Certs []issued     `json:"certs,omitempty"` // good ones, the newest last; none: it has not joined
}

// issued is a certificate, to be remembered until it expires.
type issued struct {
	Serial string    `json:"serial"`
	Until  time.Time `json:"until"`
}

// node returns the entry for a name, made if need be.
func (l *ledger) node(name string) *ledgerNode {
	if l.Nodes == nil {
		l.Nodes = map[string]*ledgerNode{}
	}
	if l.Nodes[name] == nil {
		l.Nodes[name] = &ledgerNode{ID: proto.NewNodeID()}
	}
	return l.Nodes[name]
}

// gave notes a node's new certificate and, unless it is a renewal, revokes all before it.
func (l *ledger) gave(name string, cert *x509.Certificate, revoke bool, now time.Time) {
	n := l.node(name)
	if revoke {
		l.Revoked = append(l.Revoked, n.Certs...)
		n.Certs = nil
	}
	expired := func(c issued) bool { return now.After(c.Until) }
	l.Revoked = slices.DeleteFunc(l.Revoked, expired)
	n.Certs = append(slices.DeleteFunc(n.Certs, expired), issued{serial(cert), cert.NotAfter})
}

func serial(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }

// Init makes a new fleet in the state directory, which becomes the signing node's: CA, fleet key,
// certificate, an id for each declared node, and the first documents. It changes nothing where there
// is a fleet already (ErrExists).
func Init(path string, decl Declaration, now time.Time) (*State, error) {
	d, err := makeDir(path)
	if err != nil {
		return nil, err
	}
	if d.has(fileCAKey) || d.has(fileNode) {
		return nil, fmt.Errorf("%s: %w; remove it only if nobody uses that fleet any more", path, ErrExists)
	}
	i := slices.IndexFunc(decl.Nodes, func(n DeclaredNode) bool { return n.Kind == KindSigner })
	if i < 0 {
		return nil, errors.New("no node of kind \"signer\" is declared: this machine")
	}
	ca, err := newAuthority(decl.Fleet, now)
	if err != nil {
		return nil, err
	}
	l := ledger{Gen: 1}
	for _, n := range decl.Nodes {
		l.node(n.Name)
	}
	me := Node{Fleet: decl.Fleet, Name: decl.Nodes[i].Name, ID: l.node(decl.Nodes[i].Name).ID, Kind: KindSigner}
	if err := initFiles(d, ca, me, &l, decl, now); err != nil {
		return nil, err
	}
	return OpenState(path, func() time.Time { return now })
}

// initFiles writes everything; node.json, by which a fleet is known to be there, last.
func initFiles(d dir, ca *authority, me Node, l *ledger, decl Declaration, now time.Time) error {
	key, err := d.makeKey(fileKey)
	if err != nil {
		return err
	}
	chain, cert, err := ca.issue(identityOfKind(me.Fleet, me.ID, me.Kind), key.Public(), now)
	if err != nil {
		return err
	}
	l.gave(me.Name, cert, false, now)
	l.Version, l.Declared = 1, digest(decl, l)
	fleet, catalogue := documents(decl, l, now)
	fleetRaw, err := proto.SignDoc(fleet, key, chain[:1])
	if err != nil {
		return err
	}
	catRaw, err := proto.SignDoc(catalogue, key, chain[:1])
	if err != nil {
		return err
	}
	caKey, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	var fleetKey [32]byte
	rand.Read(fleetKey[:])
	steps := []func() error{
		func() error { return d.write(fileFleetKey, []byte(hex.EncodeToString(fleetKey[:])+"\n")) },
		func() error { return d.write(fileCert, encodeChain(chain)) },
		func() error { return d.write(fileFleet, fleetRaw) },
		func() error { return d.write(fileCatalogue, catRaw) },
		func() error { return d.writeJSON(fileSecrets, []proto.GenSecret{}) },
		func() error { return d.writeJSON(fileLedger, l) },
		func() error { return d.create(fileCAKey, caKey) },
		func() error { return d.writeJSON(fileNode, me) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func readFleetKey(d dir) (k proto.FleetKey, err error) {
	b, err := d.read(fileFleetKey)
	if err != nil {
		return k, err
	}
	raw, err := hex.DecodeString(string(bytes.TrimSpace(b)))
	if err != nil || len(raw) != len(k) {
		return k, fmt.Errorf("state: %s is no fleet key", d.path(fileFleetKey)) // err could quote it
	}
	return proto.FleetKey(raw), nil
}

// digest tells whether documents made now would say something new.
func digest(decl Declaration, l *ledger) string {
	nodes := map[string]proto.NodeID{}
	for name, n := range l.Nodes {
		nodes[name] = n.ID
	}
	b, err := json.Marshal(struct {
		D       Declaration
		Nodes   map[string]proto.NodeID
		Revoked []issued
	}{decl, nodes, l.Revoked})
	if err != nil {
		panic(fmt.Sprintf("BUG: digest of a declaration: %v", err)) // plain data
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// documents says what the declaration says, with ids in the place of names.
func documents(decl Declaration, l *ledger, now time.Time) (document, proto.Catalogue) {
	now = now.UTC().Truncate(time.Second)
	f := document{FleetDoc: proto.FleetDoc{Fleet: decl.Fleet, Version: l.Version, Issued: now, Rescue: decl.Rescue}}
	c := proto.Catalogue{Fleet: decl.Fleet, Version: l.Version, Issued: now}
	for _, r := range l.Revoked {
		f.Revoked = append(f.Revoked, r.Serial)
	}
	for _, s := range decl.Services {
		f.Services = append(f.Services, proto.FleetService{
			Name: s.Name, Public: s.Public, Origin: s.Origin, Groups: s.Groups, Plain: s.Plain, ProxyProtocol: s.ProxyProtocol,
		})
		c.Services = append(c.Services, proto.CatalogueService{
			Name: s.Name, Public: s.Public, Groups: s.Groups, Anchors: anchorsOf(decl, l, s),
		})
	}
	for _, n := range decl.Nodes {
		f.Nodes = append(f.Nodes, proto.FleetNode{
			ID: l.node(n.Name).ID, Name: n.Name, Kind: n.Kind, Public: n.Public, LinkPort: n.LinkPort,
			Backplane: n.Backplane, Relay: n.RelayPorts, Neighbours: neighboursOf(decl, l, n),
		})
		if n.Kind == KindEntry { // a hidden edge's address is never in here
			c.Entries = append(c.Entries, proto.CatalogueEntry{Node: l.node(n.Name).ID, Name: n.Name, Addrs: n.Public, LinkPort: n.LinkPort})
		}
	}
	return f, c
}

// neighboursOf goes both ways: it is enough that one of the two names the other.
func neighboursOf(decl Declaration, l *ledger, n DeclaredNode) []proto.NodeID {
	var out []proto.NodeID
	for _, o := range decl.Nodes {
		if o.Name != n.Name && (slices.Contains(n.Neighbours, o.Name) || slices.Contains(o.Neighbours, n.Name)) {
			out = append(out, l.node(o.Name).ID)
		}
	}
	return out
}
