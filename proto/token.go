package proto

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// TokenPrefix begins every join token.
const TokenPrefix = "ms://join/"

const (
	tokenVersion = 1
	tokenMax     = 16 << 10
	tokenSum     = 8
)

// Why a token is not usable. Each is the whole sentence a person is shown.
var (
	ErrNotToken       = errors.New("this is not a join token: one begins with " + TokenPrefix)
	ErrTokenTruncated = errors.New("this join token is truncated or mistyped: copy the whole line again")
	ErrTokenExpired   = errors.New("this join token has expired: ask for a new one (proxyd token create)")
	ErrTokenVersion   = errors.New("this join token was made by another version of Migration Sensor: upgrade, or ask for a new one")
)

// Token lets its holder join a fleet. It holds a secret: it travels by file or prompt, not by argument.
type Token struct {
	ID      TokenID
	Role    Role
	Expires time.Time
	CAHash  [32]byte       // SHA-256 of the CA certificate's DER
	Secret  [32]byte       // one-time
	Entries []Target       // with the token's keys for each entry (agents)
	Signer  netip.AddrPort // on the backplane (nodes)
	Node    string         // the node it is for; empty: any
}

// TokenEntry is an entry with the token's keys for it.
type TokenEntry = Target

// CAHash returns what a token pins of a CA.
func CAHash(ca *x509.Certificate) [32]byte { return sha256.Sum256(ca.Raw) }

var tokenEncoding = base64.RawURLEncoding

// LogValue keeps the token, which is a secret, out of logs.
func (t Token) LogValue() slog.Value { return slog.StringValue("join token " + t.ID.String()) }

// String returns the token in the form that ParseToken reads: the secret itself.
func (t Token) String() string {
	b := []byte{tokenVersion}
	b = append(b, t.ID[:]...)
	b = appendText(b, string(t.Role))
	b = appendSeconds(b, t.Expires)
	b = append(append(b, t.CAHash[:]...), t.Secret[:]...)
	b = appendText(appendAddrPort(b, t.Signer), t.Node)
	b = append(b, byte(len(t.Entries)))
	for _, e := range t.Entries {
		b = appendTarget(b, e)
	}
	sum := sha256.Sum256(b)
	return TokenPrefix + tokenEncoding.EncodeToString(append(b, sum[:tokenSum]...))
}

// ParseToken reads a token and checks that it is whole; Check looks at the clock.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	rest, ok := strings.CutPrefix(s, TokenPrefix)
	if !ok {
		if s != "" && strings.HasPrefix(TokenPrefix, s) {
			return Token{}, ErrTokenTruncated
		}
		return Token{}, ErrNotToken
	}
	if len(rest) > tokenMax {
		return Token{}, fmt.Errorf("%d characters: %w", len(rest), ErrNotToken)
	}
	b, err := tokenEncoding.Strict().DecodeString(rest)
	if err != nil || len(b) < tokenSum+1 {
		return Token{}, ErrTokenTruncated
	}
	body, sum := b[:len(b)-tokenSum], b[len(b)-tokenSum:]
	if want := sha256.Sum256(body); !bytes.Equal(want[:tokenSum], sum) {
		return Token{}, ErrTokenTruncated
	}
	if body[0] != tokenVersion {
		return Token{}, ErrTokenVersion
	}
	return parseToken(body[1:])
}

func parseToken(b []byte) (t Token, err error) {
	d := decoder{b: b}
	d.fill(t.ID[:])
	t.Role = Role(d.text())
	t.Expires = d.seconds()
	d.fill(t.CAHash[:])
	d.fill(t.Secret[:])
	t.Signer = d.addrPort()
	t.Node = d.text()
	for range d.u8() {
		if d.err != nil {
			break
		}
		t.Entries = append(t.Entries, d.target())
	}
	if d.end() != nil {
		return Token{}, ErrNotToken
	}
	return t, nil
}

// Check reports whether the token can still be used at now.
func (t Token) Check(now time.Time) error {
	if !now.Before(t.Expires) {
		return fmt.Errorf("%w; it was good until %s", ErrTokenExpired, t.Expires.UTC().Format("2006-01-02 15:04 MST"))
	}
	return nil
}
