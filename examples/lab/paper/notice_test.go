package paper

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var (
	testKey    = Key{1, 2, 3}
	testClient = netip.MustParseAddrPort("198.18.1.1:40000")
	testNotice = notice{netip.MustParseAddrPort("198.18.72.93:80"), Word{9, 8, 7}}
)

func TestNoticeIsReadByItsClientOnly(t *testing.T) {
	b := testNotice.seal(testKey)
	if got, err := openNotice(testKey, b); err != nil || got != testNotice {
		t.Errorf("got %v, %v, want %v", got, err, testNotice)
	}
	if bytes.Contains(b, testNotice.word[:3]) || bytes.Contains(b, testNotice.to.Addr().AsSlice()) {
		t.Errorf("the secret word or P2's address can be read: %x", b)
	}
	if _, err := openNotice(Key{4}, b); err == nil {
		t.Error("another key opens it")
	}
	if again := testNotice.seal(testKey); bytes.Equal(b, again) {
		t.Error("two notifications are the same bytes: the nonce is not fresh")
	}
}

func TestTamperedNoticeIsNone(t *testing.T) {
	b := testNotice.seal(testKey)
	for i := range len(b) * 8 {
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		if n, err := openNotice(testKey, bad); err == nil {
			t.Errorf("bit %d turned: opens as %v", i, n)
		}
	}
	for n := range len(b) {
		if _, err := openNotice(testKey, b[:n]); err == nil {
			t.Errorf("cut to %d bytes: opens", n)
		}
	}
	if _, err := openNotice(testKey, append(b, 0)); err == nil {
		t.Error("with a byte more: opens")
	}
}

func TestNoticeNamesAMachine(t *testing.T) {
	for _, to := range []string{"0.0.0.0:80", "224.0.0.1:80", "255.255.255.255:80", "198.18.72.93:0"} {
		n := notice{to: netip.MustParseAddrPort(to)}
		if _, err := openNotice(testKey, n.seal(testKey)); err == nil {
			t.Errorf("a notification of %s opens", to)
		}
	}
}

func TestRatificationAsWritten(t *testing.T) {
	r := ratification{client: testClient, service: 80, next: 0x01020304, ours: 0x05060708, word: Word{0xaa}}
	b := r.append(nil, kindRatify)
	const golden = "01c6120101" + "9c40" + "0050" + "01020304" + "05060708" + "aa000000000000000000000000000000"
	if hex.EncodeToString(b) != golden {
		t.Errorf("got  %x\nwant %s", b, golden)
	}
	if got, ok := parseRatification(b, kindRatify); !ok || got != r {
		t.Errorf("got %v, %v, want %v", got, ok, r)
	}
	if _, ok := parseRatification(b, kindApproval); ok {
		t.Error("a ratification is taken for an approval")
	}
}

func TestKeyFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "key")
	for rule, tc := range map[string]struct {
		text string
		ok   bool
	}{
		"64 digits":          {strings.Repeat("0f", 32) + "\n", true},
		"too short":          {strings.Repeat("0f", 31), false},
		"not a hex digit":    {strings.Repeat("0g", 32), false},
		"an empty file":      {"", false},
		"longer than a key":  {strings.Repeat("0f", 33), false},
		"two keys on a line": {strings.Repeat("0f", 32) + " 0f", false},
	} {
		if err := os.WriteFile(name, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if k, err := LoadKey(name); (err == nil) != tc.ok || tc.ok && k[31] != 0x0f {
			t.Errorf("%s: got %x, %v", rule, k, err)
		}
	}
	for _, missing := range []string{"", name + "2"} {
		if _, err := LoadKey(missing); err == nil {
			t.Errorf("key file %q: no error", missing)
		}
	}
}

func FuzzOpenNotice(f *testing.F) {
	f.Add(testNotice.seal(testKey))
	f.Add([]byte("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := openNotice(testKey, b)
		if err == nil && !host(n.to) {
			t.Errorf("opens as %v", n)
		}
	})
}

func FuzzRatification(f *testing.F) {
	f.Add(ratification{client: testClient, service: 80}.append(nil, kindRatify), byte(kindRatify))
	f.Fuzz(func(t *testing.T, b []byte, kind byte) {
		if r, ok := parseRatification(b, kind); ok && !bytes.Equal(r.append(nil, kind), b) {
			t.Errorf("%x is written as %x", b, r.append(nil, kind))
		}
	})
}
