package paper

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
)

// Word is the paper's secret word.
type Word [16]byte

func newWord() (w Word) {
	_, _ = rand.Read(w[:]) // never fails
	return w
}

// errNotice says that bytes are no notification of P1's.
var errNotice = errors.New("not a transfer notification")

const (
	noticeMagic = "MVP\x01"
	noticePlain = 4 + 2 + 16
	nonceLen    = 12
	tagLen      = 16
	noticeLen   = len(noticeMagic) + nonceLen + noticePlain + tagLen
)

// notice is the transfer notification.
type notice struct {
	to   netip.AddrPort // P2
	word Word
}

// seal makes the notification's bytes.
func (n notice) seal(k Key) []byte {
	b := make([]byte, 0, noticeLen)
	b = append(b, noticeMagic...)
	nonce := make([]byte, nonceLen)
	_, _ = rand.Read(nonce)
	b = append(b, nonce...)
	plain := append(make([]byte, 0, noticePlain), n.to.Addr().AsSlice()...)
	plain = binary.BigEndian.AppendUint16(plain, n.to.Port())
	plain = append(plain, n.word[:]...)
	return k.aead().Seal(b, nonce, plain, []byte(noticeMagic))
}

// openNotice reads what came after a handshake.
func openNotice(k Key, b []byte) (n notice, err error) {
	if len(b) != noticeLen || string(b[:4]) != noticeMagic {
		return n, errNotice
	}
	plain, err := k.aead().Open(nil, b[4:4+nonceLen], b[4+nonceLen:], b[:4])
	if err != nil {
		return n, errNotice
	}
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte(plain)), binary.BigEndian.Uint16(plain[4:]))
	if !host(to) {
		return n, errNotice
	}
	return notice{to, Word(plain[6:])}, nil
}

func (k Key) aead() cipher.AEAD {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		panic("BUG: " + err.Error()) // the key's length is its type's
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return gcm
}

// host reports whether a connection to or from a can be: an address of one machine, and a port.
func host(a netip.AddrPort) bool {
	ip := a.Addr()
	return a.Port() != 0 && ip.Is4() && !ip.IsUnspecified() && !ip.IsMulticast() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// The kinds of a ratification.
const (
	kindRatify   = 1
	kindApproval = 2
	ratifyLen    = 33
)

// ratification is the ratify notification and, sent back, P2's approval. It carries what P1 needs
// to write the transfer notification, so P1 remembers nothing.
type ratification struct {
	client     netip.AddrPort
	service    uint16 // the port of P1
	next, ours uint32 // the next bytes of client and P1
	word       Word
}

func (r ratification) append(b []byte, kind byte) []byte {
	b = append(b, kind)
	b = append(b, r.client.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, r.client.Port())
	b = binary.BigEndian.AppendUint16(b, r.service)
	b = binary.BigEndian.AppendUint32(b, r.next)
	b = binary.BigEndian.AppendUint32(b, r.ours)
	return append(b, r.word[:]...)
}

func parseRatification(b []byte, kind byte) (r ratification, ok bool) {
	if len(b) != ratifyLen || b[0] != kind {
		return r, false
	}
	r = ratification{
		client:  netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[1:])), binary.BigEndian.Uint16(b[5:])),
		service: binary.BigEndian.Uint16(b[7:]),
		next:    binary.BigEndian.Uint32(b[9:]),
		ours:    binary.BigEndian.Uint32(b[13:]),
		word:    Word(b[17:]),
	}
	return r, host(r.client) && r.service != 0
}
