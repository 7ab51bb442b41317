package proto

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/dchest/siphash"
)

func TestVerify(t *testing.T) {
	keys := aSecret.Admission(anAgent)
	var ring Keyring
	ring.Set(aPreamble.Key, aSecret)
	good := aPreamble.Append(nil, keys, anEdge)
	v, err := ring.Verify(append(bytes.Clone(good), "ClientHello"...), anEdge, aTime)
	if err != nil || v.Agent != anAgent || v.Keys != keys || v.Nonce != aNonce || v.Kind != KindData || !v.Time.Equal(aTime) {
		t.Fatalf("a good preamble: %+v, %v", v, err)
	}
	bump := func(at int) []byte { b := bytes.Clone(good); b[at] ^= 1; return b }
	otherVersion := func() []byte { // as a later version's agent would write it
		b := bytes.Clone(good[:tagAt])
		b[4] = Version + 1
		return resign(b, keys, anEdge)
	}()
	for _, tc := range []struct {
		rule string
		b    []byte
		self NodeID
		now  time.Time
		want error
	}{
		{"a byte short", good[:PreambleLen-1], anEdge, aTime, ErrMagic},
		{"another magic", bump(0), anEdge, aTime, ErrMagic},
		{"a key id that is not here", bump(6), anEdge, aTime, ErrKey},
		{"another handle", bump(8), anEdge, aTime, ErrTag},
		{"another kind", bump(5), anEdge, aTime, ErrTag},
		{"another nonce", bump(40), anEdge, aTime, ErrTag},
		{"another tag", bump(tagAt), anEdge, aTime, ErrTag},
		{"another MAC", bump(macAt), anEdge, aTime, ErrMAC},
		{"made for another edge", good, NodeID{1}, aTime, ErrMAC},
		{"eleven minutes late", good, anEdge, aTime.Add(11 * time.Minute), ErrClock},
		{"eleven minutes early", good, anEdge, aTime.Add(-11 * time.Minute), ErrClock},
		{"nine minutes late", good, anEdge, aTime.Add(9 * time.Minute), nil},
		{"another version", otherVersion, anEdge, aTime, ErrVersion},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			v, err := ring.Verify(tc.b, tc.self, tc.now)
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			answered := tc.want == nil || errors.Is(tc.want, ErrClock) || errors.Is(tc.want, ErrVersion)
			if known := v.Agent == anAgent && v.Keys == keys; known != answered {
				t.Errorf("sender known: %v; an answer is due: %v", known, answered)
			}
		})
	}
	ring.Delete(aPreamble.Key)
	if ring.CheckTag(good) {
		t.Error("a deleted key is still accepted")
	}
}

// resign completes the 52 bytes before the tag.
func resign(b []byte, keys Admission, edge NodeID) []byte {
	full := append(bytes.Clone(b), make([]byte, PreambleLen-tagAt)...)
	k0, k1 := binary.LittleEndian.Uint64(keys.Tag[:]), binary.LittleEndian.Uint64(keys.Tag[8:])
	binary.BigEndian.PutUint64(full[tagAt:], siphash.Hash(k0, k1, b))
	sum := mac(&keys.K, full[:macAt], edge)
	copy(full[macAt:], sum[:])
	return full
}

// TestHandover: the neighbour makes the same keys as the edge that gave it the handover key.
func TestHandover(t *testing.T) {
	neighbour := NodeID{7}
	h := aSecret.Handover(neighbour)
	var ring Keyring
	ring.Set(KeyID{Gen: 1, Issuer: 2}, aSecret.Handover(neighbour))
	p := Preamble{Kind: KindKnock, Key: KeyID{Gen: 1, Issuer: 2}, Time: aTime, Nonce: aNonce}
	v, err := ring.Verify(p.Append(nil, h.Admission(anAgent), anEdge), anEdge, aTime)
	if err != nil || v.Agent != anAgent {
		t.Errorf("a client with a key from the neighbour: %v, %v", v.Agent, err)
	}
	if h == aSecret || aSecret.Handover(NodeID{8}) == h {
		t.Error("two neighbours have one key")
	}
	if a, b := h.Admission(anAgent), aSecret.Admission(anAgent); a.Handle == b.Handle || a.K == b.K || a.Tag == b.Tag {
		t.Error("the same agent looks alike under two keys")
	}
}

// TestShortHMAC holds the copy of HMAC and HKDF on the stack against the library's.
func TestShortHMAC(t *testing.T) {
	key := [32]byte(seq(32, 9))
	for n := range shortMax + 1 {
		h := hmac.New(sha256.New, key[:])
		h.Write(seq(n, 3))
		if got := shortHMAC(&key, seq(n, 3)); !bytes.Equal(got[:], h.Sum(nil)) {
			t.Fatalf("HMAC of %d bytes is %x", n, got)
		}
	}
	m := newMasters(aSecret)
	if got, want := m.k(anAgent), derive(aSecret[:], labelAdmission+string(anAgent[:]), 32); !bytes.Equal(got[:], want) {
		t.Errorf("admission key %x, HKDF says %x", got, want)
	}
}

