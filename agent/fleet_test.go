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
	nodes  []*testEdge // that end data links: the edges, and what anchor made
	relay  proto.RelayKey
	key    proto.FleetKey
	signer ed25519.PrivateKey
	chain  [][]byte // of the signer

	mu      sync.Mutex
	version uint64
	used    map[proto.TokenID]bool
	anchors []proto.NodeID // of every service, in the catalogue; none: the edge in use
	away    int            // entries that do not reach the signing node, from the first on
	life    time.Duration  // of agents' certificates

	said dump // what edges and the signing node say to agents inside TLS
}

// protected is the address that the fleet's one service has; nobody listens there.
var protected = netip.MustParseAddrPort("198.18.1.1:443")

func newFleet(t *testing.T, name string) *testFleet {
	f := &testFleet{t: t, name: name, version: 1, used: make(map[proto.TokenID]bool), life: time.Hour}
	rand.Read(f.key[:])
	rand.Read(f.relay[:])
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

// testEdge is a proxy and an anchor: it answers OPEN as open says, and passes data links on to the others.
type testEdge struct {
	f       *testFleet
	id      proto.NodeID
	addr    netip.AddrPort // zero: an anchor only
	relayAt netip.AddrPort // where edges pass links on to it
	hidden  bool
	acc     *link.Acceptor
	kill    func() // ends it as SIGKILL would, but for what it anchors

	streaming sync.WaitGroup

	mu       sync.Mutex
	decide   *proto.Reply // to each link that is not of kind enrol
	controls map[*link.Link]chan proto.Message
	away     map[proto.NodeID]*proto.Reply
	sessions map[proto.SessionID]*session.Session
	streams  []*session.Stream
	opens    int
	resumed  func(*proto.Resume, *link.Link) bool // may take a link away before its RESUME is looked at; nil: none
	lateAt   func(*link.Link) bool                // or before it is answered
	attached func(*link.Link) bool                // or before its ATTACH is looked at
	attaches int

	kindsMu sync.Mutex          // guards what follows; never held while anything is waited for
	current map[*link.Link]bool // control links, and whether they are the agent's current one, as it said
	deaf    map[*link.Link]bool // control links on which nothing is answered any more
}

const secretGen = 1

func (f *testFleet) edge(hidden bool) *testEdge {
	e := f.node(hidden, proto.RoleEdge, proto.RoleAnchor)
	l := f.listen()
	e.addr = l.Addr().(*net.TCPAddr).AddrPort()
	e.kill = f.serve(func(ctx context.Context) error { return e.acc.Serve(ctx, l) })
	f.edges = append(f.edges, e)
	return e
}

// anchor makes a node that is no edge; it is every service's anchor.
func (f *testFleet) anchor() *testEdge {
	e := f.node(true, proto.RoleAnchor)
	f.anchors = append(f.anchors, e.id)
	return e
}

func (f *testFleet) listen() net.Listener {
	l, err := link.Listen(f.t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		f.t.Fatal(err)
	}
	return l
}

// serve runs a server until the test's end, or what it returns is called.
func (f *testFleet) serve(serve func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := serve(ctx); err != nil {
			f.t.Errorf("edge: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	f.t.Cleanup(stop)
	return stop
}

func (f *testFleet) node(hidden bool, roles ...proto.Role) *testEdge {
	e := &testEdge{
		f: f, id: proto.NewNodeID(), hidden: hidden, controls: make(map[*link.Link]chan proto.Message), current: make(map[*link.Link]bool),
		sessions: make(map[proto.SessionID]*session.Session),
	}
	pub, key := newKey(f.t)
	chain := f.issue(pub, proto.Identity{Fleet: f.name, Roles: roles, Node: e.id, Hidden: hidden}, x509.ExtKeyUsageServerAuth)
	ring := new(proto.Keyring)
	ring.Set(proto.KeyID{Gen: secretGen}, f.key.ProxySecret(e.id, secretGen))
	creds := link.Credentials{CA: f.ca, Cert: tls.Certificate{Certificate: chain, PrivateKey: key}, Fleet: f.name}
	e.acc = &link.Acceptor{
		Creds: creds, Node: e.id, Keys: ring, Decide: e.answer, Control: e.control, Data: e.data, Enrol: e.enrol,
		Anchors: func(proto.NodeID) bool { return true }, Relay: e.pass,
	}
	f.t.Cleanup(func() { e.restart(); e.streaming.Wait() })
	behind := &link.Acceptor{Creds: creds, Node: e.id, Data: e.data} // lives on when the edge is killed
	l := f.listen()
	e.relayAt = l.Addr().(*net.TCPAddr).AddrPort()
	f.serve(func(ctx context.Context) error {
		return behind.ServeRelayed(ctx, l, func(b []byte) (proto.RelayHeader, bool) {
			h, err := proto.ParseRelayHeader(b)
			return h, err == nil && h.Verify(b, f.relay, time.Now()) == nil
		})
	})
	f.nodes = append(f.nodes, e)
	return e
}

// restart ends all sessions: nobody knows them any more.
func (e *testEdge) restart() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.sessions {
		s.Close(nil)
	}
	clear(e.sessions)
}

// pass connects to the anchor that a data link names.
func (e *testEdge) pass(ctx context.Context, v proto.Verified, from netip.AddrPort) (net.Conn, error) {
	i := slices.IndexFunc(e.f.nodes, func(n *testEdge) bool { return n.id == v.Target })
	if i < 0 {
		return nil, errors.New("no such anchor")
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", e.f.nodes[i].relayAt.String())
	if err != nil {
		return nil, err
	}
	h := proto.RelayHeader{Edge: e.id, Agent: v.Agent, Addr: from, Nonce: v.Nonce, Time: time.Now()}
	_, err = c.Write(h.Append(nil, e.f.relay))
	return c, err
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
	switch {
	case v.Kind == proto.KindEnrol:
		return nil
	case v.Kind == proto.KindData && e.away[v.Target] != nil:
		return e.away[v.Target]
	}
	return e.decide
}

// loses ends the links that the edge passes on to an anchor, and answers new ones; nil: it can reach it again.
func (e *testEdge) loses(anchor *testEdge, r *proto.Reply) {
	e.mu.Lock()
	if e.away == nil {
		e.away = make(map[proto.NodeID]*proto.Reply)
	}
	e.away[anchor.id] = r
	e.mu.Unlock()
	if r != nil {
		e.acc.CloseNode(anchor.id)
	}
}

// allLose has edges lose the anchor together: no dial to one of them is under way because another has.
func allLose(anchor *testEdge, r *proto.Reply, edges ...*testEdge) {
	for _, e := range edges {
		e.mu.Lock()
		if e.away == nil {
			e.away = make(map[proto.NodeID]*proto.Reply)
		}
		e.away[anchor.id] = r
		e.mu.Unlock()
	}
	for _, e := range edges {
		e.loses(anchor, r)
	}
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
func (e *testEdge) control(ctx context.Context, l *link.Link, _ proto.Verified) {
	said := make(chan proto.Message, 16)
	e.mu.Lock()
	e.controls[l] = said
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.controls, l)
		e.kindsMu.Lock()
		defer e.kindsMu.Unlock()
		delete(e.current, l)
	}()
	for r := proto.NewReader(l, 1<<20); ; {
		m, err := r.Message()
		if err != nil {
			return
		}
		switch m := m.(type) {
		case *proto.Boot:
			e.kindsMu.Lock()
			e.current[l] = m.Current
			e.kindsMu.Unlock()
			continue
		case *proto.Ping:
			e.kindsMu.Lock()
			deaf := e.deaf[l]
			e.kindsMu.Unlock()
			if deaf {
				continue
			}
			if proto.WriteMessage(l, &proto.Pong{Token: m.Token}) != nil {
				return
			}
			continue
		}
		select {
		case said <- m:
		case <-ctx.Done(): // nobody asked
			return
		}
	}
}

// links counts control links.
func (e *testEdge) links() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.controls)
}

