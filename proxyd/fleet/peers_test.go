package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"migrationsensor/proto"
)

func TestJoinAndPeers(t *testing.T) {
	f := newTestFleet(t)
	sign := f.run("sign")
	for _, name := range []string{"p1", "p2", "p3", "a1"} {
		if s := f.join(name); s.Node().ID != f.id(name) || s.Node().Name != name {
			t.Errorf("%s is %+v", name, s.Node())
		}
	}
	p1, p2, p3 := f.run("p1"), f.run("p2"), f.run("p3")
	f.sees(p1, "p2") // its neighbour
	f.sees(p2, "p1") // p1 named it: that is enough
	for _, name := range []string{"p1", "p2", "p3"} {
		f.sees(sign, name)
	}
	f.sees(p3, "sign")
	if _, ok := p3.Up()[f.id("p1")]; ok {
		t.Error("p3 and p1 are no neighbours and have a link")
	}

	// Keys handed over open the giver's door: p1 makes an agent's key for p2 by itself.
	f.eventually("p2 gives p1 its key", func() error {
		if len(p1.Handovers()) != 1 {
			return fmt.Errorf("%+v", p1.Handovers())
		}
		return nil
	})
	h := p1.Handovers()[f.id("p2")]
	var ring proto.Keyring
	p2.cfg.State.FillKeyring(&ring)
	agent := proto.AgentID{1}
	pre := proto.Preamble{Kind: proto.KindKnock, Key: proto.KeyID{Gen: h.Gen, Issuer: h.Issuer}, Handle: h.H.Admission(agent).Handle, Target: f.id("p2"), Time: time.Now(), Nonce: proto.NewNonce()}
	v, err := ring.Verify(pre.Append(nil, h.H.Admission(agent), f.id("p2")), f.id("p2"), time.Now())
	if err != nil || v.Agent != agent {
		t.Errorf("a key that p1 made is not good at p2: %+v, %v", v, err)
	}

	f.eventually("heartbeats", func() error {
		if st := p1.Up()[f.id("p2")].Heartbeat; st.State != "state of p2" || st.Load != 5 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
}

func TestRequests(t *testing.T) {
	f := newTestFleet(t)
	sign := f.run("sign")
	f.join("p1")
	f.join("p2")
	p1, p2 := f.run("p1"), f.run("p2")
	f.sees(p1, "p2")
	f.sees(p1, "sign")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()

	attempt := proto.NewNonce()
	got, err := p1.Request(ctx, f.id("p2"), &proto.Ratify{Attempt: attempt, Addr: netip.MustParseAddr("198.18.1.1")})
	if ok, is := got.(*proto.RatifyOK); err != nil || !is || ok.Attempt != attempt {
		t.Errorf("ratify: got %+v, %v", got, err)
	}
	got, err = p1.Request(ctx, f.id("p2"), &proto.UserInfo{Round: 9, Clients: make([]proto.UserInfoClient, 1000)}) // many frames
	if ok, is := got.(*proto.UserInfoOK); err != nil || !is || ok.Round != 9 || ok.Load != 1000 {
		t.Errorf("userinfo: got %+v, %v", got, err)
	}

	// Answers find their question, whatever their order.
	answers := make(chan error, 100)
	for range cap(answers) {
		go func() {
			n := proto.NewNonce()
			got, err := p1.Request(ctx, f.id("p2"), &proto.Ratify{Attempt: n})
			if ok, is := got.(*proto.RatifyOK); err == nil && (!is || ok.Attempt != n) {
				err = fmt.Errorf("got %+v", got)
			}
			answers <- err
		}()
	}
	for range cap(answers) {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}

	// Who is no neighbour does not open the door.
	got, err = sign.Request(ctx, f.id("p2"), &proto.Ratify{Attempt: attempt, Addr: netip.MustParseAddr("198.18.6.6")})
	if busy, is := got.(*proto.Busy); err != nil || !is || !strings.Contains(busy.Reason, "sign is not a neighbour of p2") {
		t.Errorf("got %+v, %v", got, err)
	}
	p2.h.mu.Lock()
	defer p2.h.mu.Unlock()
	if slices.ContainsFunc(p2.h.ratify, func(m *proto.Ratify) bool { return m.Addr == netip.MustParseAddr("198.18.6.6") }) {
		t.Error("a stranger's RATIFY reached the door")
	}
}

func TestRatifyRate(t *testing.T) {
	f := newTestFleet(t)
	f.run("sign")
	f.join("p1")
	f.join("p2")
	p1 := f.run("p1")
	p2 := f.run("p2")
	f.sees(p1, "p2")
	f.sees(p2, "p1")
	p2.mu.Lock()
	lim := p2.peerLocked(f.id("p1")).limits.ratify
	p2.mu.Unlock()
	lim.SetLimit(0)
	lim.SetBurst(3)
	accepted := 0
	for range 10 {
		got, err := p1.Request(t.Context(), f.id("p2"), &proto.Ratify{})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := got.(*proto.RatifyOK); ok {
			accepted++
		} else if busy, is := got.(*proto.Busy); !is || busy.Reason != "too many notifications" {
			t.Fatalf("got %+v", got)
		}
	}
	if accepted != 3 {
		t.Errorf("%d of 10 accepted, want the burst of 3", accepted)
	}
}

func TestAgentEnrolsThroughAnEntry(t *testing.T) {
	f := newTestFleet(t)
	sign := f.run("sign")
	f.join("p1")
	p1 := f.run("p1")
	f.sees(p1, "sign")
	token := f.token(TokenRequest{Role: proto.RoleAgent, Uses: 1})
	_, csr := agentKey(t)
	m, err := p1.Enrol(t.Context(), &proto.Enrol{Token: token.ID, Secret: token.Secret, CSR: csr})
	if ok, is := m.(*proto.EnrolOK); err != nil || !is || len(ok.Keys.Entries) != 1 {
		t.Errorf("got %+v, %v", m, err)
	}
	_, other := agentKey(t)
	m, err = p1.Enrol(t.Context(), &proto.Enrol{Token: token.ID, Secret: token.Secret, CSR: other})
	if fail, is := m.(*proto.EnrolFail); err != nil || !is || fail.Reason != reasonUsedUp(1) {
		t.Errorf("the signer's reason must reach the agent: got %+v, %v", m, err)
	}
	sign.stop()
	f.eventually("the entry notices", func() error {
		if p1.Up()[f.id("sign")].Up {
			return errors.New("still up")
		}
		return nil
	})
	m, err = p1.Enrol(t.Context(), &proto.Enrol{Token: token.ID, Secret: token.Secret, CSR: csr})
	if fail, is := m.(*proto.EnrolFail); !errors.Is(err, ErrDown) || !is || fail.Reason != reasonAway {
		t.Errorf("without the signing node: got %+v, %v", m, err)
	}
}

func TestNewDocumentsReachEveryNode(t *testing.T) {
	f := newTestFleet(t)
	sign := f.run("sign")
	f.join("p1")
	f.join("p2")
	p1 := f.run("p1")
	f.sees(p1, "sign")
	sign.stop()
	f.decl.Services = append(f.decl.Services, DeclaredService{Name: "ssh", Public: []netip.AddrPort{netip.MustParseAddrPort("198.18.0.1:22")}, Origin: "10.0.0.1:22", Plain: "admit"})
	f.decl.Nodes[2].Neighbours = []string{"p3"}
	f.run("sign")
	f.eventually("p1 has version 2", func() error {
		p1.h.mu.Lock()
		defer p1.h.mu.Unlock()
		if len(p1.h.docs) == 0 || p1.h.docs[0] != 2 {
			return fmt.Errorf("%v", p1.h.docs)
		}
		return nil
	})
	if doc := f.state("p1").Doc(); len(doc.Services) != 2 || doc.Version != 2 {
		t.Errorf("on p1's disk: %+v", doc)
	}
	p2 := f.run("p2") // was down meanwhile
	f.eventually("p2 has version 2", func() error {
		if v := p2.cfg.State.Doc().Version; v != 2 {
			return fmt.Errorf("version %d", v)
		}
		return nil
	})
	if n := p2.cfg.State.neighbours(); len(n) != 2 {
		t.Errorf("neighbours of p2: %v", n)
	}
	same := f.signer()
	if same.Doc().Version != 2 {
		t.Error("a restart without a change made a new version")
	}
}

func TestOlderAndForeignDocumentsAreRefused(t *testing.T) {
	f, other := newTestFleet(t), newTestFleet(t)
	s := f.state("sign")
	old := s.fleetRaw
	f.decl.Services = nil
	now := f.signer()
	if changed, err := now.setFleet(old); changed || err != nil || now.Doc().Version != 2 {
		t.Errorf("an older document: got %v, %v, version %d", changed, err, now.Doc().Version)
	}
	if _, err := now.setFleet(other.state("sign").fleetRaw); !errors.Is(err, proto.ErrDoc) {
		t.Errorf("a document of another fleet: got %v", err)
	}
	if _, err := now.setFleet(now.Catalogue()); !errors.Is(err, proto.ErrDoc) {
		t.Errorf("a catalogue in the place of FLEET: got %v", err)
	}
}

func TestJoinAgainKeepsTheIDAndRevokes(t *testing.T) {
	f := newTestFleet(t)
	f.run("sign")
	first := f.join("p1")
	old := first.Certificate()
	f.join("p2")
	p2 := f.run("p2")
	f.sees(p2, "sign")

	again, err := Join(t.Context(), JoinConfig{Dir: f.dir("p1-new"), As: "p1", Token: f.token(TokenRequest{Role: proto.RoleEdge, Uses: 1}), Now: f.now})
	if err != nil {
		t.Fatal(err)
	}
	if again.Node() != first.Node() {
		t.Errorf("got %+v, want %+v", again.Node(), first.Node())
	}
	if k1, s1 := first.Key(); k1.Gen != 1 {
		t.Errorf("generation %d", k1.Gen)
	} else if _, s2 := again.Key(); s1 != s2 {
		t.Error("a re-imaged node must get its secret back: agents hold keys made from it")
	}
	f.eventually("p2 learns of the revocation", func() error {
		if v := p2.cfg.State.Doc().Version; v != 2 {
			return fmt.Errorf("version %d", v)
		}
		return nil
	})
	if _, err := p2.cfg.State.checkPeer(old.Certificate, 0); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("the old certificate: got %v", err)
	}
	if _, err := p2.cfg.State.checkPeer(again.Certificate().Certificate, 0); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
}

func TestJoinRefusals(t *testing.T) {
	f, other := newTestFleet(t), newTestFleet(t)
	sign := f.run("sign")
	edge := f.token(TokenRequest{Role: proto.RoleEdge, Uses: 9})
	foreign := other.token(TokenRequest{Role: proto.RoleEdge, Uses: 1})
	foreign.Signer = edge.Signer // a wrong fleet's node answers at the token's address
	expired := edge
	expired.Expires = f.now().Add(-time.Hour)
	away := edge
	away.Signer = f.freeAddr()
	f.join("p3")
	tests := []struct {
		name, dir, as string
		token         proto.Token
		want          string
	}{
		{"foreign fleet", "x", "p1", foreign, "it belongs to another fleet than the token"},
		{"expired", "x", "p1", expired, "has expired"},
		{"agent's token", "x", "p1", f.token(TokenRequest{Role: proto.RoleAgent, Uses: 1}), reasonAgent},
		{"bound token", "x", "p1", f.token(TokenRequest{Role: proto.RoleEdge, Uses: 1, Node: "p2"}), "use proxyd join --as p2"},
		{"no name", "x", "", edge, "--as NODE"},
		{"undeclared", "x", "p9", edge, `there is no node "p9"`},
		{"signing node away", "x", "p1", away, "does proxyd run there"},
		{"over the signing node's state", "sign", "p1", edge, "belongs to a signing node"},
	}
	for _, tt := range tests {
		_, err := Join(t.Context(), JoinConfig{Dir: f.dir(tt.dir), As: tt.as, Token: tt.token, Now: f.now})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
	// A machine of another fleet is not turned over silently.
	otherSign := other.run("sign")
	_, err := Join(t.Context(), JoinConfig{Dir: f.dir("p3"), As: "p3", Token: other.token(TokenRequest{Role: proto.RoleEdge, Uses: 1}), Now: f.now})
	if !errors.Is(err, ErrExists) {
		t.Errorf("got %v", err)
	}
	otherSign.stop()
	sign.stop()
}

func TestStrangersGetNoLink(t *testing.T) {
	f, other := newTestFleet(t), newTestFleet(t)
	f.run("sign")
	other.run("sign")
	f.join("p1")
	other.join("p1")
	p1 := f.run("p1")
	token := f.token(TokenRequest{Role: proto.RoleAgent, Uses: 1})
	key, csr := agentKey(t)
	ok := f.enrolAt(p1, token, csr)
	agent := tls.Certificate{Certificate: ok.Chain, PrivateKey: key}
	self, _ := p1.cfg.State.Self()
	for name, certs := range map[string][]tls.Certificate{
		"wrong fleet's node": {other.state("p1").Certificate()},
		"agent of the fleet": {agent},
		"own id":             {p1.cfg.State.Certificate()},
		"no certificate":     nil,
	} {
		raw, err := net.Dial("tcp", self.Backplane.String())
		if err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, Certificates: certs, MinVersion: tls.VersionTLS13})
		err = conn.Handshake()
		if err == nil { // TLS 1.3: the server's refusal comes with the first read
			if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			var b [1]byte
			_, err = conn.Read(b[:])
		}
		if ne, is := errors.AsType[net.Error](err); err == nil || is && ne.Timeout() {
			t.Errorf("%s: got %v, want an alert or an end", name, err)
		}
		raw.Close()
	}
	if n := len(p1.Up()); n > 3 { // sign, p2 and the anchor
		t.Errorf("%d peers", n)
	}
	// And the other way: p1 does not trust whoever sits at its peer's address.
	if _, err := p1.cfg.State.checkPeer(other.state("p1").Certificate().Certificate, 0); err == nil {
		t.Error("a certificate of another fleet was trusted")
	}
}

