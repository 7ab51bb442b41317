package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
)

// testFleet is a CA, a signing node and edges on loopback, small enough to see through.
type testFleet struct {
	t      *testing.T
	name   string
	ca     *x509.Certificate
	caKey  ed25519.PrivateKey
	edges  []*testEdge
	key    proto.FleetKey
	signer ed25519.PrivateKey
	chain  [][]byte // of the signer

	mu      sync.Mutex
	version uint64
	used    map[proto.TokenID]bool
	away    int           // entries that do not reach the signing node, from the first on
	life    time.Duration // of agents' certificates
}

// protected is the address that the fleet's one service has; nobody listens there.
var protected = netip.MustParseAddrPort("198.18.1.1:443")

func newFleet(t *testing.T, name string) *testFleet {
	f := &testFleet{t: t, name: name, version: 1, used: make(map[proto.TokenID]bool), life: time.Hour}
	rand.Read(f.key[:])
	pub, key := newKey(t)
	f.caKey = key
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	f.ca, _ = x509.ParseCertificate(der)
	spub, skey := newKey(t)
	f.signer = skey
	f.chain = f.issue(spub, proto.Identity{Fleet: name, Roles: []proto.Role{proto.RoleSigner}, Node: proto.NewNodeID()}, x509.ExtKeyUsageServerAuth)
	return f
}

func newKey(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pub, key
}

func (f *testFleet) issue(pub ed25519.PublicKey, id proto.Identity, usage x509.ExtKeyUsage) [][]byte {
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: []*url.URL(id.URIs()), ExtKeyUsage: []x509.ExtKeyUsage{usage},
		KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(f.life),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, f.ca, pub, f.caKey)
	if err != nil {
		f.t.Error(err)
	}
	return [][]byte{der, f.ca.Raw}
}

// testEdge is a proxy whose anchor is itself: it answers OPEN as open says.
type testEdge struct {
	f      *testFleet
	id     proto.NodeID
	addr   netip.AddrPort
	hidden bool
	acc    *link.Acceptor

	mu       sync.Mutex
	decide   *proto.Reply // to each link that is not of kind enrol
	controls map[*link.Link]chan proto.Message
	streams  []*session.Stream
	opens    int
}

const secretGen = 1

func (f *testFleet) edge(hidden bool) *testEdge {
	l, err := link.Listen(f.t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		f.t.Fatal(err)
	}
	e := &testEdge{f: f, id: proto.NewNodeID(), addr: l.Addr().(*net.TCPAddr).AddrPort(), hidden: hidden, controls: make(map[*link.Link]chan proto.Message)}
	pub, key := newKey(f.t)
	chain := f.issue(pub, proto.Identity{Fleet: f.name, Roles: []proto.Role{proto.RoleEdge, proto.RoleAnchor}, Node: e.id, Hidden: hidden}, x509.ExtKeyUsageServerAuth)
	ring := new(proto.Keyring)
	ring.Set(proto.KeyID{Gen: secretGen}, f.key.ProxySecret(e.id, secretGen))
	e.acc = &link.Acceptor{
		Creds: link.Credentials{CA: f.ca, Cert: tls.Certificate{Certificate: chain, PrivateKey: key}, Fleet: f.name},
		Node:  e.id, Keys: ring, Decide: e.answer, Control: e.control, Data: e.data, Enrol: e.enrol,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := e.acc.Serve(ctx, l); err != nil {
			f.t.Errorf("edge: %v", err)
		}
	}()
	f.t.Cleanup(func() { cancel(); <-done })
	f.edges = append(f.edges, e)
	return e
}

// target is what a TRANSFER or MIGRATE to this edge says to an agent.
func (e *testEdge) target(id proto.AgentID) proto.Target {
	return proto.Target{
		Addr4: e.addr.Addr(), Port: e.addr.Port(), Node: e.id, Key: proto.KeyID{Gen: secretGen},
		Keys: e.f.key.ProxySecret(e.id, secretGen).Admission(id),
	}
}

func (e *testEdge) answer(v proto.Verified, _ netip.AddrPort) *proto.Reply {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v.Kind == proto.KindEnrol {
		return nil
	}
	return e.decide
}

// transferTo makes the edge send every new link of an agent to next.
func (e *testEdge) transferTo(next *testEdge, id proto.AgentID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.decide = nil
	if next != nil {
		e.decide = &proto.Reply{Kind: proto.ReplyTransfer, Targets: []proto.Target{next.target(id)}}
	}
}

// control keeps the link and what the agent says on it.
func (e *testEdge) control(_ context.Context, l *link.Link, _ proto.Verified) {
	said := make(chan proto.Message, 16)
	e.mu.Lock()
	e.controls[l] = said
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.controls, l)
	}()
	for r := proto.NewReader(l, 1<<20); ; {
		m, err := r.Message()
		if err != nil {
			return
		}
		said <- m
	}
}

// links counts control links.
func (e *testEdge) links() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.controls)
}

