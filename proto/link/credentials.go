package link

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"migrationsensor/proto"
)

// ErrPeer is a peer that proved to be somebody, but not who this end of the link must be.
var ErrPeer = errors.New("wrong peer")

// Credentials are what one end of a link shows, and what it trusts.
type Credentials struct {
	CA     *x509.Certificate // nil: pinned by CAHash
	CAHash [32]byte          // SHA-256 of the CA's certificate (DER), from a token; used when CA is nil
	Cert   tls.Certificate   // may be empty for a Dialer that only enrols; at a node the chain ends with the CA, for those that know its hash only
	Fleet  string            // empty: whatever the CA signed

	// Current is the certificate as it was last renewed, for a node that runs longer than one is valid; nil: Cert.
	Current func() tls.Certificate
}

func (c Credentials) cert() tls.Certificate {
	if c.Current != nil {
		return c.Current()
	}
	return c.Cert
}

// authority returns the CA to check a chain against. A pinned one comes in the chain itself: who
// can show the certificate with the hash shows the CA.
func (c Credentials) authority(raw [][]byte) (*x509.Certificate, error) {
	if c.CA != nil {
		return c.CA, nil
	}
	for _, der := range raw {
		if sha256.Sum256(der) == c.CAHash {
			return x509.ParseCertificate(der)
		}
	}
	return nil, fmt.Errorf("%w: its certificates are not of the fleet that made the token", ErrPeer)
}

func (c Credentials) verify(raw [][]byte, now time.Time, usage x509.ExtKeyUsage) (proto.Identity, error) {
	ca, err := c.authority(raw)
	if err != nil {
		return proto.Identity{}, err
	}
	id, err := proto.VerifyPeer(raw, ca, now, usage)
	if err != nil {
		return proto.Identity{}, err
	}
	if c.Fleet != "" && id.Fleet != c.Fleet {
		return proto.Identity{}, fmt.Errorf("%w: of fleet %q, this is %q", ErrPeer, id.Fleet, c.Fleet)
	}
	return id, nil
}

// base is what both ends of every link set. X25519 only and no tickets: the first flight must stay
// one segment. Records are full from the start, so that a frame is a record.
func base() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		CurvePreferences:            []tls.CurveID{tls.X25519},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}

// client is the agent's TLS: the node must be exactly the one that was dialled, in the role that ends
// this kind of link. An insider with another certificate of the fleet can't pose as it.
func (c Credentials) client(kind proto.Kind, node proto.NodeID, now time.Time, peer *proto.Identity) *tls.Config {
	cfg := base()
	// There is no name to check, and none may be on the wire: verify below takes the place of it.
	cfg.InsecureSkipVerify = true
	cfg.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
		id, err := c.verify(raw, now, x509.ExtKeyUsageServerAuth)
		if err != nil {
			return err
		}
		if id.Node != node {
			return fmt.Errorf("%w: node %s, dialled %s", ErrPeer, id.Node, node)
		}
		if !id.Has(proto.RoleEdge) && (kind != proto.KindData || !id.Has(proto.RoleAnchor)) {
			return fmt.Errorf("%w: roles %v can't end a %s link", ErrPeer, id.Roles, kind)
		}
		*peer = id
		return nil
	}
	if kind != proto.KindEnrol && len(c.Cert.Certificate) > 0 {
		cfg.Certificates = []tls.Certificate{c.Cert}
	}
	return cfg
}

// server is the node's TLS: the agent's certificate must name the agent of the preamble. On an enrol
// link the agent has none yet.
func (c Credentials) server(v proto.Verified, now time.Time, peer *proto.Identity) *tls.Config {
	cfg := base()
	cfg.Certificates = []tls.Certificate{c.cert()}
	if v.Kind == proto.KindEnrol {
		return cfg
	}
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
		id, err := c.verify(raw, now, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return err
		}
		if !id.Has(proto.RoleAgent) || id.Agent != v.Agent {
			return fmt.Errorf("%w: certificate of agent %s, preamble of %s", ErrPeer, id.Agent, v.Agent)
		}
		*peer = id
		return nil
	}
	return cfg
}
