package proto

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// testCA is a fleet's CA with keys that never change.
type testCA struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newTestCA(t testing.TB) testCA { return namedCA(t, 1) }

func namedCA(t testing.TB, seed byte) testCA {
	t.Helper()
	key := ed25519.NewKeyFromSeed(seq(32, seed))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: aTime.Add(-time.Hour), NotAfter: aTime.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return testCA{cert: issue(t, tmpl, tmpl, key, key), key: key}
}

func issue(t testing.TB, tmpl, parent *x509.Certificate, key, signer ed25519.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(nil, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// leaf issues a certificate for the identity.
func (ca testCA) leaf(t testing.TB, id Identity, usage x509.ExtKeyUsage) (*x509.Certificate, ed25519.PrivateKey) {
	key := ed25519.NewKeyFromSeed(seq(32, 77))
	return issue(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: aTime.Add(-time.Hour), NotAfter: aTime.Add(time.Hour),
		URIs: id.URIs(), ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}, ca.cert, key, ca.key), key
}

// sign signs a document as a node with the role.
func (ca testCA) sign(t testing.TB, doc Document, role Role) []byte {
	t.Helper()
	cert, key := ca.leaf(t, Identity{Fleet: "lab", Roles: []Role{role}, Node: anEdge}, x509.ExtKeyUsageServerAuth)
	b, err := SignDoc(doc, key, [][]byte{cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var aCatalogue = &Catalogue{
	Fleet: "lab", Version: 9, Issued: aTime.UTC(),
	Entries:  []CatalogueEntry{{Node: anEdge, Name: "p1", Addrs: []netip.Addr{aTarget.Addr4}, LinkPort: 7443}},
	Services: []CatalogueService{{Name: "web", Public: []netip.AddrPort{netip.MustParseAddrPort("198.18.72.9:80")}}},
}

func TestVerifyPeer(t *testing.T) {
	ca, other := newTestCA(t), namedCA(t, 2)
	pub := ed25519.NewKeyFromSeed(seq(32, 77)).Public().(ed25519.PublicKey)
	agent := Identity{Fleet: "lab", Roles: []Role{RoleAgent}, Agent: AgentIDOf(pub), Groups: []string{"staff", "db"}}
	edge := Identity{Fleet: "lab", Roles: []Role{RoleEdge, RoleAnchor}, Node: anEdge, Hidden: true}
	with := func(id Identity, f func(*Identity)) Identity { f(&id); return id }
	for _, tc := range []struct {
		rule   string
		id     Identity
		issuer testCA
		has    x509.ExtKeyUsage
		now    time.Time
		ok     bool
	}{
		{"an agent", agent, ca, x509.ExtKeyUsageClientAuth, aTime, true},
		{"a hidden edge and anchor", edge, ca, x509.ExtKeyUsageClientAuth, aTime, true},
		{"another fleet's CA", edge, other, x509.ExtKeyUsageClientAuth, aTime, false},
		{"for servers only", edge, ca, x509.ExtKeyUsageServerAuth, aTime, false},
		{"expired", edge, ca, x509.ExtKeyUsageClientAuth, aTime.Add(2 * time.Hour), false},
		{"no role", with(edge, func(i *Identity) { i.Roles = nil }), ca, x509.ExtKeyUsageClientAuth, aTime, false},
		{"an unknown role", with(edge, func(i *Identity) { i.Roles = []Role{"king"} }), ca, x509.ExtKeyUsageClientAuth, aTime, false},
		{"agent and edge", with(edge, func(i *Identity) { i.Roles, i.Agent = []Role{RoleAgent, RoleEdge}, agent.Agent }), ca, x509.ExtKeyUsageClientAuth, aTime, false},
		{"another agent's id", with(agent, func(i *Identity) { i.Agent = anAgent }), ca, x509.ExtKeyUsageClientAuth, aTime, false},
		{"a node id of zeros", with(edge, func(i *Identity) { i.Node = NodeID{} }), ca, x509.ExtKeyUsageClientAuth, aTime, false},
		{"a role twice", with(edge, func(i *Identity) { i.Roles = []Role{RoleEdge, RoleEdge} }), ca, x509.ExtKeyUsageClientAuth, aTime, false},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			cert, _ := tc.issuer.leaf(t, tc.id, tc.has)
			got, err := VerifyPeer([][]byte{cert.Raw}, ca.cert, tc.now, x509.ExtKeyUsageClientAuth)
			if tc.ok != (err == nil) {
				t.Fatalf("got %+v, %v", got, err)
			}
			if tc.ok && (got.Fleet != tc.id.Fleet || !slices.Equal(got.Roles, tc.id.Roles) || got.Agent != tc.id.Agent ||
				got.Node != tc.id.Node || !slices.Equal(got.Groups, tc.id.Groups) || got.Hidden != tc.id.Hidden) {
				t.Errorf("got %+v, want %+v", got, tc.id)
			}
		})
	}
	for rule, raw := range map[string][][]byte{"no certificate": nil, "garbage": {[]byte("x")}, "too many": make([][]byte, 99)} {
		if _, err := VerifyPeer(raw, ca.cert, aTime, x509.ExtKeyUsageClientAuth); err == nil {
			t.Errorf("%s is somebody", rule)
		}
	}
}

func TestDocuments(t *testing.T) {
	ca, other := newTestCA(t), namedCA(t, 2)
	signed := ca.sign(t, aCatalogue, RoleSigner)
	var got Catalogue
	if err := OpenDoc(signed, ca.cert, aTime, &got); err != nil || got.Version != 9 || got.Entries[0].Node != anEdge {
		t.Fatalf("a good one: %+v, %v", got, err)
	}
	for rule, b := range map[string][]byte{
		"changed":                         bytes.Replace(signed, []byte(`"version":9`), []byte(`"version":8`), 1),
		"signed by an edge":               ca.sign(t, aCatalogue, RoleEdge),
		"of another fleet":                other.sign(t, aCatalogue, RoleSigner),
		"the nodes' document for agents'": ca.sign(t, &FleetDoc{Fleet: "lab"}, RoleSigner),
		"too long":                        append(bytes.Clone(signed), bytes.Repeat([]byte(" "), docMax)...),
		"cut":                             signed[:len(signed)/2],
		"empty":                           nil,
	} {
		if err := OpenDoc(b, ca.cert, aTime, new(Catalogue)); !errors.Is(err, ErrDoc) {
			t.Errorf("%s: %v, want it refused", rule, err)
		}
	}
}

func TestToken(t *testing.T) {
	s := aToken.String()
	got, err := ParseToken(" " + s + "\n")
	if err != nil || got.String() != s || got.Node != "p2" || got.Entries[0] != aTarget {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range len(s) {
		if _, err := ParseToken(s[:n]); !errors.Is(err, ErrTokenTruncated) && (n > 0 || !errors.Is(err, ErrNotToken)) {
			t.Fatalf("cut after %d characters: %v, want a sentence that says so", n, err)
		}
	}
	typo := []byte(s)
	typo[40] ^= 1
	for text, want := range map[string]error{
		string(typo): ErrTokenTruncated, "https://example.org": ErrNotToken, "": ErrNotToken,
		TokenPrefix + strings.Repeat("A", tokenMax+1): ErrNotToken,
	} {
		if _, err := ParseToken(text); !errors.Is(err, want) {
			t.Errorf("%.40q: %v, want %v", text, err, want)
		}
	}
	if err := aToken.Check(aTime.Add(-time.Second)); err != nil {
		t.Errorf("in time: %v", err)
	}
	if err := aToken.Check(aTime); !errors.Is(err, ErrTokenExpired) {
		t.Errorf("too late: %v", err)
	}
}

func TestSealedReply(t *testing.T) {
	keys := aSecret.Admission(anAgent)
	pre := aPreamble.Append(nil, keys, anEdge)
	for _, r := range []Reply{
		aTransfer,
		{Kind: ReplyTransfer, Targets: []Target{aTarget, {Addr6: aTarget.Addr6, Port: 1}}, Client: netip.AddrPortFrom(aClient6, 1)},
		{Kind: ReplyRetry, After: 2500 * time.Millisecond, Round: 5},
		{Kind: ReplyBusy, After: 100 * time.Millisecond},
		{Kind: ReplyReject, Code: RejectClock, ServerTime: aTime},
		{Kind: ReplyReject, Code: RejectRevoked},
		{Kind: ReplyReject, Code: RejectAnchor},
	} {
		sealed := r.Seal(pre, keys)
		got, err := OpenReply(sealed[:], pre, keys)
		if err != nil || got.Kind != r.Kind || !slices.Equal(got.Targets, r.Targets) || got.Code != r.Code || got.After != r.After ||
			!got.ServerTime.Equal(r.ServerTime) || got.Round != r.Round || got.Client != r.Client {
			t.Errorf("got %+v, %v; want %+v", got, err, r)
		}
		if again := r.Seal(pre, keys); again != sealed {
			t.Error("a preamble sent again gets another segment")
		}
		for at := range sealed {
			bad := sealed
			bad[at] ^= 0x40
			if _, err := OpenReply(bad[:], pre, keys); err == nil {
				t.Fatalf("opened with byte %d changed", at)
			}
		}
	}
	sealed := aTransfer.Seal(pre, keys)
	if strings.Contains(string(sealed[:]), string(aTarget.Addr6.AsSlice())) {
		t.Error("the next proxy's address shows")
	}
	next := aPreamble
	next.Nonce[0]++
	if _, err := OpenReply(sealed[:], next.Append(nil, keys, anEdge), keys); !errors.Is(err, ErrSealed) {
		t.Errorf("opened for another attempt: %v", err)
	}
	if _, err := OpenReply(sealed[:], pre, aSecret.Admission(AgentID{1})); !errors.Is(err, ErrSealed) {
		t.Errorf("opened by another agent: %v", err)
	}
	busy := Reply{Kind: ReplyBusy, After: time.Hour}.Seal(pre, keys)
	if r, err := OpenReply(busy[:], pre, keys); err != nil || r.After != 25500*time.Millisecond {
		t.Errorf("an hour is told as %v, want the most there is", r.After)
	}
	one, two := Reply{Kind: ReplyBusy}.Seal(pre, keys), Reply{Kind: ReplyRetry}.Seal(pre, keys)
	if bytes.Equal(one[2:2+sealedNonce], two[2:2+sealedNonce]) {
		t.Error("two contents share a nonce")
	}
}
