package proto

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// NodeID names a node (edge, anchor, signer): 8 random bytes given by the signing node.
type NodeID [8]byte

// AgentID names an agent: SHA-256 of its public key, cut to 16. Token ids have the same shape, because
// they stand in an agent id's place on an enrol link.
type AgentID [16]byte

// TokenID names a join token.
type TokenID = AgentID

// SessionID names a session at its anchor.
type SessionID [16]byte

// Nonce is fresh for each attempt of an agent; the reply to the attempt is bound to it.
type Nonce [16]byte

// AgentIDOf returns the id of the agent that holds the public key.
func AgentIDOf(pub ed25519.PublicKey) (id AgentID) {
	sum := sha256.Sum256(pub)
	copy(id[:], sum[:])
	return id
}

// NewNodeID, NewTokenID, NewSessionID and NewNonce return random ids.
func NewNodeID() (id NodeID)       { rand.Read(id[:]); return id }
func NewTokenID() (id TokenID)     { rand.Read(id[:]); return id }
func NewSessionID() (id SessionID) { rand.Read(id[:]); return id }
func NewNonce() (n Nonce)          { rand.Read(n[:]); return n }

func (id NodeID) String() string    { return hex.EncodeToString(id[:]) }
func (id AgentID) String() string   { return hex.EncodeToString(id[:]) }
func (id SessionID) String() string { return hex.EncodeToString(id[:]) }
func (n Nonce) String() string      { return hex.EncodeToString(n[:]) }

// IsZero reports whether the id is unset.
func (id NodeID) IsZero() bool { return id == NodeID{} }

// IsZero reports whether the id is unset.
func (id AgentID) IsZero() bool { return id == AgentID{} }

func (id NodeID) MarshalText() ([]byte, error)    { return []byte(id.String()), nil }
func (id AgentID) MarshalText() ([]byte, error)   { return []byte(id.String()), nil }
func (id SessionID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }
func (n Nonce) MarshalText() ([]byte, error)      { return []byte(n.String()), nil }

func (id *NodeID) UnmarshalText(b []byte) error    { return unhex(id[:], b) }
func (id *AgentID) UnmarshalText(b []byte) error   { return unhex(id[:], b) }
func (id *SessionID) UnmarshalText(b []byte) error { return unhex(id[:], b) }
func (n *Nonce) UnmarshalText(b []byte) error      { return unhex(n[:], b) }

// unhex fills dst from exactly as many hex digits.
func unhex(dst, text []byte) error {
	if len(text) != 2*len(dst) {
		return fmt.Errorf("id of %d hex digits, want %d", len(text), 2*len(dst))
	}
	if _, err := hex.Decode(dst, text); err != nil {
		return fmt.Errorf("id: %w", err)
	}
	return nil
}
