package fleet

import (
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"

	"migrationsensor/proto"
)

// Signer is the signing node's part: it declares the fleet and gives certificates. It is safe for
// concurrent use, but only one may work on a state directory.
type Signer struct {
	*State
	log *slog.Logger
	ca  *authority
	key proto.FleetKey

	mu     sync.Mutex // guards what follows, and the files of tokens and agents
	ledger ledger
	decl   Declaration

	changed func() // set by Peers before Run: tell everybody about new documents
}

// OpenSigner makes the signer of a state that is the signing node's.
func OpenSigner(s *State, log *slog.Logger) (*Signer, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	sg := &Signer{State: s, log: log, changed: func() {}}
	key, err := s.dir.readKey(fileCAKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%q is not the signing node of fleet %q, its configuration must not declare one: remove `fleet`, [[service]] and [[node]]: %w", s.node.Name, s.node.Fleet, err)
	} else if err != nil {
		return nil, err
	}
	sg.ca = &authority{s.CA(), key}
	if pub, ok := sg.ca.cert.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, fmt.Errorf("state: %s is the key of another CA", s.dir.path(fileCAKey))
	}
	if sg.key, err = readFleetKey(s.dir); err != nil {
		return nil, err
	}
	return sg, s.dir.readJSON(fileLedger, &sg.ledger)
}

// Declare takes what the configuration says now. New nodes get their ids; if anything is new, both
// documents get a higher version and go to all nodes. It renews the signing node's own certificate,
// under which the documents are signed.
func (s *Signer) Declare(decl Declaration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if decl.Fleet != s.node.Fleet {
		return fmt.Errorf("the configuration declares fleet %q, this state directory is of fleet %q; correct one of them", decl.Fleet, s.node.Fleet)
	}
	if i := slices.IndexFunc(decl.Nodes, func(n DeclaredNode) bool { return n.Kind == KindSigner }); i < 0 || decl.Nodes[i].Name != s.node.Name {
		return fmt.Errorf("the configuration has no node %q of kind \"signer\", which this state directory says this machine is", s.node.Name)
	}
	renewed, err := s.renewSelfLocked()
	if err != nil {
		return err
	}
	for _, n := range decl.Nodes {
		s.ledger.node(n.Name)
	}
	s.decl = decl
	if !renewed && digest(decl, &s.ledger) == s.ledger.Declared {
		return nil
	}
	return s.publishLocked()
}

// renewSelfLocked gives the signing node a new certificate when the old one has lived two thirds.
func (s *Signer) renewSelfLocked() (bool, error) {
	cert := s.Certificate()
	if s.now().Before(cert.Leaf.NotBefore.Add(renewAfter)) {
		return false, nil
	}
	key := cert.PrivateKey.(ed25519.PrivateKey)
	chain, leaf, err := s.ca.issue(identityOfKind(s.node.Fleet, s.node.ID, s.node.Kind), key.Public(), s.now())
	if err != nil {
		return false, err
	}
	if err := s.dir.write(fileCert, encodeChain(chain)); err != nil {
		return false, err
	}
	s.ledger.gave(s.node.Name, leaf, false, s.now())
	return true, s.useCertificate(chain, key)
}

// publishLocked makes documents of the next version. The ledger is written first: a version number is
// never used for two contents, even if the power fails in between.
func (s *Signer) publishLocked() error {
	s.ledger.Version = max(s.ledger.Version, s.Doc().Version) + 1
	s.ledger.Declared = digest(s.decl, &s.ledger)
	if err := s.dir.writeJSON(fileLedger, &s.ledger); err != nil {
		return err
	}
	cert := s.Certificate()
	key := cert.PrivateKey.(ed25519.PrivateKey)
	fleet, catalogue := documents(s.decl, &s.ledger, s.now())
	raw, err := proto.SignDoc(fleet, key, cert.Certificate[:1])
	if err != nil {
		return err
	}
	if _, err := s.setFleet(raw); err != nil {
		return err
	}
	if raw, err = proto.SignDoc(catalogue, key, cert.Certificate[:1]); err != nil {
		return err
	}
	if _, err := s.setCatalogue(raw); err != nil {
		return err
	}
	s.log.Info("fleet declared", "version", s.ledger.Version, "nodes", len(s.decl.Nodes), "services", len(s.decl.Services))
	s.changed()
	return nil
}

// Join answers the ENROL of a node, which comes over the backplane.
func (s *Signer) Join(m *proto.Enrol) proto.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.As == "" {
		return s.refuse(m, reasonAgent)
	}
	rec, pub, reason := s.tokenLocked(m)
	if reason != "" {
		return s.refuse(m, reason)
	}
	i := slices.IndexFunc(s.decl.Nodes, func(n DeclaredNode) bool { return n.Name == m.As })
	switch {
	case rec.Role == proto.RoleAgent:
		return s.refuse(m, reasonAgent)
	case rec.Node != "" && rec.Node != m.As:
		return s.refuse(m, reasonOther(rec.Node, m.As))
	case i < 0:
		return s.refuse(m, reasonUndeclared(m.As))
	case roleOf(s.decl.Nodes[i].Kind) != rec.Role:
		return s.refuse(m, reasonRole(m.As, s.decl.Nodes[i].Kind, rec.Role))
	}
	if err := s.useLocked(m.Token, rec, pub); err != nil {
		return s.inside(err)
	}
	ok, err := s.admitNodeLocked(s.decl.Nodes[i], pub)
	if err != nil {
		return s.inside(err)
	}
	s.log.Info("node joined", "node", m.As, "token", m.Token)
	return ok
}

