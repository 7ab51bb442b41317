package proto

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Role is what a certificate lets its holder be.
type Role string

// The roles of a fleet.
const (
	RoleAgent  Role = "agent"
	RoleEdge   Role = "edge"
	RoleAnchor Role = "anchor"
	RoleSigner Role = "signer"
)

// Identity is who a certificate of the fleet says its holder is. An agent has an Agent id and groups;
// a node has a Node id and one or more node roles.
type Identity struct {
	Fleet  string
	Roles  []Role
	Agent  AgentID
	Node   NodeID
	Groups []string
	Hidden bool // an edge whose address is secret
}

const (
	scheme    = "ms"
	maxURIs   = 64
	maxChain  = 4
	maxDER    = 8 << 10
	kindHid   = "hidden"
	pathGroup = "group"
	pathKind  = "kind"
)

// ErrIdentity is a certificate that is not one of a fleet.
var ErrIdentity = errors.New("not a certificate of a Migration Sensor fleet")

// Has reports whether the identity has the role.
func (i Identity) Has(r Role) bool { return slices.Contains(i.Roles, r) }

// URIs returns the subject alternative names that carry the identity: ms://FLEET/ROLE/ID for each role,
// ms://FLEET/group/NAME for each group, ms://FLEET/kind/hidden for a hidden edge.
func (i Identity) URIs() []*url.URL {
	var out []*url.URL
	add := func(kind, name string) {
		out = append(out, &url.URL{Scheme: scheme, Host: i.Fleet, Path: "/" + kind + "/" + name})
	}
	for _, r := range i.Roles {
		if r == RoleAgent {
			add(string(r), i.Agent.String())
		} else {
			add(string(r), i.Node.String())
		}
	}
	for _, g := range i.Groups {
		add(pathGroup, g)
	}
	if i.Hidden {
		add(pathKind, kindHid)
	}
	return out
}

// IdentityOf reads the identity out of a certificate. It does not verify the certificate.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	var id Identity
	if len(cert.URIs) == 0 || len(cert.URIs) > maxURIs {
		return Identity{}, fmt.Errorf("%d names: %w", len(cert.URIs), ErrIdentity)
	}
	for _, u := range cert.URIs {
		if err := id.read(u); err != nil {
			return Identity{}, err
		}
	}
	if err := id.check(cert.PublicKey); err != nil {
		return Identity{}, err
	}
	return id, nil
}

// check holds what joins the names: an agent is nothing else, and has the id of its key.
func (i *Identity) check(key any) error {
	if len(i.Roles) == 0 || i.Has(RoleAgent) && len(i.Roles) > 1 {
		return fmt.Errorf("roles %v: %w", i.Roles, ErrIdentity)
	}
	if !i.Has(RoleAgent) {
		if i.Node.IsZero() {
			return fmt.Errorf("node id of zeros: %w", ErrIdentity)
		}
		return nil
	}
	pub, ok := key.(ed25519.PublicKey)
	if !ok || AgentIDOf(pub) != i.Agent || i.Hidden {
		return fmt.Errorf("agent id is not that of the key: %w", ErrIdentity)
	}
	return nil
}

func (i *Identity) read(u *url.URL) error {
	kind, name, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if u.Scheme != scheme || u.Host == "" || !ok || (i.Fleet != "" && i.Fleet != u.Host) {
		return fmt.Errorf("name %q: %w", u, ErrIdentity)
	}
	i.Fleet = u.Host
	r := Role(kind)
	if i.Has(r) {
		return fmt.Errorf("role %s twice: %w", r, ErrIdentity)
	}
	switch r {
	case RoleAgent:
		i.Roles = append(i.Roles, r)
		return i.Agent.UnmarshalText([]byte(name))
	case RoleEdge, RoleAnchor, RoleSigner:
		var n NodeID
		if err := n.UnmarshalText([]byte(name)); err != nil {
			return err
		}
		if !i.Node.IsZero() && i.Node != n {
			return fmt.Errorf("two node ids: %w", ErrIdentity)
		}
		i.Roles, i.Node = append(i.Roles, r), n
		return nil
	}
	switch {
	case kind == pathGroup && name != "":
		i.Groups = append(i.Groups, name)
	case kind == pathKind && name == kindHid:
		i.Hidden = true
	default:
		return fmt.Errorf("name %q: %w", u, ErrIdentity)
	}
	return nil
}

// VerifyPeer checks the certificates of a TLS peer (DER, leaf first) against the fleet's CA and
// returns who it is. It stands in the place of the checks by host name that crypto/tls does, since
// links carry no name. The caller still compares id and role with what it expects.
func VerifyPeer(raw [][]byte, ca *x509.Certificate, now time.Time, usage x509.ExtKeyUsage) (Identity, error) {
	if len(raw) == 0 || len(raw) > maxChain || ca == nil {
		return Identity{}, fmt.Errorf("%d certificates: %w", len(raw), ErrIdentity)
	}
	var certs []*x509.Certificate
	for _, der := range raw {
		if len(der) > maxDER {
			return Identity{}, fmt.Errorf("certificate of %d bytes: %w", len(der), ErrIdentity)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return Identity{}, fmt.Errorf("peer's certificate: %w", err)
		}
		certs = append(certs, c)
	}
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
		CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	}
	opts.Roots.AddCert(ca)
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := certs[0].Verify(opts); err != nil {
		return Identity{}, fmt.Errorf("peer's certificate: %w", err)
	}
	return IdentityOf(certs[0])
}
