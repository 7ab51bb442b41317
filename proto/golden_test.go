package proto

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write testdata/golden.txt anew: only for a new version of the protocol")

const goldenFile = "testdata/golden.txt"

// The fixed values of all golden bytes.
var (
	aSecret  = Secret(seq(32, 0x40))
	anAgent  = AgentID(seq(16, 0xa0))
	anEdge   = NodeID(seq(8, 0xe0))
	aNonce   = Nonce(seq(16, 0x10))
	aSession = SessionID(seq(16, 0x50))
	aTime    = time.Unix(1_800_000_000, 0)
	aClient  = netip.MustParseAddr("198.18.1.2")
	aClient6 = netip.MustParseAddr("2001:2::1:2")

	aPreamble = Preamble{Kind: KindData, Key: KeyID{Gen: 3, Issuer: 7}, Target: anEdge, Time: aTime, Nonce: aNonce}
	aTarget   = Target{
		Addr4: netip.MustParseAddr("198.18.72.9"), Addr6: netip.MustParseAddr("2001:2::9"), Port: 7443,
		Node: anEdge, Key: KeyID{Gen: 3, Issuer: 7}, Keys: aSecret.Admission(anAgent),
	}
	aTransfer = Reply{
		Kind: ReplyTransfer, Targets: []Target{aTarget}, Round: 5, Client: netip.AddrPortFrom(aClient, 40000),
	}
	aRelay = RelayHeader{
		Edge: anEdge, Agent: anAgent, Addr: netip.AddrPortFrom(aClient, 40000), Nonce: aNonce, Time: aTime, Key: RelayKeyID(seq(4, 0x70)),
	}
	aRelayKey = RelayKey(seq(32, 0x60))
	aToken    = Token{
		ID: anAgent, Role: RoleAgent, Expires: aTime, CAHash: [32]byte(seq(32, 1)), Secret: [32]byte(seq(32, 2)),
		Entries: []Target{aTarget}, Signer: netip.MustParseAddrPort("198.18.9.1:7444"), Node: "p2",
	}
)

