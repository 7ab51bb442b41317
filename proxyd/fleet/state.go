package fleet

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"migrationsensor/proto"
)

// ErrNotJoined says that the state directory holds no membership.
var ErrNotJoined = errors.New("this machine has not joined a fleet")

// Node is who a node is.
type Node struct {
	Fleet string       `json:"fleet"`
	Name  string       `json:"name"`
	ID    proto.NodeID `json:"id"`
	Kind  string       `json:"kind"`
}

// document is FLEET as it is signed: what proto.FleetDoc has, and the certificates of nodes that are
// no longer good although they have not expired.
type document struct {
	proto.FleetDoc
	Revoked []string `json:"revoked,omitempty"` // serials
}

// State is a node's membership: certificate, proxy secrets and the documents it holds. It is safe for
// concurrent use; what its methods return is not changed later and must not be changed.
type State struct {
	dir dir // set once
	ca  *x509.Certificate
	now func() time.Time

	mu        sync.RWMutex
	node      Node
	cert      tls.Certificate
	secrets   []proto.GenSecret
	doc       *document
	fleetRaw  []byte
	catalogue []byte
	catVer    uint64
	anchors   []proto.NodeID // that the catalogue names, each once
	issuers   int            // numbers given to neighbours when the keyring was last filled
}

// OpenState reads the state directory of a node that has joined (ErrNotJoined otherwise). A nil now
// is time.Now.
func OpenState(path string, now func() time.Time) (*State, error) {
	if now == nil {
		now = time.Now
	}
	s := &State{dir: dir(path), now: now}
	if err := s.dir.readJSON(fileNode, &s.node); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotJoined
	} else if err != nil {
		return nil, err
	}
	chain, err := s.dir.readChain(fileCert)
	if err != nil {
		return nil, err
	}
	if s.ca, err = x509.ParseCertificate(chain[len(chain)-1]); err != nil {
		return nil, fmt.Errorf("state: CA: %w", err)
	}
	key, err := s.dir.readKey(fileKey)
	if err != nil {
		return nil, err
	}
	if err := s.useCertificate(chain, key); err != nil {
		return nil, err
	}
	if err := s.dir.readJSON(fileSecrets, &s.secrets); err != nil {
		return nil, err
	}
	return s, s.readDocs()
}

