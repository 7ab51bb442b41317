package fleet

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	"migrationsensor/proto"
)

// Ours.
const (
	certLife   = 90 * 24 * time.Hour
	renewAfter = 60 * 24 * time.Hour
	caLife     = 10 * 365 * 24 * time.Hour
	backdate   = time.Hour // clocks of others may be behind
)

// authority is the fleet's CA. Only the signing node has one.
type authority struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

// newAuthority makes a CA.
func newAuthority(fleet string, now time.Time) (*authority, error) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Migration Sensor fleet " + fleet},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, pub, key)
	if err != nil {
		return nil, fmt.Errorf("make the CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the CA: %w", err)
	}
	return &authority{cert, key}, nil
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
}

// issue signs a certificate for the identity and returns the chain, leaf first. Agents can be
// clients only: else an insider could pose as a proxy.
func (a *authority) issue(id proto.Identity, pub crypto.PublicKey, now time.Time) ([][]byte, *x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(certLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  id.URIs(),
	}
	if !id.Has(proto.RoleAgent) {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, pub, a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("sign a certificate: %w", err)
	}
	return [][]byte{der, a.cert.Raw}, cert, nil
}

var errCSR = errors.New("the certificate request is not signed by an Ed25519 key of its own")

// requestKey checks a certificate request and returns its key. Nothing else in it counts: who the
// holder is, the signing node says.
func requestKey(csr []byte) (ed25519.PublicKey, error) {
	if len(csr) > 4096 {
		return nil, errCSR
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, errCSR
	}
	pub, ok := req.PublicKey.(ed25519.PublicKey)
	if !ok || req.CheckSignature() != nil {
		return nil, errCSR
	}
	return pub, nil
}

// newRequest makes the certificate request for a key.
func newRequest(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return der, nil
}

// identityOfKind is what a node of a kind is in its certificate. Each edge can be an anchor too.
func identityOfKind(fleet string, id proto.NodeID, kind string) proto.Identity {
	out := proto.Identity{Fleet: fleet, Node: id}
	switch kind {
	case KindEntry, KindHidden:
		out.Roles = []proto.Role{proto.RoleEdge, proto.RoleAnchor}
		out.Hidden = kind == KindHidden
	case KindAnchor:
		out.Roles = []proto.Role{proto.RoleAnchor}
	case KindSigner:
		out.Roles = []proto.Role{proto.RoleSigner}
	}
	return out
}
