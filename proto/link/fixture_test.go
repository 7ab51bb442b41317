package link

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"migrationsensor/proto"
)

const patience = 10 * time.Second

// fleet is a CA that gives certificates to whoever a test needs.
type fleet struct {
	t    *testing.T
	name string
	key  ed25519.PrivateKey
	ca   *x509.Certificate
	at   netip.AddrPort // where its nodes listen
}

func newFleet(t *testing.T, name string) *fleet {
	t.Helper()
	pub, key, _ := ed25519.GenerateKey(nil)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
	}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, _ := x509.ParseCertificate(der)
	return &fleet{t: t, name: name, key: key, ca: ca, at: netip.MustParseAddrPort("127.0.0.1:0")}
}

func (f *fleet) issue(id proto.Identity) Credentials {
	f.t.Helper()
	pub, key, _ := ed25519.GenerateKey(nil)
	return f.issueFor(id, pub, key)
}

func (f *fleet) issueFor(id proto.Identity, pub ed25519.PublicKey, key ed25519.PrivateKey) Credentials {
	f.t.Helper()
	id.Fleet = f.name
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if !id.Has(proto.RoleAgent) {
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(nil, &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: id.URIs(), ExtKeyUsage: usage,
		NotBefore: time.Now().Add(-47 * time.Hour), NotAfter: time.Now().Add(47 * time.Hour),
	}, f.ca, pub, f.key)
	if err != nil {
		f.t.Fatal(err)
	}
	return Credentials{CA: f.ca, Fleet: f.name, Cert: tls.Certificate{Certificate: [][]byte{der, f.ca.Raw}, PrivateKey: key}}
}

func (f *fleet) agent() (Credentials, proto.AgentID) {
	pub, key, _ := ed25519.GenerateKey(nil)
	id := proto.AgentIDOf(pub)
	return f.issueFor(proto.Identity{Roles: []proto.Role{proto.RoleAgent}, Agent: id, Groups: []string{"staff"}}, pub, key), id
}

// node is a proxy with an Acceptor on loopback.
type node struct {
	*Acceptor
	id     proto.NodeID
	secret proto.Secret
	at     netip.AddrPort
}

func (f *fleet) node(edit func(*node)) *node {
	f.t.Helper()
	n := &node{id: proto.NewNodeID()}
	copy(n.secret[:], n.id[:])
	keys := &proto.Keyring{}
	keys.Set(proto.KeyID{Gen: 1}, n.secret)
	echo := func(l net.Conn) { io.Copy(l, l) }
	n.Acceptor = &Acceptor{
		Creds: f.issue(proto.Identity{Roles: []proto.Role{proto.RoleEdge}, Node: n.id}), Node: n.id, Keys: keys,
		Control: func(_ context.Context, l *Link, _ proto.Verified) { echo(l) },
		Data:    func(_ context.Context, l *Link, _ proto.Verified) { echo(l) },
		Enrol:   func(_ context.Context, l net.Conn, _ proto.Verified) { echo(l) },
	}
	if edit != nil {
		edit(n)
	}
	l, err := Listen(f.t.Context(), f.at)
	if err != nil {
		f.t.Fatal(err)
	}
	n.at = addrPort(l.Addr())
	serve(f.t, n.Acceptor, l)
	return n
}

func serve(t *testing.T, a *Acceptor, l net.Listener) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve did not end")
		}
	})
}

func (n *node) target(agent proto.AgentID) proto.Target {
	return proto.Target{Addr4: n.at.Addr(), Port: n.at.Port(), Node: n.id, Key: proto.KeyID{Gen: 1}, Keys: n.secret.Admission(agent)}
}

func (n *node) preamble(agent proto.AgentID, edit func(*proto.Preamble)) []byte {
	p := proto.Preamble{Kind: proto.KindControl, Key: proto.KeyID{Gen: 1}, Target: n.id, Time: time.Now(), Nonce: proto.NewNonce()}
	if edit != nil {
		edit(&p)
	}
	return p.Append(nil, n.secret.Admission(agent), n.id)
}

func (n *node) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(n.at))
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func ping(t *testing.T, l net.Conn) {
	t.Helper()
	l.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 5)
	if _, err := l.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(l, b); err != nil || string(b) != "hello" {
		t.Fatalf("echo got %q, %v", b, err)
	}
	l.SetDeadline(time.Time{})
}