// useCertificate uses chain and key from now on.
func (s *State) useCertificate(chain [][]byte, key ed25519.PrivateKey) error {
	cert, err := s.checkCertificate(chain, key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cert = cert
	return nil
}

// checkCertificate checks that chain and key make this node.
func (s *State) checkCertificate(chain [][]byte, key ed25519.PrivateKey) (tls.Certificate, error) {
	id, err := proto.VerifyPeer(chain, s.ca, s.now(), x509.ExtKeyUsageAny)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("own certificate: %w; join again with a new token: proxyd join", err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("own certificate: %w", err)
	}
	if pub, ok := leaf.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(key.Public()) || id.Node != s.node.ID || id.Fleet != s.node.Fleet {
		return tls.Certificate{}, errors.New("own certificate does not belong to the key or the node in this state directory; join again with a new token: proxyd join")
	}
	return tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

func (s *State) readDocs() error {
	for name, set := range map[string]func([]byte) (bool, error){fileFleet: s.setFleet, fileCatalogue: s.setCatalogue} {
		b, err := s.dir.read(name)
		if err != nil {
			return err
		}
		if _, err := set(b); err != nil {
			return err
		}
	}
	return nil
}

// setFleet takes a FLEET document if it is newer than the one held, and keeps it on disk.
func (s *State) setFleet(raw []byte) (changed bool, err error) {
	var d document
	if err := proto.OpenDoc(raw, s.ca, s.now(), &d); err != nil {
		return false, fmt.Errorf("FLEET: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.Fleet != s.node.Fleet {
		return false, fmt.Errorf("FLEET of %q, this is fleet %q", d.Fleet, s.node.Fleet)
	}
	if s.doc != nil && d.Version <= s.doc.Version {
		return false, nil // an older one is refused, the same is nothing new
	}
	if err := s.keepLocked(fileFleet, raw); err != nil {
		return false, err
	}
	s.doc, s.fleetRaw = &d, raw
	return true, nil
}

// setCatalogue is setFleet for the CATALOGUE.
func (s *State) setCatalogue(raw []byte) (changed bool, err error) {
	var c proto.Catalogue
	if err := proto.OpenDoc(raw, s.ca, s.now(), &c); err != nil {
		return false, fmt.Errorf("CATALOGUE: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Fleet != s.node.Fleet {
		return false, fmt.Errorf("CATALOGUE of %q, this is fleet %q", c.Fleet, s.node.Fleet)
	}
	if c.Version <= s.catVer {
		return false, nil
	}
	if err := s.keepLocked(fileCatalogue, raw); err != nil {
		return false, err
	}
	s.catalogue, s.catVer, s.anchors = raw, c.Version, nil
	for _, v := range c.Services {
		for _, id := range v.Anchors {
			if !slices.Contains(s.anchors, id) {
				s.anchors = append(s.anchors, id)
			}
		}
	}
	return true, nil
}

func (s *State) keepLocked(name string, raw []byte) error {
	if old, err := s.dir.read(name); err == nil && bytes.Equal(old, raw) {
		return nil
	}
	return s.dir.write(name, raw)
}

// Node returns who this node is.
func (s *State) Node() Node { return s.node }

// CA returns the fleet's CA certificate.
func (s *State) CA() *x509.Certificate { return s.ca }

// Certificate returns this node's certificate, with the CA at the end of its chain. A renewal
// replaces it: ask again for each link.
func (s *State) Certificate() tls.Certificate {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.cert
}

// Doc returns the FLEET document.
func (s *State) Doc() *proto.FleetDoc {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &s.doc.FleetDoc
}

// Catalogue returns the signed CATALOGUE, for agents.
func (s *State) Catalogue() []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.catalogue
}

// Anchors returns the nodes that the CATALOGUE names as anchors of some service.
func (s *State) Anchors() []proto.NodeID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.anchors
}

// Self returns this node as it is declared; false if it is no longer.
func (s *State) Self() (proto.FleetNode, bool) { return s.Doc().Node(s.node.ID) }

// neighbours returns the ids of this node's neighbours, sorted: the place in the list, from 1, is the
// number of the issuer.
func (s *State) neighbours() []proto.NodeID {
	self, _ := s.Self()
	return slices.SortedFunc(slices.Values(self.Neighbours), func(a, b proto.NodeID) int { return bytes.Compare(a[:], b[:]) })
}

// latest returns the newest generation of this node's proxy secret.
func (s *State) latest() (proto.GenSecret, bool) {
	if len(s.secrets) == 0 {
		return proto.GenSecret{}, false
	}
	return slices.MaxFunc(s.secrets, func(a, b proto.GenSecret) int { return cmp.Compare(a.Gen, b.Gen) }), true
}

// Key returns the id of the key under which this node gives admissions, and the secret to derive
// them from: Secret.Admission(agent).
func (s *State) Key() (proto.KeyID, proto.Secret) {
	g, _ := s.latest()
	return proto.KeyID{Gen: g.Gen}, g.Secret
}

// FillKeyring puts all that this edge accepts into the keyring: its own generations, and of each what
// it handed over to its neighbours. Call it again when the fleet changes.
func (s *State) FillKeyring(k *proto.Keyring) {
	n := s.neighbours()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.secrets {
		k.Set(proto.KeyID{Gen: g.Gen}, g.Secret)
		for i, id := range n {
			k.Set(proto.KeyID{Gen: g.Gen, Issuer: uint8(i + 1)}, g.Secret.Handover(id))
		}
		for i := len(n); i < s.issuers; i++ {
			k.Delete(proto.KeyID{Gen: g.Gen, Issuer: uint8(i + 1)})
		}
	}
	s.issuers = len(n)
}

// handover is what this edge gives a neighbour; false if the node is none.
func (s *State) handover(to proto.NodeID) (*proto.Handover, bool) {
	i := slices.Index(s.neighbours(), to)
	g, ok := s.latest()
	if i < 0 || !ok {
		return nil, false
	}
	return &proto.Handover{Gen: g.Gen, Issuer: uint8(i + 1), H: g.Secret.Handover(to)}, true
}

// checkPeer verifies the certificates that a peer showed: it is a node of this fleet that is declared
// now, in a role of its kind, with a certificate that is not revoked.
func (s *State) checkPeer(raw [][]byte, usage x509.ExtKeyUsage) (proto.FleetNode, error) {
	id, err := proto.VerifyPeer(raw, s.ca, s.now(), usage)
	if err != nil {
		return proto.FleetNode{}, err
	}
	leaf, err := x509.ParseCertificate(raw[0])
	if err != nil {
		return proto.FleetNode{}, err
	}
	s.mu.RLock()
	doc := s.doc
	s.mu.RUnlock()
	n, ok := doc.Node(id.Node)
	switch {
	case id.Fleet != s.node.Fleet:
		return n, fmt.Errorf("peer is of fleet %q", id.Fleet)
	case id.Node.IsZero() || id.Has(proto.RoleAgent):
		return n, errors.New("peer is an agent, not a node")
	case !ok:
		return n, fmt.Errorf("peer %s is not declared in FLEET version %d", id.Node, doc.Version)
	case id.Node == s.node.ID:
		return n, errors.New("peer shows this node's own id")
	case !slices.Equal(id.Roles, identityOfKind(id.Fleet, id.Node, n.Kind).Roles):
		return n, fmt.Errorf("peer %s has roles %v, it is declared as %s", n.Name, id.Roles, n.Kind)
	case slices.Contains(doc.Revoked, serial(leaf)):
		return n, fmt.Errorf("the certificate of peer %s is revoked", n.Name)
	}
	return n, nil
}
