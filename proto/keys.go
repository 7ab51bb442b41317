package proto

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dchest/siphash"
)

// KeyID says under which secret a preamble was made: the generation, and who gave the key: 0 is the
// edge itself, else the number that the edge gave to the neighbour that handed its key over.
type KeyID struct{ Gen, Issuer uint8 }

// FleetKey is the signing node's secret, from which every proxy secret comes. It never leaves it.
type FleetKey [32]byte

// Secret is a proxy secret or a handover key; what is derived from either is derived alike.
type Secret [32]byte

// Admission is what an agent needs to be let in at one edge. It is as secret as a password.
type Admission struct {
	K      [32]byte // MAC of preambles, and the key of sealed replies
	Tag    [16]byte // SipHash key of the tag
	Handle [16]byte // stands for the agent's id on the wire, another at each edge and generation
}

// Keys show their kind only, in whatever they are printed or logged.

func (Admission) String() string { return "admission(secret)" }
func (Secret) String() string    { return "secret" }
func (FleetKey) String() string  { return "fleet key" }

func (a Admission) GoString() string { return a.String() }
func (s Secret) GoString() string    { return s.String() }
func (k FleetKey) GoString() string  { return k.String() }

func (a Admission) LogValue() slog.Value { return slog.StringValue(a.String()) }
func (s Secret) LogValue() slog.Value    { return slog.StringValue(s.String()) }
func (k FleetKey) LogValue() slog.Value  { return slog.StringValue(k.String()) }

func derive(secret []byte, info string, n int) []byte {
	out, err := hkdf.Key(sha256.New, secret, nil, info, n)
	if err != nil {
		panic(fmt.Sprintf("BUG: hkdf of %d bytes: %v", n, err)) // only for lengths beyond 255 hashes
	}
	return out
}

// ProxySecret derives the secret of a node in a generation: HKDF(fleet key, node id | gen).
func (k FleetKey) ProxySecret(n NodeID, gen uint8) (s Secret) {
	copy(s[:], derive(k[:], "ms proxy secret "+string(n[:])+string([]byte{gen}), len(s)))
	return s
}

// Handover derives the key that an edge gives a neighbour: HKDF(secret, "handover" | neighbour id).
func (s Secret) Handover(neighbour NodeID) (h Secret) {
	copy(h[:], derive(s[:], "ms handover "+string(neighbour[:]), len(h)))
	return h
}

// masters are the parts of a secret from which every agent's keys come.
type masters struct {
	prk    [32]byte     // HKDF-Extract of the secret
	sip    TagMaster    // master of tag keys
	handle cipher.Block // AES-128: handle ↔ agent id
}

func newMasters(s Secret) *masters {
	prk, err := hkdf.Extract(sha256.New, s[:], nil)
	if err != nil {
		panic(fmt.Sprintf("BUG: hkdf: %v", err)) // only for hashes that are not approved
	}
	m := &masters{prk: [32]byte(prk)}
	copy(m.sip[:], derive(s[:], "ms tag", 16))
	block, err := aes.NewCipher(derive(s[:], "ms handle", 16))
	if err != nil {
		panic(fmt.Sprintf("BUG: aes: %v", err)) // only for keys of another length
	}
	m.handle = block
	return m
}

// tagKey is SipHash(master, handle | 0) | SipHash(master, handle | 1): cheap enough for XDP.
func (m *masters) tagKey(handle *[16]byte) (k0, k1 uint64) {
	m0, m1 := binary.LittleEndian.Uint64(m.sip[:]), binary.LittleEndian.Uint64(m.sip[8:])
	var b [17]byte
	copy(b[:], handle[:])
	k0 = siphash.Hash(m0, m1, b[:])
	b[16] = 1
	return k0, siphash.Hash(m0, m1, b[:])
}

const labelAdmission = "ms admission "

// k is derive(secret, label and agent id): the last step of HKDF (one block of Expand) written out,
// because it runs for every preamble whose tag is right, and must not allocate before the MAC is.
func (m *masters) k(id AgentID) [32]byte {
	var info [len(labelAdmission) + len(id) + 1]byte
	copy(info[copy(info[:], labelAdmission):], id[:])
	info[len(info)-1] = 1
	return shortHMAC(&m.prk, info[:])
}

const shortMax = 128

// shortHMAC is HMAC-SHA256 (RFC 2104) of at most shortMax bytes, on the stack.
func shortHMAC(key *[32]byte, msg []byte) [32]byte {
	var inner [sha256.BlockSize + shortMax]byte
	var outer [sha256.BlockSize + sha256.Size]byte
	for i := range sha256.BlockSize {
		var k byte
		if i < len(key) {
			k = key[i]
		}
		inner[i], outer[i] = k^0x36, k^0x5c
	}
	n := copy(inner[sha256.BlockSize:], msg)
	if n < len(msg) {
		panic(fmt.Sprintf("BUG: HMAC of %d bytes", len(msg)))
	}
	sum := sha256.Sum256(inner[:sha256.BlockSize+n])
	copy(outer[sha256.BlockSize:], sum[:])
	return sha256.Sum256(outer[:])
}

func (m *masters) admission(id AgentID) (a Admission) {
	m.handle.Encrypt(a.Handle[:], id[:])
	k0, k1 := m.tagKey(&a.Handle)
	binary.LittleEndian.PutUint64(a.Tag[:], k0)
	binary.LittleEndian.PutUint64(a.Tag[8:], k1)
	a.K = m.k(id)
	return a
}

