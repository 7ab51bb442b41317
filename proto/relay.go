package proto

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// Sizes and limits of relay headers.
const (
	RelayHeaderLen  = 87
	RelayVersion    = 1
	RelayMaxSkew    = time.Minute // by the clocks of two nodes of one backplane
	RelayKeyLabel   = "EXPORTER-ms-relay"
	RelayKeyFor     = time.Minute // after its peer link has ended
	relayKeyLen     = 32
	relayMACAt      = RelayHeaderLen - 16
	relayReplaySize = 1 << 16
)

var relayMagic = [4]byte{'M', 'S', 'r', 1}

// RelayKeyID tells which of the peer links between two nodes a relay key is from: there may be two at once.
type RelayKeyID [4]byte

// RelayKey authenticates relay headers from one node to another. Both ends of a peer link know it, and nobody else.
type RelayKey [relayKeyLen]byte

func (RelayKey) String() string         { return "relay key" }
func (k RelayKey) GoString() string     { return k.String() }
func (k RelayKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// ExportRelayKey takes key and key id from a peer link: export is its ConnectionState's ExportKeyingMaterial
// (RFC 8446 section 7.5), which gives both ends the same.
func ExportRelayKey(export func(label string, context []byte, length int) ([]byte, error)) (id RelayKeyID, key RelayKey, err error) {
	b, err := export(RelayKeyLabel, nil, len(key)+len(id))
	if err != nil {
		return id, key, err
	}
	copy(key[:], b)
	copy(id[:], b[len(key):])
	return id, key, nil
}

// RelayHeader goes before the bytes of a data link that an edge passes on to the link's anchor; doc.go draws it. It
// says for whom the edge vouches: the preamble was verified, and is not passed on.
type RelayHeader struct {
	Edge  NodeID
	Agent AgentID
	Addr  netip.AddrPort // the agent's, as the edge sees it
	Nonce Nonce          // of the preamble
	Time  time.Time      // seconds
	Key   RelayKeyID
}

// Why a relay header is not accepted. None is ever answered.
var (
	ErrRelay      = errors.New("relay header: not one of ours")
	ErrRelayMAC   = errors.New("relay header: wrong MAC")
	ErrRelayClock = errors.New("relay header: clock off by more than a minute")
)

// Append appends the 87 bytes, authenticated by the key that h.Key names.
func (h RelayHeader) Append(dst []byte, key RelayKey) []byte {
	at := len(dst)
	dst = append(append(dst, relayMagic[:]...), RelayVersion)
	dst = append(append(dst, h.Edge[:]...), h.Agent[:]...)
	dst = appendAddrPort(dst, h.Addr)
	dst = append(dst, h.Nonce[:]...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.Time.Unix()))
	dst = append(dst, h.Key[:]...)
	sum := relayMAC(key, dst[at:])
	return append(dst, sum[:]...)
}

// ParseRelayHeader reads the fields and verifies nothing: Verify does, with the key that they name.
func ParseRelayHeader(b []byte) (h RelayHeader, err error) {
	if len(b) != RelayHeaderLen || [4]byte(b) != relayMagic || b[4] != RelayVersion {
		return h, ErrRelay
	}
	d := decoder{b: b[5:relayMACAt]}
	d.fill(h.Edge[:])
	d.fill(h.Agent[:])
	h.Addr = d.addrPort()
	d.fill(h.Nonce[:])
	h.Time = time.Unix(int64(d.u32()), 0)
	d.fill(h.Key[:])
	if d.end() != nil || !h.Addr.IsValid() {
		return RelayHeader{}, ErrRelay
	}
	return h, nil
}

// Verify checks the bytes that h was parsed from against the key, then the time. Whether the nonce is new, a
// NewRelayNonces set tells.
func (h RelayHeader) Verify(b []byte, key RelayKey, now time.Time) error {
	if len(b) != RelayHeaderLen {
		return ErrRelay
	}
	if want := relayMAC(key, b[:relayMACAt]); subtle.ConstantTimeCompare(want[:], b[relayMACAt:]) != 1 {
		return ErrRelayMAC
	}
	if d := now.Sub(h.Time); d > RelayMaxSkew || d < -RelayMaxSkew {
		return ErrRelayClock
	}
	return nil
}

func relayMAC(key RelayKey, b []byte) [16]byte {
	m := hmac.New(sha256.New, key[:])
	m.Write(b)
	return [16]byte(m.Sum(nil))
}

// NewRelayNonces is the memory against replayed relay headers: as long as one is good by its time, in 1 MiB. Only
// headers of the fleet's edges get into it; when it is full the oldest gives way, and TLS stands behind it anyway.
func NewRelayNonces() *NonceSet { return newNonceSet(relayReplaySize, 2*RelayMaxSkew+time.Second) }