func (s *Signer) admitNodeLocked(n DeclaredNode, pub ed25519.PublicKey) (*proto.EnrolOK, error) {
	id := s.ledger.node(n.Name).ID
	chain, cert, err := s.ca.issue(identityOfKind(s.node.Fleet, id, n.Kind), pub, s.now())
	if err != nil {
		return nil, err
	}
	again := len(s.ledger.node(n.Name).Certs) > 0
	s.ledger.gave(n.Name, cert, true, s.now())
	if again {
		err = s.publishLocked() // the old certificate is revoked
	} else {
		err = s.dir.writeJSON(fileLedger, &s.ledger)
	}
	if err != nil {
		return nil, err
	}
	s.State.mu.RLock()
	defer s.State.mu.RUnlock()
	ok := &proto.EnrolOK{Chain: chain, Catalogue: s.catalogue, Fleet: s.fleetRaw}
	if roleOf(n.Kind) == proto.RoleEdge {
		ok.Secrets = []proto.GenSecret{{Gen: s.ledger.Gen, Secret: s.key.ProxySecret(id, s.ledger.Gen)}}
	}
	return ok, nil
}

// Enrol answers the ENROL of an agent, which an entry passes on.
func (s *Signer) Enrol(m *proto.Enrol) proto.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.As != "" {
		return s.refuse(m, reasonNode)
	}
	rec, pub, reason := s.tokenLocked(m)
	if reason != "" {
		return s.refuse(m, reason)
	}
	if rec.Role != proto.RoleAgent {
		return s.refuse(m, reasonNode)
	}
	id := proto.AgentIDOf(pub)
	if err := s.useLocked(m.Token, rec, pub); err != nil {
		return s.inside(err)
	}
	if err := s.keepAgent(id, agentRecord{Groups: rec.Groups, Enrolled: s.now().UTC()}); err != nil {
		return s.inside(err)
	}
	chain, cert, err := s.ca.issue(s.agent(id, rec.Groups), pub, s.now())
	if err != nil {
		return s.inside(err)
	}
	s.log.Info("agent enrolled", "agent", id, "token", m.Token, "groups", rec.Groups)
	return &proto.EnrolOK{Chain: chain, Catalogue: s.Catalogue(), Keys: s.keysLocked(id, cert)}
}

func (s *Signer) agent(id proto.AgentID, groups []string) proto.Identity {
	return proto.Identity{Fleet: s.node.Fleet, Roles: []proto.Role{proto.RoleAgent}, Agent: id, Groups: groups}
}

// keysLocked are an agent's keys for every entry. It gets no other edge's.
func (s *Signer) keysLocked(id proto.AgentID, cert *x509.Certificate) proto.Keys {
	var keys proto.Keys
	for _, n := range s.Doc().Nodes {
		if n.Kind == KindEntry {
			keys.Entries = append(keys.Entries, proto.KeyEntry{
				Node: n.ID, Key: proto.KeyID{Gen: s.ledger.Gen},
				Keys: s.key.ProxySecret(n.ID, s.ledger.Gen).Admission(id), Expiry: cert.NotAfter,
			})
		}
	}
	return keys
}

// tokenLocked checks the cheap and the secret things of a request: token, secret, expiry, uses, key.
func (s *Signer) tokenLocked(m *proto.Enrol) (tokenRecord, ed25519.PublicKey, string) {
	var rec tokenRecord
	err := s.dir.readJSON(tokenFile(m.Token), &rec)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("token record", "token", m.Token, "err", err)
		return rec, nil, reasonInside
	}
	hash := sha256.Sum256(m.Secret[:])
	if subtle.ConstantTimeCompare(hash[:], rec.Secret) != 1 {
		return rec, nil, reasonUnknown
	}
	if !s.now().Before(rec.Expires) {
		return rec, nil, reasonExpired(rec.Expires)
	}
	pub, err := requestKey(m.CSR)
	if err != nil {
		return rec, nil, reasonKey
	}
	if rec.Uses > 0 && rec.Used >= rec.Uses && !slices.Contains(rec.Holders, proto.AgentIDOf(pub)) {
		return rec, nil, reasonUsedUp(rec.Uses)
	}
	return rec, pub, ""
}

// useLocked counts a use, durably, before anything is given for it.
func (s *Signer) useLocked(id proto.TokenID, rec tokenRecord, pub ed25519.PublicKey) error {
	holder := proto.AgentIDOf(pub)
	if slices.Contains(rec.Holders, holder) {
		return nil
	}
	rec.Used++
	rec.Holders = append(rec.Holders, holder)
	rec.Holders = rec.Holders[max(0, len(rec.Holders)-maxHolders):]
	return s.dir.writeJSON(tokenFile(id), &rec)
}

func (s *Signer) refuse(m *proto.Enrol, reason string) proto.Message {
	s.log.Info("enrolment refused", "token", m.Token, "as", cmp.Or(m.As, "agent"), "why", reason)
	return &proto.EnrolFail{Reason: reason}
}

func (s *Signer) inside(err error) proto.Message {
	s.log.Error("enrolment", "err", err)
	return &proto.EnrolFail{Reason: reasonInside}
}
