package proto

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"io"
	"net/url"
	"strings"
	"testing"
)

func FuzzMessage(f *testing.F) {
	for _, m := range messages() {
		f.Add(uint8(m.Type()), m.AppendPayload(nil))
	}
	f.Add(uint8(TypeMigrate), bytes.Repeat([]byte{0xff}, 64)) // counts beyond what follows
	f.Fuzz(func(t *testing.T, ft uint8, b []byte) {
		m, err := ParseMessage(FrameType(ft), b)
		if err != nil {
			return
		}
		if got := m.AppendPayload(nil); !bytes.Equal(got, b) {
			t.Errorf("%T: read %x, writes %x", m, b, got)
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add(Header{Type: TypeData, Length: MaxPayload, Stream: 1, Offset: 1}.Append(nil))
	f.Add(Header{Type: TypeData, Length: MaxPayload + 1}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err == nil && !bytes.Equal(h.Append(nil), b[:HeaderLen]) {
			t.Errorf("read %x, writes %x", b[:HeaderLen], h.Append(nil))
		}
	})
}

func FuzzReader(f *testing.F) {
	for _, m := range messages() {
		f.Add(AppendMessage(nil, m, 1))
	}
	more := Header{Type: TypeGoAway, Flags: FlagMore, Length: 4}.Append(nil)
	f.Add(append(append(append(more, 0, 9, 'x', 'x'), more...), "xxxx"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b), 1<<10)
		for {
			m, stream, err := r.Read()
			if err != nil {
				if err == io.EOF && len(b) > 0 && len(b) < HeaderLen {
					t.Errorf("a clean end inside a header of %d bytes", len(b))
				}
				return
			}
			if n := len(m.AppendPayload(nil)); n > 1<<10+MaxPayload {
				t.Errorf("%T of %d bytes passed (stream %d)", m, n, stream)
			}
		}
	})
}

func FuzzPreamble(f *testing.F) {
	keys := aSecret.Admission(anAgent)
	var ring Keyring
	ring.Set(aPreamble.Key, aSecret)
	good := aPreamble.Append(nil, keys, anEdge)
	f.Add(good)
	f.Add(good[:PreambleLen-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := ring.Verify(b, anEdge, aTime)
		if err == nil && !bytes.Equal(b[:PreambleLen], good) {
			t.Errorf("accepted %x", b)
		}
		if err == nil && !ring.CheckTag(b) {
			t.Errorf("wrong tag and right MAC: %x", b)
		}
		if p, err := ParsePreamble(b); err == nil && b[4] == Version {
			if got := p.Append(nil, Admission{Handle: p.Handle}, anEdge); !bytes.Equal(got[:tagAt], b[:tagAt]) {
				t.Errorf("read %x, writes %x", b[:tagAt], got[:tagAt])
			}
		}
	})
}

func FuzzRelayHeader(f *testing.F) {
	good := aRelay.Append(nil, aRelayKey)
	f.Add(good)
	f.Add(good[:RelayHeaderLen-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseRelayHeader(b)
		if err != nil {
			return
		}
		if got := h.Append(nil, aRelayKey); !bytes.Equal(got[:relayMACAt], b[:relayMACAt]) {
			t.Errorf("read %x, writes %x", b, got)
		}
		if h.Verify(b, aRelayKey, aTime) == nil && !bytes.Equal(b, good) && h.Time.Equal(aTime) {
			t.Errorf("accepted %x", b)
		}
	})
}

// FuzzReply is about what is inside: what is around is authenticated (TestSealedReply).
func FuzzReply(f *testing.F) {
	var plain [sealedPlain]byte
	aTransfer.put(plain[:])
	f.Add(plain[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReply(b)
		if err != nil || len(b) != sealedPlain {
			return
		}
		var got [sealedPlain]byte
		if r.put(got[:]); !bytes.Equal(got[:], b) {
			t.Errorf("read %x, writes %x", b, got)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add(aToken.String())
	f.Add(TokenPrefix)
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err == nil && tok.String() != strings.TrimSpace(s) {
			t.Errorf("read %q, writes %q", s, tok)
		}
	})
}

// FuzzTokenBody is what FuzzToken does not reach behind the checksum.
func FuzzTokenBody(f *testing.F) {
	b, err := tokenEncoding.DecodeString(strings.TrimPrefix(aToken.String(), TokenPrefix))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[1 : len(b)-tokenSum])
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := parseToken(b)
		if err != nil {
			return
		}
		again, err := tokenEncoding.DecodeString(strings.TrimPrefix(tok.String(), TokenPrefix))
		if err != nil || !bytes.Equal(again[1:len(again)-tokenSum], b) {
			t.Errorf("read %x, writes %x (%v)", b, again, err)
		}
	})
}

func FuzzIdentity(f *testing.F) {
	key := ed25519.NewKeyFromSeed(seq(32, 1))
	pub := key.Public().(ed25519.PublicKey)
	f.Add("ms://lab/agent/"+AgentIDOf(pub).String(), "ms://lab/group/staff")
	f.Add("ms://lab/edge/"+anEdge.String(), "ms://lab/kind/hidden")
	f.Fuzz(func(t *testing.T, a, b string) {
		ua, errA := url.Parse(a)
		ub, errB := url.Parse(b)
		if errA != nil || errB != nil {
			return
		}
		id, err := IdentityOf(&x509.Certificate{URIs: []*url.URL{ua, ub}, PublicKey: pub})
		if err != nil {
			return
		}
		if id.Fleet == "" || len(id.Roles) == 0 || id.Has(RoleAgent) != id.Node.IsZero() {
			t.Errorf("%q and %q give %+v", a, b, id)
		}
		if again, err := IdentityOf(&x509.Certificate{URIs: id.URIs(), PublicKey: pub}); err != nil || len(again.Roles) != len(id.Roles) {
			t.Errorf("%+v is written as %v, which gives %+v, %v", id, id.URIs(), again, err)
		}
	})
}

func FuzzDoc(f *testing.F) {
	ca := newTestCA(f)
	signed := ca.sign(f, aCatalogue, RoleSigner)
	f.Add(signed)
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Catalogue
		if OpenDoc(b, ca.cert, aTime, &c) == nil && c.Version != aCatalogue.Version {
			t.Errorf("accepted %+v", c)
		}
	})
}
