package fleet

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"migrationsensor/proto"
)

func TestInitNeverOverwrites(t *testing.T) {
	f := newTestFleet(t)
	before, err := os.ReadFile(filepath.Join(f.dir("sign"), fileCAKey))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(f.dir("sign"), f.decl, f.now()); !errors.Is(err, ErrExists) {
		t.Errorf("a second init: got %v", err)
	}
	after, _ := os.ReadFile(filepath.Join(f.dir("sign"), fileCAKey))
	if string(before) != string(after) {
		t.Error("the CA's key was changed")
	}
	err = filepath.Walk(f.dir("sign"), func(path string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v: others may read it", path, fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStateRefusesAKeyThatOthersMayRead(t *testing.T) {
	f := newTestFleet(t)
	if err := os.Chmod(filepath.Join(f.dir("sign"), fileKey), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenState(f.dir("sign"), f.now); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v", err)
	}
	if _, err := OpenState(t.TempDir(), f.now); !errors.Is(err, ErrNotJoined) {
		t.Errorf("an empty directory: got %v", err)
	}
}

func TestAgentEnrols(t *testing.T) {
	f := newTestFleet(t)
	s := f.signer()
	token := f.token(TokenRequest{Role: proto.RoleAgent, Uses: 1, Groups: []string{"staff"}})
	key, csr := agentKey(t)
	id := proto.AgentIDOf(key.Public().(ed25519.PublicKey))
	ok, is := s.Enrol(&proto.Enrol{Token: token.ID, Secret: token.Secret, CSR: csr}).(*proto.EnrolOK)
	if !is {
		t.Fatal("refused")
	}
	who, err := proto.VerifyPeer(ok.Chain, s.CA(), f.now(), x509.ExtKeyUsageClientAuth)
	if err != nil || who.Agent != id || !slices.Equal(who.Groups, []string{"staff"}) || who.Fleet != "test" {
		t.Errorf("got %+v, %v", who, err)
	}
	if _, err := proto.VerifyPeer(ok.Chain, s.CA(), f.now(), x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("an agent's certificate works for a server: it could pose as a proxy")
	}
	if ok.Fleet != nil || ok.Secrets != nil {
		t.Error("an agent got what is for nodes")
	}
	// Keys: of the entry only, and those that the entry derives by itself.
	p1 := s.key.ProxySecret(f.id("p1"), 1)
	if len(ok.Keys.Entries) != 1 || ok.Keys.Entries[0].Keys != p1.Admission(id) || ok.Keys.Entries[0].Node != f.id("p1") {
		t.Errorf("keys %+v", ok.Keys.Entries)
	}
	if len(token.Entries) != 1 || token.Entries[0].Keys != p1.Admission(token.ID) || !token.Entries[0].Addr6.IsValid() {
		t.Errorf("the token's entries: %+v", token.Entries)
	}
	var c proto.Catalogue
	if err := proto.OpenDoc(ok.Catalogue, s.CA(), f.now(), &c); err != nil || len(c.Entries) != 1 {
		t.Errorf("catalogue %+v, %v", c, err)
	}
	if strings.Contains(string(ok.Catalogue), "198.18.0.2") || strings.Contains(string(ok.Catalogue), "198.18.0.3") {
		t.Error("the catalogue names a hidden edge's address")
	}
}

func TestEveryRefusal(t *testing.T) {
	f := newTestFleet(t)
	s := f.signer()
	request := func(tok proto.Token, as string) *proto.Enrol {
		_, csr := agentKey(t)
		return &proto.Enrol{Token: tok.ID, Secret: tok.Secret, CSR: csr, As: as}
	}
	agent := f.token(TokenRequest{Role: proto.RoleAgent, Uses: 1})
	used := f.token(TokenRequest{Role: proto.RoleAgent, Uses: 1})
	twice := f.token(TokenRequest{Role: proto.RoleAgent, Uses: 2})
	edge := f.token(TokenRequest{Role: proto.RoleEdge, Uses: 1})
	bound := f.token(TokenRequest{Role: proto.RoleEdge, Uses: 1, Node: "p2"})
	short := f.token(TokenRequest{Role: proto.RoleAgent, Uses: 1, Life: time.Minute})
	for range 2 {
		s.Enrol(request(twice, ""))
	}
	s.Enrol(request(used, ""))
	f.advance(2 * time.Minute)

	wrongSecret := request(agent, "")
	wrongSecret.Secret[0] ^= 1
	foreign := request(agent, "")
	foreign.Token = proto.NewTokenID()
	badCSR := request(agent, "")
	badCSR.CSR[len(badCSR.CSR)-1] ^= 1
	p256 := request(agent, "")
	p256.CSR = p256Request(t)
	tests := []struct {
		name string
		got  proto.Message
		want string
	}{
		{"expired", s.Enrol(request(short, "")), "this token expired on "},
		{"used up", s.Enrol(request(used, "")), "this token was for one use and has been used"},
		{"used up, of many", s.Enrol(request(twice, "")), "this token was for 2 uses and all are used"},
		{"unknown", s.Enrol(foreign), reasonUnknown},
		{"wrong secret", s.Enrol(wrongSecret), reasonUnknown},
		{"changed request", s.Enrol(badCSR), reasonKey},
		{"key of another kind", s.Enrol(p256), reasonKey},
		{"edge's token through an entry", s.Enrol(request(edge, "")), reasonNode},
		{"node's request through an entry", s.Enrol(request(edge, "p1")), reasonNode},
		{"agent's token over the backplane", s.Join(request(agent, "p1")), reasonAgent},
		{"agent's request over the backplane", s.Join(request(agent, "")), reasonAgent},
		{"other node than the token's", s.Join(request(bound, "p1")), `this token is for node "p2", not for "p1"`},
		{"undeclared node", s.Join(request(edge, "p9")), `there is no node "p9" in the fleet`},
		{"anchor with an edge's token", s.Join(request(edge, "a1")), `node "a1" is of kind "anchor", this token is for role "edge"`},
		{"signer with an edge's token", s.Join(request(edge, "sign")), `node "sign" is of kind "signer"`},
	}
	for _, tt := range tests {
		fail, ok := tt.got.(*proto.EnrolFail)
		if !ok || !strings.HasPrefix(fail.Reason, tt.want) {
			t.Errorf("%s: got %+v, want %s", tt.name, tt.got, tt.want)
		}
	}
	if _, ok := s.Enrol(request(agent, "")).(*proto.EnrolOK); !ok {
		t.Error("refused requests used the token up")
	}
}

func p256Request(t *testing.T) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestUsesAreCountedOnDisk(t *testing.T) {
	f := newTestFleet(t)
	token := f.token(TokenRequest{Role: proto.RoleAgent, Uses: 1})
	_, csr := agentKey(t)
	enrol := &proto.Enrol{Token: token.ID, Secret: token.Secret, CSR: csr}
	if _, ok := f.signer().Enrol(enrol).(*proto.EnrolOK); !ok {
		t.Fatal("refused")
	}
	restarted := f.signer()
	if _, ok := restarted.Enrol(enrol).(*proto.EnrolOK); !ok {
		t.Error("the same key again: its answer was lost on the way, it must not count twice")
	}
	_, other := agentKey(t)
	if _, ok := restarted.Enrol(&proto.Enrol{Token: token.ID, Secret: token.Secret, CSR: other}).(*proto.EnrolFail); !ok {
		t.Error("a restart forgot that the token was used")
	}
}

func TestOpenTokenHasNoLimit(t *testing.T) {
	f := newTestFleet(t)
	s := f.signer()
	token := f.token(TokenRequest{Role: proto.RoleAgent, Uses: 0})
	for i := range maxHolders + 5 {
		_, csr := agentKey(t)
		if _, ok := s.Enrol(&proto.Enrol{Token: token.ID, Secret: token.Secret, CSR: csr}).(*proto.EnrolOK); !ok {
			t.Fatalf("use %d refused", i)
		}
	}
}

func TestTokenRequests(t *testing.T) {
	f := newTestFleet(t)
	f.run("sign")
	f.join("p1")
	tests := []struct {
		name string
		dir  string
		req  TokenRequest
		want string
	}{
		{"no such role", "sign", TokenRequest{Role: "king", Life: time.Hour}, "write agent, edge or anchor"},
		{"signers cannot join", "sign", TokenRequest{Role: proto.RoleSigner, Life: time.Hour}, "write agent, edge or anchor"},
		{"no time", "sign", TokenRequest{Role: proto.RoleAgent}, "such as 24h"},
		{"groups of an edge", "sign", TokenRequest{Role: proto.RoleEdge, Life: time.Hour, Groups: []string{"a"}}, "groups are for agents"},
		{"node of an agent", "sign", TokenRequest{Role: proto.RoleAgent, Life: time.Hour, Node: "p1"}, "--node is for edges"},
		{"unknown node", "sign", TokenRequest{Role: proto.RoleEdge, Life: time.Hour, Node: "p9"}, `there is no node "p9"`},
		{"node of another role", "sign", TokenRequest{Role: proto.RoleEdge, Life: time.Hour, Node: "a1"}, "use --role anchor"},
		{"not the signing node", "p1", TokenRequest{Role: proto.RoleAgent, Life: time.Hour}, `"p1" is not the signing node`},
	}
	for _, tt := range tests {
		if _, err := CreateToken(f.dir(tt.dir), tt.req, f.now()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestRenewal(t *testing.T) {
	f := newTestFleet(t)
	s := f.signer()
	token := f.token(TokenRequest{Role: proto.RoleAgent, Uses: 1, Groups: []string{"staff"}})
	key, csr := agentKey(t)
	id := proto.AgentIDOf(key.Public().(ed25519.PublicKey))
	s.Enrol(&proto.Enrol{Token: token.ID, Secret: token.Secret, CSR: csr})
	f.advance(renewAfter)
	ok, is := s.RenewAgent(id, &proto.Renew{CSR: csr}).(*proto.RenewOK)
	if !is {
		t.Fatal("refused")
	}
	who, err := proto.VerifyPeer(ok.Chain, s.CA(), f.now().Add(certLife-2*time.Hour), x509.ExtKeyUsageClientAuth)
	if err != nil || who.Agent != id || !slices.Equal(who.Groups, []string{"staff"}) {
		t.Errorf("got %+v, %v", who, err)
	}
	_, other := agentKey(t)
	if m, refused := s.RenewAgent(id, &proto.Renew{CSR: other}).(*proto.EnrolFail); !refused || m.Reason != reasonKey {
		t.Error("an entry got a certificate for an agent's id with a key of its own")
	}
	strange, csr2 := agentKey(t)
	if m, refused := s.RenewAgent(proto.AgentIDOf(strange.Public().(ed25519.PublicKey)), &proto.Renew{CSR: csr2}).(*proto.EnrolFail); !refused || m.Reason != reasonRenew {
		t.Error("an agent that never enrolled was renewed")
	}
}

func TestSigningNodeRenewsItself(t *testing.T) {
	f := newTestFleet(t)
	old := f.signer()
	f.advance(renewAfter + time.Hour)
	s := f.signer()
	if !s.Certificate().Leaf.NotAfter.After(old.Certificate().Leaf.NotAfter) || s.Doc().Version != old.Doc().Version+1 {
		t.Error("the documents are signed under a certificate that will soon expire")
	}
	f.advance(certLife - 2*time.Hour) // the old certificate is dead, the state still opens
	f.state("sign")
}
