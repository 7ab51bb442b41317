package fleet

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"migrationsensor/proto"
)

// JoinConfig is what Join needs. Nil functions are the real ones.
type JoinConfig struct {
	Dir   string // state directory
	As    string // which declared node this machine is
	Token proto.Token
	Dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	Now   func() time.Time
}

// RefusedError is the signing node's reason, a whole sentence.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

const fileJoinKey = "join.key" // becomes node.key when the signing node has agreed

// Join makes this machine a node of the token's fleet. Its key is made here and stays here. A machine
// that joins again under the same name keeps its id; the certificate before is revoked.
func Join(ctx context.Context, cfg JoinConfig) (*State, error) {
	if cfg.Dial == nil {
		cfg.Dial = dialPlain
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	d, err := makeDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if d.has(fileCAKey) {
		return nil, fmt.Errorf("%s belongs to a signing node: %w; set another `state`", cfg.Dir, ErrExists)
	}
	key, err := d.makeKey(fileJoinKey)
	if err != nil {
		return nil, err
	}
	ok, err := cfg.ask(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := cfg.keep(d, key, ok); err != nil {
		return nil, err
	}
	return OpenState(cfg.Dir, cfg.Now)
}

func (c *JoinConfig) check() error {
	if c.As == "" {
		return errors.New("which node is this machine? write --as NODE, a name from [[node]] on the signing node")
	}
	if c.Token.Role == proto.RoleAgent {
		return &RefusedError{reasonAgent}
	}
	if c.Token.Node != "" && c.Token.Node != c.As {
		return &RefusedError{reasonOther(c.Token.Node, c.As)}
	}
	return c.Token.Check(c.Now())
}

// ask sends ENROL to the signing node, once that has shown the CA that the token pins.
func (c *JoinConfig) ask(ctx context.Context, key ed25519.PrivateKey) (*proto.EnrolOK, error) {
	csr, err := newRequest(key)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*handshakeTime)
	defer cancel()
	raw, err := c.Dial(ctx, "tcp", c.Token.Signer.String())
	if err != nil {
		return nil, fmt.Errorf("the signing node cannot be reached over the backplane; does proxyd run there, and does this machine reach %s? %w", c.Token.Signer, err)
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, SessionTicketsDisabled: true,
		VerifyConnection: c.pinned,
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("signing node at %s: %w", c.Token.Signer, err)
	}
	if err := proto.WriteMessage(conn, &proto.Enrol{Token: c.Token.ID, Secret: c.Token.Secret, CSR: csr, As: c.As}); err != nil {
		return nil, fmt.Errorf("signing node at %s: %w", c.Token.Signer, err)
	}
	m, err := proto.NewReader(conn, maxMessage).Message()
	if err != nil {
		return nil, fmt.Errorf("signing node at %s: no answer: %w", c.Token.Signer, err)
	}
	switch m := m.(type) {
	case *proto.EnrolOK:
		return m, nil
	case *proto.EnrolFail:
		return nil, &RefusedError{m.Reason}
	}
	return nil, fmt.Errorf("signing node at %s: answered with %T", c.Token.Signer, m)
}

// pinned checks the signing node before anything secret is sent: the CA by the hash in the token,
// then its certificate and role.
func (c *JoinConfig) pinned(cs tls.ConnectionState) error {
	ca := cs.PeerCertificates[len(cs.PeerCertificates)-1]
	if proto.CAHash(ca) != c.Token.CAHash {
		return errors.New("it belongs to another fleet than the token")
	}
	id, err := proto.VerifyPeer(rawCerts(cs), ca, c.Now(), x509.ExtKeyUsageServerAuth)
	if err != nil {
		return err
	}
	if !id.Has(proto.RoleSigner) {
		return errors.New("it is not the signing node")
	}
	return nil
}

// keep checks what the signing node gave and writes it, node.json last.
func (c *JoinConfig) keep(d dir, key ed25519.PrivateKey, m *proto.EnrolOK) error {
	if len(m.Chain) < 2 {
		return errors.New("the signing node sent no certificate chain")
	}
	ca, err := x509.ParseCertificate(m.Chain[len(m.Chain)-1])
	if err != nil || proto.CAHash(ca) != c.Token.CAHash {
		return errors.New("the signing node sent the CA of another fleet")
	}
	id, err := proto.VerifyPeer(m.Chain, ca, c.Now(), x509.ExtKeyUsageAny)
	if err != nil {
		return err
	}
	var doc document
	if err := proto.OpenDoc(m.Fleet, ca, c.Now(), &doc); err != nil {
		return err
	}
	n, ok := doc.Node(id.Node)
	if !ok || n.Name != c.As {
		return fmt.Errorf("the signing node's documents do not know node %q; restart proxyd there", c.As)
	}
	if err := sameFleet(d, ca); err != nil {
		return err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return d.writeJSON(fileSecrets, m.Secrets) },
		func() error { return d.write(fileFleet, m.Fleet) },
		func() error { return d.write(fileCatalogue, m.Catalogue) },
		func() error { return d.write(fileCert, encodeChain(m.Chain)) },
		func() error { return d.write(fileKey, keyPEM) },
		func() error {
			return d.writeJSON(fileNode, Node{Fleet: id.Fleet, Name: n.Name, ID: n.ID, Kind: n.Kind})
		},
		func() error { return d.remove(fileJoinKey) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// sameFleet refuses to turn a node of one fleet into one of another without anybody noticing.
func sameFleet(d dir, ca *x509.Certificate) error {
	chain, err := d.readChain(fileCert)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && bytes.Equal(chain[len(chain)-1], ca.Raw) {
		return nil
	}
	return fmt.Errorf("%s belongs to a node of another fleet: %w; set another `state`, or remove it", string(d), ErrExists)
}
