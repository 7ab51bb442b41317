package fleet

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"time"

	"migrationsensor/proto"
)

const dirAgents = "agents"

// agentRecord is what the signing node keeps of an agent: what its next certificate will say.
type agentRecord struct {
	Groups   []string  `json:"groups,omitempty"`
	Enrolled time.Time `json:"enrolled"`
}

func agentFile(id proto.AgentID) string { return filepath.Join(dirAgents, id.String()+".json") }

func (s *Signer) keepAgent(id proto.AgentID, rec agentRecord) error {
	if err := os.MkdirAll(s.dir.path(dirAgents), 0o700); err != nil {
		return err
	}
	return s.dir.writeJSON(agentFile(id), rec)
}

// RenewAgent gives an agent that an entry has verified its next certificate, for the same key: its
// id is that key's.
func (s *Signer) RenewAgent(id proto.AgentID, m *proto.Renew) proto.Message {
	pub, err := requestKey(m.CSR)
	if err != nil || proto.AgentIDOf(pub) != id {
		return &proto.EnrolFail{Reason: reasonKey}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var rec agentRecord
	if err := s.dir.readJSON(agentFile(id), &rec); err != nil {
		return &proto.EnrolFail{Reason: reasonRenew}
	}
	chain, _, err := s.ca.issue(s.agent(id, rec.Groups), pub, s.now())
	if err != nil {
		return s.inside(err)
	}
	s.log.Info("certificate renewed", "agent", id)
	return &proto.RenewOK{Chain: chain}
}

// RenewNode gives a node its next certificate; n is who the peer link says it is.
func (s *Signer) RenewNode(n proto.FleetNode, m *proto.Renew) proto.Message {
	pub, err := requestKey(m.CSR)
	if err != nil {
		return &proto.EnrolFail{Reason: reasonKey}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	chain, cert, err := s.ca.issue(identityOfKind(s.node.Fleet, n.ID, n.Kind), pub, s.now())
	if err != nil {
		return s.inside(err)
	}
	// The old one stays good until it expires: the answer may be lost on the way.
	s.ledger.gave(n.Name, cert, false, s.now())
	if err := s.dir.writeJSON(fileLedger, &s.ledger); err != nil {
		return s.inside(err)
	}
	s.log.Info("certificate renewed", "node", n.Name)
	return &proto.RenewOK{Chain: chain}
}

// renewSelf renews the signing node's own certificate, and the documents, which are signed under it.
func (s *Signer) renewSelf() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if renewed, err := s.renewSelfLocked(); err != nil || !renewed {
		return err
	}
	return s.publishLocked()
}

// due reports whether this node's certificate should be renewed, and how long it is still good.
func (s *State) due() (bool, time.Duration) {
	leaf := s.Certificate().Leaf
	return !s.now().Before(leaf.NotBefore.Add(renewAfter)), leaf.NotAfter.Sub(s.now())
}

var errRenewed = errors.New("the renewed certificate is not newer than the old one")

// takeRenewed keeps a renewed certificate, on disk first.
func (s *State) takeRenewed(m *proto.RenewOK) error {
	old := s.Certificate()
	cert, err := s.checkCertificate(m.Chain, old.PrivateKey.(ed25519.PrivateKey))
	if err != nil {
		return err
	}
	if !cert.Leaf.NotAfter.After(old.Leaf.NotAfter) {
		return errRenewed
	}
	if err := s.dir.write(fileCert, encodeChain(m.Chain)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cert = cert
	return nil
}
