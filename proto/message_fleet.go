package proto

import (
	"encoding/binary"
	"time"
)

// Enrol asks for a certificate with a token's secret (agents over an enrol link, nodes over the backplane).
type Enrol struct {
	Token  TokenID
	Secret [32]byte
	CSR    []byte // PKCS #10, DER
	As     string // name of the node that joins; empty for an agent
}

func (*Enrol) Type() FrameType { return TypeEnrol }
func (m *Enrol) AppendPayload(b []byte) []byte {
	b = append(append(b, m.Token[:]...), m.Secret[:]...)
	return appendText(appendBytes(b, m.CSR), m.As)
}
func (m *Enrol) parse(d *decoder) {
	d.fill(m.Token[:])
	d.fill(m.Secret[:])
	m.CSR, m.As = d.bytes(), d.text()
}

// GenSecret is one generation of a node's proxy secret.
type GenSecret struct {
	Gen    uint8
	Secret Secret
}

// EnrolOK is what the signing node gives: certificate, documents and keys.
type EnrolOK struct {
	Chain     [][]byte // DER, leaf first, the CA last
	Catalogue []byte
	Keys      Keys
	Fleet     []byte      // nodes only
	Secrets   []GenSecret // nodes only
}

func (*EnrolOK) Type() FrameType { return TypeEnrolOK }
func (m *EnrolOK) AppendPayload(b []byte) []byte {
	b = appendChain(b, m.Chain)
	b = appendLong(appendLong(b, m.Catalogue), m.Fleet)
	b = m.Keys.AppendPayload(b)
	b = append(b, byte(len(m.Secrets)))
	for _, s := range m.Secrets {
		b = append(append(b, s.Gen), s.Secret[:]...)
	}
	return b
}
func (m *EnrolOK) parse(d *decoder) {
	m.Chain = d.chain()
	m.Catalogue, m.Fleet = d.long(), d.long()
	m.Keys.parse(d)
	for range d.u8() {
		if d.err != nil {
			return
		}
		s := GenSecret{Gen: d.u8()}
		d.fill(s.Secret[:])
		m.Secrets = append(m.Secrets, s)
	}
}

// EnrolFail says in a sentence why there is no certificate.
type EnrolFail struct {
	Later  bool // nothing was decided: another entry, or the same one later, may do better
	Reason string
}

func (*EnrolFail) Type() FrameType { return TypeEnrolFail }
func (m *EnrolFail) AppendPayload(b []byte) []byte {
	return appendText(appendBool(b, m.Later), m.Reason)
}
func (m *EnrolFail) parse(d *decoder) { m.Later, m.Reason = d.bool(), d.text() }

// KeyEntry is an agent's key for one edge.
type KeyEntry struct {
	Node   NodeID
	Key    KeyID
	Keys   Admission
	Expiry time.Time
}

const keyEntryLen = 8 + 2 + 32 + 16 + 16 + 8

// Keys carries an agent's keys for the entries.
type Keys struct{ Entries []KeyEntry }

func (*Keys) Type() FrameType { return TypeKeys }
func (m *Keys) AppendPayload(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Entries)))
	for _, e := range m.Entries {
		b = append(append(b, e.Node[:]...), e.Key.Gen, e.Key.Issuer)
		b = appendSeconds(appendAdmission(b, e.Keys), e.Expiry)
	}
	return b
}
func (m *Keys) parse(d *decoder) {
	for range d.count(keyEntryLen) {
		var e KeyEntry
		d.fill(e.Node[:])
		e.Key = d.key()
		e.Keys = d.admission()
		e.Expiry = d.seconds()
		m.Entries = append(m.Entries, e)
	}
}

// Renew asks for a new certificate under the present one.
type Renew struct{ CSR []byte }

func (*Renew) Type() FrameType                 { return TypeRenew }
func (m *Renew) AppendPayload(b []byte) []byte { return appendBytes(b, m.CSR) }
func (m *Renew) parse(d *decoder)              { m.CSR = d.bytes() }

// RenewOK carries the new certificate.
type RenewOK struct{ Chain [][]byte }