func (f *testFleet) enrolAt(entry *running, token proto.Token, csr []byte) *proto.EnrolOK {
	f.t.Helper()
	f.sees(entry, "sign")
	m, err := entry.Enrol(f.t.Context(), &proto.Enrol{Token: token.ID, Secret: token.Secret, CSR: csr})
	ok, is := m.(*proto.EnrolOK)
	if !is {
		f.t.Fatalf("got %+v, %v", m, err)
	}
	return ok
}

func TestNodeRenewsOverItsPeerLink(t *testing.T) {
	f := newTestFleet(t)
	f.run("sign")
	f.join("p1")
	p1 := f.run("p1")
	f.sees(p1, "sign")
	before := p1.cfg.State.Certificate()
	f.advance(renewAfter + time.Hour)
	if err := p1.renewOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := p1.cfg.State.Certificate()
	if !after.Leaf.NotAfter.After(before.Leaf.NotAfter) {
		t.Error("no new certificate")
	}
	if got := f.state("p1").Certificate(); !got.Leaf.Equal(after.Leaf) {
		t.Error("the new certificate is not on disk")
	}
}

func TestLinkComesBack(t *testing.T) {
	f := newTestFleet(t)
	f.run("sign")
	f.join("p1")
	f.join("p2")
	p1, p2 := f.run("p1"), f.run("p2")
	f.sees(p1, "p2")
	p2.stop()
	f.eventually("p1 notices", func() error {
		if p1.Up()[f.id("p2")].Up {
			return errors.New("still up")
		}
		return nil
	})
	if _, err := p1.Request(t.Context(), f.id("p2"), &proto.Ratify{}); !errors.Is(err, ErrDown) {
		t.Errorf("got %v", err)
	}
	if len(p1.Handovers()) != 1 {
		t.Error("the key that p2 gave is forgotten with its link: no transfer could name p2 now")
	}
	f.run("p2")
	f.sees(p1, "p2")
}