// standBy counts control links to which the agent has said that they are not its current one.
func (e *testEdge) standBy() (n int) {
	e.kindsMu.Lock()
	defer e.kindsMu.Unlock()
	for _, current := range e.current {
		if !current {
			n++
		}
	}
	return n
}

// isCurrent reports whether a control link that is answered has said that it is the agent's current one.
func (e *testEdge) isCurrent() bool {
	e.kindsMu.Lock()
	defer e.kindsMu.Unlock()
	for l, current := range e.current {
		if current && !e.deaf[l] {
			return true
		}
	}
	return false
}

// deafen has the control links that there are answer nothing any more, as those whose path is gone.
func (e *testEdge) deafen() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kindsMu.Lock()
	defer e.kindsMu.Unlock()
	e.deaf = make(map[*link.Link]bool)
	for l := range e.controls {
		e.deaf[l] = true
	}
}

// direct lists the links to the edge that are there for an agent, but none that it ends for another edge.
func (e *testEdge) direct() []link.Live { return e.acc.Links() }

// say sends m on every control link and returns the answer of the last, if it is to be one.
func (e *testEdge) say(m proto.Message, answered bool) (answer proto.Message) {
	e.f.t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.controls) == 0 {
		e.f.t.Error("no control link to speak on")
	}
	e.f.said.add(proto.AppendMessage(nil, m, 0))
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

