package fleet

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"migrationsensor/proto"
)

// TokenRequest says what a new token is good for.
type TokenRequest struct {
	Role   proto.Role    // agent, edge or anchor
	Node   string        // edge, anchor: the only node that may join with it; empty: any of that role
	Uses   int           // 0: without limit (an open token)
	Life   time.Duration // until it expires
	Groups []string      // agents: what the certificate will say
}

const maxTokenLife = 10 * 365 * 24 * time.Hour

// tokenRecord is what the signing node keeps of a token.
type tokenRecord struct {
	Role    proto.Role `json:"role"`
	Node    string     `json:"node,omitempty"`
	Groups  []string   `json:"groups,omitempty"`
	Secret  []byte     `json:"secret_sha256"`
	Expires time.Time  `json:"expires"`
	Uses    int        `json:"uses"` // 0: without limit
	Used    int        `json:"used"`
	// The last that used it: whoever asks again with the same key lost the answer on the way, and
	// does not count twice.
	Holders []proto.AgentID `json:"holders,omitempty"`
}

const maxHolders = 16

func tokenFile(id proto.TokenID) string { return filepath.Join(dirTokens, id.String()+".json") }

// CreateToken makes a token and its record in the signing node's state directory. It does not need a
// running signing node.
func CreateToken(path string, req TokenRequest, now time.Time) (proto.Token, error) {
	s, err := OpenState(path, func() time.Time { return now })
	if err != nil {
		return proto.Token{}, err
	}
	if !s.dir.has(fileCAKey) {
		return proto.Token{}, fmt.Errorf("%q is not the signing node of fleet %q; make tokens there", s.node.Name, s.node.Fleet)
	}
	if err := s.checkRequest(req); err != nil {
		return proto.Token{}, err
	}
	t := proto.Token{
		ID: proto.NewTokenID(), Role: req.Role, Node: req.Node,
		Expires: now.Add(req.Life).Truncate(time.Second), CAHash: proto.CAHash(s.ca),
	}
	rand.Read(t.Secret[:])
	if req.Role == proto.RoleAgent {
		err = s.addEntries(&t)
	} else {
		t.Signer, err = s.signerAddr()
	}
	if err != nil {
		return proto.Token{}, err
	}
	hash := sha256.Sum256(t.Secret[:])
	rec := tokenRecord{
		Role: req.Role, Node: req.Node, Groups: req.Groups, Secret: hash[:], Expires: t.Expires, Uses: req.Uses,
	}
	if err := os.MkdirAll(s.dir.path(dirTokens), 0o700); err != nil {
		return proto.Token{}, fmt.Errorf("state: %w", err)
	}
	sweepTokens(s.dir, now)
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return proto.Token{}, err
	}
	return t, s.dir.create(tokenFile(t.ID), b)
}

func (s *State) checkRequest(req TokenRequest) error {
	switch {
	case req.Role != proto.RoleAgent && req.Role != proto.RoleEdge && req.Role != proto.RoleAnchor:
		return fmt.Errorf("role %q: write agent, edge or anchor", req.Role)
	case req.Life <= 0 || req.Life > maxTokenLife:
		return fmt.Errorf("a token that expires after %s: write a duration up to 10 years, such as 24h", req.Life)
	case req.Uses < 0:
		return fmt.Errorf("%d uses: write 1 or more, or --open", req.Uses)
	case req.Role != proto.RoleAgent && len(req.Groups) > 0:
		return errors.New("groups are for agents; leave them out, or use --role agent")
	case req.Role == proto.RoleAgent && req.Node != "":
		return errors.New("--node is for edges and anchors; leave it out for --role agent")
	}
	if req.Node == "" {
		return nil
	}
	for _, n := range s.Doc().Nodes {
		if n.Name == req.Node && roleOf(n.Kind) != req.Role {
			return fmt.Errorf("node %q is of kind %q: use --role %s", n.Name, n.Kind, roleOf(n.Kind))
		} else if n.Name == req.Node {
			return nil
		}
	}
	return errors.New(reasonUndeclared(req.Node))
}

// addEntries puts each entry into an agent's token, with the token's own keys for it.
func (s *State) addEntries(t *proto.Token) error {
	var l ledger
	if err := s.dir.readJSON(fileLedger, &l); err != nil {
		return err
	}
	key, err := readFleetKey(s.dir)
	if err != nil {
		return err
	}
	for _, n := range s.Doc().Nodes {
		if n.Kind != KindEntry {
			continue
		}
		e := proto.Target{Port: n.LinkPort, Node: n.ID, Key: proto.KeyID{Gen: l.Gen}, Keys: key.ProxySecret(n.ID, l.Gen).Admission(t.ID)}
		for _, a := range n.Public {
			if a.Is4() {
				e.Addr4 = a
			} else {
				e.Addr6 = a
			}
		}
		t.Entries = append(t.Entries, e)
	}
	if len(t.Entries) == 0 {
		return errors.New("the fleet has no entry, so no agent can come in; declare a [[node]] of kind \"entry\" and restart proxyd on the signing node")
	}
	return nil
}

func (s *State) signerAddr() (netip.AddrPort, error) {
	self, ok := s.Self()
	if !ok {
		return netip.AddrPort{}, errors.New("the signing node is not declared in its own fleet; restart proxyd here")
	}
	return self.Backplane, nil
}

// sweepTokens removes records that expired a month ago; until then the signing node says why.
func sweepTokens(d dir, now time.Time) {
	files, err := os.ReadDir(d.path(dirTokens))
	if err != nil {
		return
	}
	for _, f := range files {
		name := filepath.Join(dirTokens, f.Name())
		var rec tokenRecord
		if d.readJSON(name, &rec) == nil && now.Sub(rec.Expires) > 30*24*time.Hour {
			os.Remove(d.path(name))
		}
	}
}
