package proto

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// The sealed reply is one segment of fixed size.
const (
	SealedLen   = 256
	SealedFirst = 0xD5 // first byte; TLS begins with 0x16 or 0x15
	MaxTargets  = 2

	sealedNonce = 12
	sealedPlain = SealedLen - 2 - sealedNonce - 16
	targetLen   = 4 + 16 + 2 + 8 + 2 + 32 + 16 + 16
	sealedStep  = 100 * time.Millisecond // unit of After on the wire
)

// ReplyKind says what a sealed reply asks of the agent.
type ReplyKind uint8

// The kinds of a sealed reply.
const (
	ReplyTransfer ReplyKind = 1 + iota // go to the first target that answers
	ReplyRetry                         // come again after After
	ReplyBusy                          // full; another entry, or again after After
	ReplyReject                        // Code says why
	ReplyGo                            // to a probe only: this proxy serves its clients itself
)

// Codes of ReplyReject.
const (
	RejectClock   uint8 = 1 + iota // ServerTime tells the right one
	RejectVersion                  // another version of the protocol is spoken here
	RejectRevoked                  // this agent is no longer of the fleet
	RejectAnchor                   // the anchor that a data link names is gone: another one, not again
)

// Target is a proxy to go to, with the agent's keys for it.
type Target struct {
	Addr4, Addr6 netip.Addr // invalid when it has none
	Port         uint16     // link port
	Node         NodeID
	Key          KeyID
	Keys         Admission
}

// Addrs returns the target's link addresses, IPv4 first.
func (t Target) Addrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range []netip.Addr{t.Addr4, t.Addr6} {
		if a.IsValid() {
			out = append(out, netip.AddrPortFrom(a, t.Port))
		}
	}
	return out
}

// Reply is a sealed answer to a preamble: the paper's transfer notification (section 4.2.4), readable
// by the one client it is for and bound to one attempt, in place of the paper's plain secret word.
type Reply struct {
	Kind       ReplyKind
	Targets    []Target      // ReplyTransfer: 1 or 2
	After      time.Duration // ReplyRetry, ReplyBusy: in steps of 100 ms up to 25.5 s
	Code       uint8         // ReplyReject
	ServerTime time.Time     // ReplyReject(clock): seconds
	Round      uint64
	Client     netip.AddrPort // the client's address as seen
}

// Errors of OpenReply.
var (
	ErrSealed = errors.New("sealed reply: not for this attempt, or changed on the way")
	ErrReply  = errors.New("sealed reply: malformed")
)

// Seal encrypts the reply for the sender of the preamble. The same reply to the same preamble gives
// the same bytes, another reply another AEAD nonce.
func (r Reply) Seal(preamble []byte, keys Admission) (out [SealedLen]byte) {
	pre := preamble[:PreambleLen]
	var plain [sealedPlain]byte
	r.put(plain[:])
	n := derive(keys.K[:], "ms reply nonce "+string(pre[36:52]), 32)
	h := hmac.New(sha256.New, n)
	h.Write(plain[:])
	out[0], out[1] = SealedFirst, Version
	copy(out[2:], h.Sum(nil)[:sealedNonce])
	sealedAEAD(pre, keys).Seal(out[2+sealedNonce:2+sealedNonce], out[2:2+sealedNonce], plain[:], sealedAD(&out, pre))
	return out
}

func sealedAEAD(pre []byte, keys Admission) cipher.AEAD {
	block, err := aes.NewCipher(derive(keys.K[:], "ms reply "+string(pre[36:52]), 32))
	if err != nil {
		panic(fmt.Sprintf("BUG: aes: %v", err)) // only for keys of another length
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(fmt.Sprintf("BUG: gcm: %v", err)) // only for blocks of another size
	}
	return aead
}

// sealedAD is the additional data: the two clear bytes and the whole preamble.
func sealedAD(out *[SealedLen]byte, pre []byte) []byte {
	return append([]byte{out[0], out[1]}, pre...)
}

// OpenReply decrypts and checks a reply to the preamble.
func OpenReply(b, preamble []byte, keys Admission) (Reply, error) {
	if len(b) != SealedLen || b[0] != SealedFirst || len(preamble) < PreambleLen {
		return Reply{}, ErrReply
	}
	pre := preamble[:PreambleLen]
	plain, err := sealedAEAD(pre, keys).Open(nil, b[2:2+sealedNonce], b[2+sealedNonce:], sealedAD((*[SealedLen]byte)(b), pre))
	if err != nil {
		return Reply{}, ErrSealed
	}
	return parseReply(plain)
}

// put lays the reply out: kind 1 | count 1 | server time 4 | round 8 | client 18 | 2 × target 96 | zero 2.
// count is the number of targets, the steps to wait, or the code, by kind.
func (r Reply) put(b []byte) {
	b[0] = byte(r.Kind)
	switch r.Kind {
	case ReplyTransfer:
		b[1] = byte(min(len(r.Targets), MaxTargets))
	case ReplyRetry, ReplyBusy:
		b[1] = byte(min(max((r.After+sealedStep-1)/sealedStep, 0), 255))
	case ReplyReject:
		b[1] = r.Code
		if !r.ServerTime.IsZero() {
			binary.BigEndian.PutUint32(b[2:], uint32(r.ServerTime.Unix()))
		}
	}
	binary.BigEndian.PutUint64(b[6:], r.Round)
	copy(b[14:32], appendAddrPort(nil, r.Client))
	if r.Kind != ReplyTransfer {
		return
	}
	at := b[32:32]
	for _, t := range r.Targets[:b[1]] {
		at = appendTarget(at, t)
	}
}

func parseReply(b []byte) (Reply, error) {
	d := decoder{b: b}
	r := Reply{Kind: ReplyKind(d.u8())}
	count := d.u8()
	if t := d.u32(); t != 0 {
		r.ServerTime = time.Unix(int64(t), 0)
	}
	r.Round = d.u64()
	r.Client = d.addrPort()
	switch r.Kind {
	case ReplyTransfer:
		if count < 1 || count > MaxTargets {
			return Reply{}, fmt.Errorf("%d targets: %w", count, ErrReply)
		}
		for range count {
			r.Targets = append(r.Targets, d.target())
		}
	case ReplyRetry, ReplyBusy:
		r.After = time.Duration(count) * sealedStep
	case ReplyReject:
		r.Code = count
	case ReplyGo:
		if count != 0 {
			return Reply{}, fmt.Errorf("go ahead with count %d: %w", count, ErrReply)
		}
	default:
		return Reply{}, fmt.Errorf("kind %d: %w", r.Kind, ErrReply)
	}
	if r.Kind != ReplyReject && !r.ServerTime.IsZero() || slices.ContainsFunc(d.b, func(b byte) bool { return b != 0 }) {
		return Reply{}, fmt.Errorf("something where nothing belongs: %w", ErrReply)
	}
	if d.err != nil {
		return Reply{}, fmt.Errorf("%w: %w", ErrReply, d.err)
	}
	return r, nil
}