// Admission derives an agent's (or token's) keys: by the edge at any time, with no table, and by a
// neighbour from the handover key.
func (s Secret) Admission(id AgentID) Admission { return newMasters(s).admission(id) }

// Why a preamble is not accepted. Only ErrVersion and ErrClock may be answered, and come with a
// Verified that is authentic; the others get silence.
var (
	ErrMagic   = errors.New("preamble: not one of ours")
	ErrKey     = errors.New("preamble: unknown key id")
	ErrTag     = errors.New("preamble: wrong tag")
	ErrMAC     = errors.New("preamble: wrong MAC")
	ErrVersion = errors.New("preamble: version not spoken here")
	ErrClock   = errors.New("preamble: clock off by more than 10 minutes")
)

// Verified is an authentic preamble: who sent it and the keys to answer.
type Verified struct {
	Preamble
	Agent AgentID // the token id on an enrol link
	Keys  Admission
}

// Keyring holds the secrets under which an edge accepts preambles. The zero value is empty. It is safe
// for concurrent use; readers never wait.
type Keyring struct {
	mu   sync.Mutex
	keys atomic.Pointer[map[KeyID]*masters]
}

// Set adds or replaces the secret for a key id.
func (r *Keyring) Set(id KeyID, s Secret) {
	r.change(func(m map[KeyID]*masters) { m[id] = newMasters(s) })
}

// Delete stops accepting a key id.
func (r *Keyring) Delete(id KeyID) { r.change(func(m map[KeyID]*masters) { delete(m, id) }) }

func (r *Keyring) change(f func(map[KeyID]*masters)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(map[KeyID]*masters)
	if old := r.keys.Load(); old != nil {
		maps.Copy(next, *old)
	}
	f(next)
	r.keys.Store(&next)
}

// find checks magic and tag; it does not allocate.
func (r *Keyring) find(b []byte) (*masters, error) {
	if len(b) < PreambleLen || [4]byte(b) != magic {
		return nil, ErrMagic
	}
	keys := r.keys.Load()
	if keys == nil {
		return nil, ErrKey
	}
	m := (*keys)[KeyID{b[6], b[7]}]
	if m == nil {
		return nil, ErrKey
	}
	k0, k1 := m.tagKey((*[16]byte)(b[8:24]))
	var want [8]byte
	binary.BigEndian.PutUint64(want[:], siphash.Hash(k0, k1, b[:tagAt]))
	if subtle.ConstantTimeCompare(want[:], b[tagAt:macAt]) != 1 {
		return nil, ErrTag
	}
	return m, nil
}

// CheckTag reports whether b begins with a preamble whose tag is right. It is the first, cheapest
// check and allocates nothing. The tag only sorts packets; the MAC admits.
func (r *Keyring) CheckTag(b []byte) bool {
	_, err := r.find(b)
	return err == nil
}

// agentIDs lends Verify the memory that the block cipher writes to, which would else be allocated for
// each preamble.
var agentIDs = sync.Pool{New: func() any { return new(AgentID) }}

// Verify checks a preamble in full: magic, tag, MAC, version, time. self is the edge's own id, over
// which the MAC runs. Nothing is allocated before the MAC is right.
func (r *Keyring) Verify(b []byte, self NodeID, now time.Time) (Verified, error) {
	m, err := r.find(b)
	if err != nil {
		return Verified{}, err
	}
	b = b[:PreambleLen]
	scratch := agentIDs.Get().(*AgentID)
	m.handle.Decrypt(scratch[:], b[8:24])
	agent := *scratch
	agentIDs.Put(scratch)
	k := m.k(agent)
	if want := mac(&k, b[:macAt], self); subtle.ConstantTimeCompare(want[:], b[macAt:]) != 1 {
		return Verified{}, ErrMAC
	}
	v := Verified{Agent: agent, Keys: m.admission(agent)}
	v.parse(b)
	if b[4] != Version {
		return v, ErrVersion
	}
	if d := now.Sub(v.Time); d > MaxSkew || d < -MaxSkew {
		return v, ErrClock
	}
	return v, nil
}

// mac is HMAC-SHA256/128 under K over the preamble before it and the edge's node id (not its address:
// behind 1:1 NAT it does not know it).
func mac(k *[32]byte, b []byte, edge NodeID) [16]byte {
	var msg [macAt + len(edge)]byte
	copy(msg[:macAt], b)
	copy(msg[macAt:], edge[:])
	sum := shortHMAC(k, msg[:])
	return [16]byte(sum[:16])
}

// TagMaster is the SipHash key from which the tag keys of all agents under one key id come: what a
// packet program needs to check tags. It is as secret as a Secret, though it can't admit.
type TagMaster [16]byte

func (TagMaster) String() string       { return "tag master" }
func (m TagMaster) GoString() string   { return m.String() }
func (TagMaster) LogValue() slog.Value { return slog.StringValue("tag master") }

// TagMasters returns a copy of what CheckTag knows.
func (r *Keyring) TagMasters() map[KeyID]TagMaster {
	keys := r.keys.Load()
	if keys == nil {
		return nil
	}
	out := make(map[KeyID]TagMaster, len(*keys))
	for id, m := range *keys {
		out[id] = m.sip
	}
	return out
}