func TestChecksDoNotAllocate(t *testing.T) {
	var ring Keyring
	ring.Set(aPreamble.Key, aSecret)
	good := aPreamble.Append(nil, aSecret.Admission(anAgent), anEdge)
	badTag, badMAC := bytes.Clone(good), bytes.Clone(good)
	badTag[tagAt] ^= 1
	badMAC[macAt] ^= 1
	set := NewNonceSet()
	header := Header{Type: TypeData}.Append(nil)
	for name, f := range map[string]func(){
		"right tag": func() { ring.CheckTag(good) },
		"wrong tag": func() { ring.Verify(badTag, anEdge, aTime) },
		"wrong MAC": func() { ring.Verify(badMAC, anEdge, aTime) },
		"nonce":     func() { set.Seen(aNonce, aClient, aTime) },
		"header":    func() { ParseHeader(header) },
	} {
		if n := testing.AllocsPerRun(500, f); n >= 1 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestNonceSet(t *testing.T) {
	s, now := NewNonceSet(), aTime
	other := netip.MustParseAddr("198.18.1.3")
	check := func(why string, n Nonce, from netip.Addr, fresh, same bool) {
		t.Helper()
		if f, sm := s.Seen(n, from, now); f != fresh || sm != same {
			t.Errorf("%s: fresh %v, same address %v; want %v, %v", why, f, sm, fresh, same)
		}
	}
	check("first time", aNonce, aClient, true, false)
	check("sent again", aNonce, aClient, false, true)
	check("as IPv4 in IPv6", aNonce, netip.AddrFrom16(aClient.As16()), false, true)
	check("replayed from elsewhere", aNonce, other, false, false)
	now = now.Add(11 * time.Minute)
	check("remembered for one generation more", aNonce, other, false, false)
	now = now.Add(11 * time.Minute)
	s.Seen(Nonce{1}, aClient, now) // turns
	now = now.Add(11 * time.Minute)
	check("forgotten, when its time is out of bounds anyway", aNonce, other, true, false)
}

func TestNonceSetIsBounded(t *testing.T) {
	s := NewNonceSet()
	for range 3 * nonceSlots {
		s.Seen(NewNonce(), aClient, aTime)
	}
	if len(s.cur)+len(s.old) != 2*nonceSlots {
		t.Errorf("%d places, want %d", len(s.cur)+len(s.old), 2*nonceSlots)
	}
	n := NewNonce()
	s.Seen(n, aClient, aTime)
	if fresh, _ := s.Seen(n, aClient, aTime); fresh {
		t.Error("a full table forgets the newest")
	}
}

// TestKeysStayOutOfLogs prints everything that holds a key in every way.
func TestKeysStayOutOfLogs(t *testing.T) {
	keys := aSecret.Admission(anAgent)
	var buf bytes.Buffer
	log := slog.New(slog.NewTextHandler(&buf, nil))
	jlog := slog.New(slog.NewJSONHandler(&buf, nil))
	for _, v := range []any{aSecret, FleetKey(aSecret), keys, aTarget, &aTarget, aTransfer, Verified{Keys: keys}, aToken, &keys} {
		if _, token := v.(Token); !token {
			fmt.Fprintf(&buf, "%v %+v %#v %s\n", v, v, v, v)
		}
		log.Info("x", "v", v)
	}
	jlog.Info("x", "a", aSecret, "b", FleetKey(aSecret), "c", keys, "d", aToken)
	for name, secret := range map[string][]byte{"secret": aSecret[:], "K": keys.K[:], "tag key": keys.Tag[:], "token": aToken.Secret[:]} {
		list, _ := json.Marshal(asInts(secret))
		words := strings.Trim(strings.ReplaceAll(string(list), ",", " "), "[]")
		for _, form := range []string{fmt.Sprintf("%x", secret), words, string(list), fmt.Sprintf("%#v", secret)[8:]} {
			if strings.Contains(buf.String(), form) {
				t.Errorf("%s shows", name)
			}
		}
	}
	if strings.Contains(buf.String(), TokenPrefix) {
		t.Error("a token shows")
	}
}

func asInts(b []byte) (out []int) {
	for _, v := range b {
		out = append(out, int(v))
	}
	return out
}

func BenchmarkCheckTag(b *testing.B) {
	var ring Keyring
	ring.Set(aPreamble.Key, aSecret)
	good := aPreamble.Append(nil, aSecret.Admission(anAgent), anEdge)
	b.ReportAllocs()
	for b.Loop() {
		ring.CheckTag(good)
	}
}

func BenchmarkVerify(b *testing.B) {
	var ring Keyring
	ring.Set(aPreamble.Key, aSecret)
	good := aPreamble.Append(nil, aSecret.Admission(anAgent), anEdge)
	b.ReportAllocs()
	for b.Loop() {
		ring.Verify(good, anEdge, aTime)
	}
}