func seq(n int, first byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// messages is one of each, with no field left at zero: by the paper's names first.
func messages() []Message {
	id := MigrateID{Edge: anEdge, Counter: 42}
	keys := Keys{Entries: []KeyEntry{{Node: anEdge, Key: aTarget.Key, Keys: aTarget.Keys, Expiry: aTime}}}
	return []Message{
		&UserInfo{Round: 5, Clients: []UserInfoClient{
			{Agent: anAgent, Addr: aClient, Session: aSession, Anchor: anEdge, Services: []string{"web", "db"}, StartAfter: 250 * time.Millisecond, Expiry: 30 * time.Second},
			{Agent: anAgent, Addr: aClient6, Expiry: time.Second},
		}},
		&UserInfoOK{Round: 5, Load: 250},
		&Migrate{ID: id, Targets: []Target{aTarget, {Addr4: aTarget.Addr4, Port: 1}}, StartAfter: 1500 * time.Millisecond, Deadline: 30 * time.Second},
		&MigrateOK{ID: id},
		&Ratify{Attempt: aNonce, Agent: anAgent, Addr: aClient, Service: "web", Expiry: 30 * time.Second},
		&RatifyOK{Attempt: aNonce, Load: 250},
		&Busy{Reason: "full"},

		&Session{Credit: 65536},
		&SessionOK{ID: aSession, Credit: 65536, MaxStreams: 4096, Grace: 120 * time.Second},
		&Attach{Session: aSession, Epoch: 3}, &AttachOK{Epoch: 3},
		&Resume{Session: aSession, Epoch: 4, Streams: []ResumeStream{
			{ID: 1, State: StreamOpening}, {ID: 7, State: StreamOpen, Received: 1000, Credit: 66536}, {ID: 9, State: StreamReset},
		}},
		&ResumeOK{Epoch: 4, Streams: []ResumeStream{
			{ID: 7, State: StreamEnded, Received: 500, Credit: 66036}, {ID: 9, State: StreamFinished}, {ID: 11, State: StreamBadOffset},
		}},
		&ResumeFail{Code: ResumeRetry, After: 250 * time.Millisecond},
		&Open{Credit: 262144, Service: "web"},
		&OpenOK{Credit: 65536},
		&OpenFail{Code: OpenTimedOut, Text: "no answer"},
		&Ping{Token: 7}, &Pong{Token: 7},
		&CatalogueMsg{Doc: []byte("{}")}, &GoAway{Reason: "stop"}, &Boot{ID: 8, Current: true, Version: "v1"}, &Standby{Targets: []Target{aTarget}}, &keys,
		&Renew{CSR: []byte("csr")}, &RenewOK{Chain: [][]byte{[]byte("leaf"), []byte("ca")}},
		&Enrol{Token: anAgent, Secret: [32]byte(seq(32, 2)), CSR: []byte("csr"), As: "p2"},
		&EnrolOK{
			Chain: [][]byte{[]byte("leaf")}, Catalogue: []byte("cat"), Keys: keys, Fleet: []byte("fleet"),
			Secrets: []GenSecret{{Gen: 3, Secret: aSecret}},
		},
		&EnrolFail{Later: true, Reason: "used"},
		&Hello{Name: "p1", FleetVersion: 9}, &Handover{Gen: 3, Issuer: 7, H: aSecret}, &FleetMsg{Doc: []byte("{}")},
		&Heartbeat{Load: 250, UnderAttack: true, State: "active"},
		&Sign{Agent: anAgent, Kind: TypeEnrol, Body: []byte("body")}, &SignOK{Kind: TypeEnrolOK, Body: []byte("body")},
		&Revoke{Agent: anAgent, Node: anEdge, Serial: []byte{1, 2, 3}},
	}
}

func name(m Message) string { return strings.ToLower(reflect.TypeOf(m).Elem().Name()) }

// golden is every byte layout there is, in the order of the file.
func golden() (names []string, is map[string][]byte) {
	is = make(map[string][]byte)
	add := func(name string, b []byte) { names, is[name] = append(names, name), b }
	keys := aSecret.Admission(anAgent)
	pre := aPreamble.Append(nil, keys, anEdge)
	add("admission", appendAdmission(nil, keys))
	handover := aSecret.Handover(anEdge)
	add("handover-key", handover[:])
	proxy := FleetKey(aSecret).ProxySecret(anEdge, 3)
	add("proxy-secret", proxy[:])
	add("preamble", pre)
	for _, r := range []Reply{
		aTransfer,
		{Kind: ReplyRetry, After: 2500 * time.Millisecond, Round: 5},
		{Kind: ReplyBusy, After: time.Second},
		{Kind: ReplyReject, Code: RejectClock, ServerTime: aTime},
		{Kind: ReplyGo, Round: 5},
	} {
		sealed := r.Seal(pre, keys)
		add(fmt.Sprintf("sealed-%d", r.Kind), sealed[:])
	}
	gone := Reply{Kind: ReplyReject, Code: RejectAnchor}.Seal(pre, keys)
	add("sealed-4-anchor-gone", gone[:])
	add("relay-header", aRelay.Append(nil, aRelayKey))
	add("header", Header{Type: TypeData, Flags: FlagMore, Length: 16368, Stream: 0x01020304, Offset: 0x05060708090a0b0c}.Append(nil))
	for _, m := range messages() {
		add(name(m), AppendMessage(nil, m, 9))
	}
	add("token", []byte(aToken.String()))
	return names, is
}

// TestGolden fails when a byte of the wire changes: then old and new do not understand each other.
func TestGolden(t *testing.T) {
	names, is := golden()
	if *update {
		var out strings.Builder
		for _, n := range names {
			fmt.Fprintf(&out, "%s %x\n", n, is[n])
		}
		if err := os.WriteFile(goldenFile, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(file)) {
		n, want, _ := strings.Cut(strings.TrimSpace(line), " ")
		got, ok := is[n]
		if seen++; !ok || hex.EncodeToString(got) != want {
			t.Errorf("%s is %x, want %s", n, got, want)
		}
	}
	if seen != len(names) {
		t.Errorf("%d golden layouts in the file, %d exist", seen, len(names))
	}
}

// TestEveryMessage: each type is in the table above and comes back as it was.
func TestEveryMessage(t *testing.T) {
	have := make(map[FrameType]bool)
	for _, m := range messages() {
		t.Run(name(m), func(t *testing.T) {
			have[m.Type()] = true
			got, stream, err := NewReader(bytes.NewReader(AppendMessage(nil, m, 9)), 1<<16).Read()
			if err != nil || stream != 9 {
				t.Fatalf("stream %d, %v", stream, err)
			}
			if d := cmp.Diff(m, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("changed on the way (-sent +got):\n%s", d)
			}
			v := reflect.ValueOf(m).Elem()
			for i := range v.NumField() {
				if v.Field(i).IsZero() {
					t.Errorf("field %s is zero: its place on the wire is not tested", v.Type().Field(i).Name)
				}
			}
		})
	}
	for ft := range 256 {
		if newMessage(FrameType(ft)) != nil && !have[FrameType(ft)] {
			t.Errorf("message type %#x has no golden bytes", ft)
		}
	}
}

func TestLongMessage(t *testing.T) {
	doc := bytes.Repeat([]byte("x"), 3*MaxPayload)
	wire := AppendMessage(nil, &FleetMsg{Doc: doc}, 0)
	m, err := NewReader(bytes.NewReader(wire), 1<<20).Message()
	if err != nil || !bytes.Equal(m.(*FleetMsg).Doc, doc) {
		t.Errorf("a message of four frames: %v", err)
	}
	if _, err := NewReader(bytes.NewReader(wire), 2*MaxPayload).Message(); err == nil {
		t.Error("a message longer than its reader allows was read")
	}
	mixed := append(bytes.Clone(wire[:HeaderLen+MaxPayload]), AppendMessage(nil, &GoAway{}, 0)...)
	if _, err := NewReader(bytes.NewReader(mixed), 1<<20).Message(); err == nil {
		t.Error("a message that goes on as another type was read")
	}
}