// say sends m on every control link and returns the answer of the last, if it is to be one.
func (e *testEdge) say(m proto.Message, answered bool) (answer proto.Message) {
	e.f.t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.controls) == 0 {
		e.f.t.Error("no control link to speak on")
	}
	for l, said := range e.controls {
		if err := proto.WriteMessage(l, m); err != nil {
			e.f.t.Error(err)
		}
		if answered {
			select {
			case answer = <-said:
			case <-time.After(10 * time.Second):
				e.f.t.Errorf("no answer to %T", m)
			}
		}
	}
	return answer
}

// data serves a session: "echo" echoes, the others fail as their names say.
func (e *testEdge) data(ctx context.Context, l *link.Link, _ proto.Verified) {
	m, err := proto.NewReader(l, 0).Message()
	req, ok := m.(*proto.Session)
	if err != nil || !ok {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	s := session.New(session.Config{Server: true, ID: proto.NewSessionID(), MaxStreams: 100, PeerWindow: int(req.Credit), Accept: func(st *session.Stream, service string) {
		e.mu.Lock()
		e.opens++
		e.streams = append(e.streams, st)
		e.mu.Unlock()
		wg.Go(func() { serveStream(st, service) })
	}})
	share, _ := s.Serve(req, time.Now())
	s.Close(link.Pump(ctx, l, share))
}

func serveStream(st *session.Stream, service string) {
	switch service {
	case "echo":
		st.AcceptOK()
		_, _ = io.Copy(st, st) // a reset ends it: that is what the test looks at, at the other end
		st.CloseWrite()
		st.Close()
	case "refused":
		st.Fail(proto.OpenRefused, "")
	case "denied":
		st.Fail(proto.OpenDenied, "groups")
	default:
		st.Fail(proto.OpenUnreachable, "")
	}
}

func (e *testEdge) opened() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.opens
}

// enrol is the signing node, behind every edge of the test.
func (e *testEdge) enrol(_ context.Context, c net.Conn, v proto.Verified) {
	m, err := proto.NewReader(c, 1<<20).Message()
	req, ok := m.(*proto.Enrol)
	if err != nil || !ok {
		e.f.t.Errorf("enrol link: %T %v", m, err)
		return
	}
	e.f.mu.Lock()
	away := e.f.away > slices.Index(e.f.edges, e)
	e.f.mu.Unlock()
	var answer proto.Message = &proto.EnrolFail{Later: true, Reason: "the signing node is away"}
	if !away {
		answer = e.f.sign(req)
	}
	if v.Agent != req.Token {
		answer = &proto.EnrolFail{Reason: "the preamble is of another token"}
	}
	if err := proto.WriteMessage(c, answer); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		e.f.t.Error(err)
	}
}

func (f *testFleet) sign(m *proto.Enrol) proto.Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.used[m.Token] {
		return &proto.EnrolFail{Reason: "it was used already"}
	}
	f.used[m.Token] = true
	csr, err := x509.ParseCertificateRequest(m.CSR)
	if err != nil {
		f.t.Error(err)
		return &proto.EnrolFail{Reason: "bad CSR"}
	}
	pub := csr.PublicKey.(ed25519.PublicKey)
	id := proto.AgentIDOf(pub)
	chain := f.issue(pub, proto.Identity{Fleet: f.name, Roles: []proto.Role{proto.RoleAgent}, Agent: id}, x509.ExtKeyUsageClientAuth)
	return &proto.EnrolOK{Chain: chain, Catalogue: f.catalogueLocked(protected), Keys: f.keys(id)}
}

func (f *testFleet) keys(id proto.AgentID) (m proto.Keys) {
	for _, e := range f.edges {
		if !e.hidden {
			t := e.target(id)
			m.Entries = append(m.Entries, proto.KeyEntry{Node: e.id, Key: t.Key, Keys: t.Keys, Expiry: time.Now().Add(time.Hour)})
		}
	}
	return m
}

// services of the fleet: each at a port of the protected address.
var services = map[string]uint16{"echo": 0, "refused": 1, "denied": 2, "nowhere": 3}

func (f *testFleet) catalogueLocked(at netip.AddrPort) []byte {
	c := proto.Catalogue{Fleet: f.name, Version: f.version, Issued: time.Now()}
	for _, e := range f.edges {
		if !e.hidden {
			c.Entries = append(c.Entries, proto.CatalogueEntry{Node: e.id, Name: "entry", Addrs: []netip.Addr{e.addr.Addr()}, LinkPort: e.addr.Port()})
		}
	}
	for name, off := range services {
		c.Services = append(c.Services, proto.CatalogueService{Name: name, Public: []netip.AddrPort{netip.AddrPortFrom(at.Addr(), at.Port()+off)}})
	}
	doc, err := proto.SignDoc(&c, f.signer, f.chain)
	if err != nil {
		f.t.Error(err)
	}
	return doc
}

// newCatalogue signs the next version, with the services at another address.
func (f *testFleet) newCatalogue(version uint64, at netip.AddrPort) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version = version
	return f.catalogueLocked(at)
}

func (f *testFleet) token() proto.Token {
	t := proto.Token{ID: proto.NewTokenID(), Role: proto.RoleAgent, Expires: time.Now().Add(time.Hour), CAHash: proto.CAHash(f.ca)}
	for _, e := range f.edges {
		if !e.hidden {
			t.Entries = append(t.Entries, e.target(t.ID))
		}
	}
	return t
}