// data takes a link into a session, which outlives it.
func (e *testEdge) data(ctx context.Context, l *link.Link, _ proto.Verified) {
	m, err := proto.NewReader(l, 0).Message()
	if err != nil {
		return
	}
	s, id := (*session.Session)(nil), proto.SessionID{}
	switch m := m.(type) {
	case *proto.Session:
		s = e.session(m)
	case *proto.Attach:
		id = m.Session
	case *proto.Resume:
		id = m.Session
		if e.takes(e.resumedHook(), m, l) {
			l.Abort()
			return
		}
	}
	if s == nil {
		e.mu.Lock()
		s = e.sessions[id]
		hook := e.attached
		_, attach := m.(*proto.Attach)
		if attach {
			e.attaches++
		}
		e.mu.Unlock()
		if attach && hook != nil && hook(l) {
			l.Abort()
			return
		}
	}
	if s == nil {
		e.refuse(l, &proto.ResumeFail{Code: proto.ResumeUnknown})
		return
	}
	share, fail := s.Serve(m, time.Now())
	if fail != nil {
		e.refuse(l, fail)
		return
	}
	if _, ok := m.(*proto.Resume); ok {
		e.mu.Lock()
		late := e.lateAt
		e.mu.Unlock()
		if late != nil && late(l) {
			share.Close(nil)
			l.Abort()
			return
		}
	}
	_ = link.Pump(ctx, l, share) // its end is what tests make
}

func (e *testEdge) resumedHook() func(*proto.Resume, *link.Link) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.resumed
}

func (e *testEdge) takes(hook func(*proto.Resume, *link.Link) bool, m *proto.Resume, l *link.Link) bool {
	return hook != nil && hook(m, l)
}

// refuse answers a link that is not taken in, and waits until the agent has closed it.
func (e *testEdge) refuse(l *link.Link, m *proto.ResumeFail) {
	if proto.WriteMessage(l, m) == nil {
		_, _ = io.Copy(io.Discard, l)
	}
}

// session makes a session: "echo" echoes, the others fail as their names say.
func (e *testEdge) session(m *proto.Session) *session.Session {
	id := proto.NewSessionID()
	s := session.New(session.Config{Server: true, ID: id, MaxStreams: 1000, PeerWindow: int(m.Credit), Accept: func(st *session.Stream, service string) {
		e.mu.Lock()
		e.opens++
		e.streams = append(e.streams, st)
		e.mu.Unlock()
		e.streaming.Go(func() { serveStream(st, service) })
	}})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sessions[id] = s
	return s
}

func serveStream(st *session.Stream, service string) {
	switch service {
	case "echo":
		st.AcceptOK()
		if _, err := io.Copy(st, st); err != nil {
			st.Abort() // a reset: that is what the test looks at, at the other end
			return
		}
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
	e.f.said.add(proto.AppendMessage(nil, answer, 0))
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
		c.Services = append(c.Services, proto.CatalogueService{Anchors: f.anchors, Name: name, Public: []netip.AddrPort{netip.AddrPortFrom(at.Addr(), at.Port()+off)}})
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