func (*RenewOK) Type() FrameType                 { return TypeRenewOK }
func (m *RenewOK) AppendPayload(b []byte) []byte { return appendChain(b, m.Chain) }
func (m *RenewOK) parse(d *decoder)              { m.Chain = d.chain() }

// Hello is the first message between nodes.
type Hello struct {
	Name         string
	FleetVersion uint64 // of the FLEET document it holds
}

func (*Hello) Type() FrameType { return TypeHello }
func (m *Hello) AppendPayload(b []byte) []byte {
	return binary.BigEndian.AppendUint64(appendText(b, m.Name), m.FleetVersion)
}
func (m *Hello) parse(d *decoder) { m.Name, m.FleetVersion = d.text(), d.u64() }

// Handover gives a neighbour the key by which it makes clients' keys for the sender.
type Handover struct {
	Gen, Issuer uint8
	H           Secret
}

func (*Handover) Type() FrameType { return TypeHandover }
func (m *Handover) AppendPayload(b []byte) []byte {
	return append(append(b, m.Gen, m.Issuer), m.H[:]...)
}
func (m *Handover) parse(d *decoder) {
	m.Gen, m.Issuer = d.u8(), d.u8()
	d.fill(m.H[:])
}

// FleetMsg carries the signed FLEET document (OpenDoc reads it); nodes only.
type FleetMsg struct{ Doc []byte }

func (*FleetMsg) Type() FrameType                 { return TypeFleet }
func (m *FleetMsg) AppendPayload(b []byte) []byte { return appendLong(b, m.Doc) }
func (m *FleetMsg) parse(d *decoder)              { m.Doc = d.long() }

// Heartbeat is what a node says of itself every second. Load is in per mille.
type Heartbeat struct {
	Load        uint16
	UnderAttack bool
	State       string
}

func (*Heartbeat) Type() FrameType { return TypeHeartbeat }
func (m *Heartbeat) AppendPayload(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, m.Load)
	return appendText(appendBool(b, m.UnderAttack), m.State)
}
func (m *Heartbeat) parse(d *decoder) {
	m.Load, m.UnderAttack, m.State = d.u16(), d.bool(), d.text()
}

// Sign passes an agent's Enrol (or Renew, with the agent's id) from an entry to the signing node; the
// answer is a SignOK that holds the agent's answer.
type Sign struct {
	Agent AgentID // of the preamble: the token's id, or the agent that renews
	Kind  FrameType
	Body  []byte // payload of an Enrol or a Renew
}

func (*Sign) Type() FrameType { return TypeSign }
func (m *Sign) AppendPayload(b []byte) []byte {
	return appendLong(append(append(b, m.Agent[:]...), byte(m.Kind)), m.Body)
}
func (m *Sign) parse(d *decoder) {
	d.fill(m.Agent[:])
	m.Kind = FrameType(d.u8())
	m.Body = d.long()
}

// SignOK is the signing node's answer to a Sign: a message for the agent.
type SignOK struct {
	Kind FrameType
	Body []byte
}

func (*SignOK) Type() FrameType { return TypeSignOK }
func (m *SignOK) AppendPayload(b []byte) []byte {
	return appendLong(append(b, byte(m.Kind)), m.Body)
}
func (m *SignOK) parse(d *decoder) { m.Kind, m.Body = FrameType(d.u8()), d.long() }

// Revoke ends an agent's or a node's membership everywhere. Serial is its certificate's; empty is all.
type Revoke struct {
	Agent  AgentID
	Node   NodeID
	Serial []byte
}

func (*Revoke) Type() FrameType { return TypeRevoke }
func (m *Revoke) AppendPayload(b []byte) []byte {
	return appendBytes(append(append(b, m.Agent[:]...), m.Node[:]...), m.Serial)
}
func (m *Revoke) parse(d *decoder) {
	d.fill(m.Agent[:])
	d.fill(m.Node[:])
	m.Serial = d.bytes()
}

func appendChain(b []byte, chain [][]byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(chain)))
	for _, c := range chain {
		b = appendBytes(b, c)
	}
	return b
}

func (d *decoder) chain() (out [][]byte) {
	n := d.count(2)
	if n > maxChain {
		d.err = ErrMessage
		return nil
	}
	for range n {
		out = append(out, d.bytes())
	}
	return out
}
