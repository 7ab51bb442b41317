package proto

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Message is a frame's payload with its type. Frames of a stream that carry bytes (DATA, DGRAM) or only
// a header (FIN) are no messages; package session makes and reads them.
type Message interface {
	Type() FrameType
	AppendPayload(dst []byte) []byte
	parse(d *decoder)
}

// newMessage makes the empty message of a type; doc.go has the table.
func newMessage(t FrameType) Message {
	switch t {
	case TypeSession:
		return new(Session)
	case TypeSessionOK:
		return new(SessionOK)
	case TypeAttach:
		return new(Attach)
	case TypeAttachOK:
		return new(AttachOK)
	case TypeResume:
		return new(Resume)
	case TypeResumeOK:
		return new(ResumeOK)
	case TypeResumeFail:
		return new(ResumeFail)
	case TypeOpen:
		return new(Open)
	case TypeOpenOK:
		return new(OpenOK)
	case TypeOpenFail:
		return new(OpenFail)
	case TypePing:
		return new(Ping)
	case TypePong:
		return new(Pong)
	case TypeEnrol:
		return new(Enrol)
	case TypeEnrolOK:
		return new(EnrolOK)
	case TypeEnrolFail:
		return new(EnrolFail)
	case TypeMigrate:
		return new(Migrate)
	case TypeMigrateOK:
		return new(MigrateOK)
	case TypeCatalogue:
		return new(CatalogueMsg)
	case TypeKeys:
		return new(Keys)
	case TypeRenew:
		return new(Renew)
	case TypeRenewOK:
		return new(RenewOK)
	case TypeGoAway:
		return new(GoAway)
	case TypeBoot:
		return new(Boot)
	case TypeStandby:
		return new(Standby)
	}
	return newPeerMessage(t)
}

func newPeerMessage(t FrameType) Message {
	switch t {
	case TypeHello:
		return new(Hello)
	case TypeUserInfo:
		return new(UserInfo)
	case TypeUserInfoOK:
		return new(UserInfoOK)
	case TypeRatify:
		return new(Ratify)
	case TypeRatifyOK:
		return new(RatifyOK)
	case TypeBusy:
		return new(Busy)
	case TypeSign:
		return new(Sign)
	case TypeSignOK:
		return new(SignOK)
	case TypeHandover:
		return new(Handover)
	case TypeFleet:
		return new(FleetMsg)
	case TypeHeartbeat:
		return new(Heartbeat)
	case TypeRevoke:
		return new(Revoke)
	}
	return nil
}

// ParseMessage reads a whole payload. Nothing of it is kept by reference.
func ParseMessage(t FrameType, payload []byte) (Message, error) {
	m := newMessage(t)
	if m == nil {
		return nil, fmt.Errorf("frame type %#x: %w", uint8(t), ErrMessage)
	}
	d := decoder{b: payload}
	m.parse(&d)
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("frame type %#x of %d bytes: %w", uint8(t), len(payload), err)
	}
	return m, nil
}

// Session asks an anchor for a session; Credit is the first window of each stream towards the agent.
type Session struct{ Credit uint32 }

func (*Session) Type() FrameType                 { return TypeSession }
func (m *Session) AppendPayload(b []byte) []byte { return binary.BigEndian.AppendUint32(b, m.Credit) }
func (m *Session) parse(d *decoder)              { m.Credit = d.u32() }

// SessionOK is the anchor's answer.
type SessionOK struct {
	ID         SessionID
	Credit     uint32 // first window of each stream towards the anchor
	MaxStreams uint32
	Grace      time.Duration // how long it outlives its last link; 0: it does not
}

func (*SessionOK) Type() FrameType { return TypeSessionOK }
func (m *SessionOK) AppendPayload(b []byte) []byte {
	b = append(b, m.ID[:]...)
	b = binary.BigEndian.AppendUint32(b, m.Credit)
	b = binary.BigEndian.AppendUint32(b, m.MaxStreams)
	return appendMillis(b, m.Grace)
}
func (m *SessionOK) parse(d *decoder) {
	d.fill(m.ID[:])
	m.Credit, m.MaxStreams, m.Grace = d.u32(), d.u32(), d.millis()
}

// Open asks for a connection to a service on the header's stream. Credit is the stream's first window
// towards the agent; 0: as in SESSION.
type Open struct {
	Credit  uint32
	Service string
}

func (*Open) Type() FrameType { return TypeOpen }
func (m *Open) AppendPayload(b []byte) []byte {
	return appendText(binary.BigEndian.AppendUint32(b, m.Credit), m.Service)
}
func (m *Open) parse(d *decoder) { m.Credit, m.Service = d.u32(), d.text() }

// OpenOK says that the origin has accepted. Credit is the stream's first window towards the anchor,
// which it chooses when it knows its memory; 0: as in SESSION_OK.
type OpenOK struct{ Credit uint32 }

func (*OpenOK) Type() FrameType                 { return TypeOpenOK }
func (m *OpenOK) AppendPayload(b []byte) []byte { return binary.BigEndian.AppendUint32(b, m.Credit) }
func (m *OpenOK) parse(d *decoder)              { m.Credit = d.u32() }

// OpenCode says why an OPEN failed, so that connect() can tell the truth.
type OpenCode uint8

// The codes of OpenFail.
const (
	OpenRefused     OpenCode = 1 + iota // the origin sent a reset
	OpenUnreachable                     // no route to the origin
	OpenTimedOut                        // the origin is silent
	OpenDenied                          // the agent's groups do not include the service, or there is none
	OpenBusy                            // caps of the anchor
)

func (c OpenCode) String() string {
	switch c {
	case OpenRefused:
		return "refused"
	case OpenUnreachable:
		return "unreachable"
	case OpenTimedOut:
		return "timed out"
	case OpenDenied:
		return "denied"
	case OpenBusy:
		return "busy"
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// OpenFail is the answer when there is no connection.
type OpenFail struct {
	Code OpenCode
	Text string
}

func (*OpenFail) Type() FrameType                 { return TypeOpenFail }
func (m *OpenFail) AppendPayload(b []byte) []byte { return appendText(append(b, byte(m.Code)), m.Text) }
func (m *OpenFail) parse(d *decoder)              { m.Code, m.Text = OpenCode(d.u8()), d.text() }

// Ping asks for a Pong with the same token.
type Ping struct{ Token uint64 }

func (*Ping) Type() FrameType                 { return TypePing }
func (m *Ping) AppendPayload(b []byte) []byte { return binary.BigEndian.AppendUint64(b, m.Token) }
func (m *Ping) parse(d *decoder)              { m.Token = d.u64() }

// Pong answers a Ping.
type Pong struct{ Token uint64 }

func (*Pong) Type() FrameType                 { return TypePong }
func (m *Pong) AppendPayload(b []byte) []byte { return binary.BigEndian.AppendUint64(b, m.Token) }
func (m *Pong) parse(d *decoder)              { m.Token = d.u64() }

// CatalogueMsg carries the signed catalogue (OpenDoc reads it).
type CatalogueMsg struct{ Doc []byte }

func (*CatalogueMsg) Type() FrameType                 { return TypeCatalogue }
func (m *CatalogueMsg) AppendPayload(b []byte) []byte { return appendLong(b, m.Doc) }
func (m *CatalogueMsg) parse(d *decoder)              { m.Doc = d.long() }

// GoAway says that the edge will stop: move on when told, open nothing new here.
type GoAway struct{ Reason string }

func (*GoAway) Type() FrameType                 { return TypeGoAway }
func (m *GoAway) AppendPayload(b []byte) []byte { return appendText(b, m.Reason) }
func (m *GoAway) parse(d *decoder)              { m.Reason = d.text() }

// Boot is the first message of an agent on a control link, and is sent again when Current changes. ID is random at each
// start of an agent: two of one agent that take turns are two machines with one identity.
type Boot struct {
	ID      uint64
	Current bool // this edge is the agent's current one; else the link stands by and is told no hidden address
	Version string
}

func (*Boot) Type() FrameType { return TypeBoot }
func (m *Boot) AppendPayload(b []byte) []byte {
	return appendText(appendBool(binary.BigEndian.AppendUint64(b, m.ID), m.Current), m.Version)
}
func (m *Boot) parse(d *decoder) { m.ID, m.Current, m.Version = d.u64(), d.bool(), d.text() }

// Standby gives an agent an address ahead, for the time when its edge falls silent (`rescue = "standby"`). The newest counts;
// an empty one takes it back.
type Standby struct{ Targets []Target }

func (*Standby) Type() FrameType { return TypeStandby }
func (m *Standby) AppendPayload(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Targets)))
	for _, t := range m.Targets {
		b = appendTarget(b, t)
	}
	return b
}
func (m *Standby) parse(d *decoder) {
	for range d.count(targetLen) {
		m.Targets = append(m.Targets, d.target())
	}
}

// MigrateID names a migration notification: the edge that sent it and its rising counter.
type MigrateID struct {
	Edge    NodeID
	Counter uint64
}

// Migrate is the paper's migration notification 2 (section 4.2.3): go to the first target that answers.
type Migrate struct {
	ID         MigrateID
	Targets    []Target
	StartAfter time.Duration // spreads clients over the target's admission rate
	Deadline   time.Duration // when the edge gives up what still runs through it
}

func (*Migrate) Type() FrameType { return TypeMigrate }
func (m *Migrate) AppendPayload(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, m.ID.Edge[:]...), m.ID.Counter)
	b = appendMillis(appendMillis(b, m.StartAfter), m.Deadline)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Targets)))
	for _, t := range m.Targets {
		b = appendTarget(b, t)
	}
	return b
}
func (m *Migrate) parse(d *decoder) {
	d.fill(m.ID.Edge[:])
	m.ID.Counter = d.u64()
	m.StartAfter, m.Deadline = d.millis(), d.millis()
	for range d.count(targetLen) {
		m.Targets = append(m.Targets, d.target())
	}
}

// MigrateOK says that a Migrate was received; that the agent closes its old links says that it moved.
type MigrateOK struct{ ID MigrateID }

func (*MigrateOK) Type() FrameType { return TypeMigrateOK }
func (m *MigrateOK) AppendPayload(b []byte) []byte {
	return binary.BigEndian.AppendUint64(append(b, m.ID.Edge[:]...), m.ID.Counter)
}
func (m *MigrateOK) parse(d *decoder) {
	d.fill(m.ID.Edge[:])
	m.ID.Counter = d.u64()
}

// UserInfoClient is one client of a USERINFO.
type UserInfoClient struct {
	Agent      AgentID
	Addr       netip.Addr // as the old proxy saw it
	Session    SessionID
	Anchor     NodeID
	Services   []string
	StartAfter time.Duration
	Expiry     time.Duration // how long the door stays open for it
}

const userInfoClientMin = 16 + 16 + 16 + 8 + 2 + 4 + 4

// UserInfo is the paper's migration notification 1, "current user connections' information" (section
// 4.2.3): which clients will come.
type UserInfo struct {
	Round   uint64
	Clients []UserInfoClient
}

func (*UserInfo) Type() FrameType { return TypeUserInfo }
func (m *UserInfo) AppendPayload(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.Round)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Clients)))
	for _, c := range m.Clients {
		b = append(b, c.Agent[:]...)
		b = appendAddr(b, c.Addr)
		b = append(append(b, c.Session[:]...), c.Anchor[:]...)
		b = appendTexts(b, c.Services)
		b = appendMillis(appendMillis(b, c.StartAfter), c.Expiry)
	}
	return b
}
func (m *UserInfo) parse(d *decoder) {
	m.Round = d.u64()
	for range d.count(userInfoClientMin) {
		var c UserInfoClient
		d.fill(c.Agent[:])
		c.Addr = d.addr()
		d.fill(c.Session[:])
		d.fill(c.Anchor[:])
		c.Services = d.texts()
		c.StartAfter, c.Expiry = d.millis(), d.millis()
		m.Clients = append(m.Clients, c)
	}
}

// UserInfoOK acknowledges a UserInfo; Load is in per mille.
type UserInfoOK struct {
	Round uint64
	Load  uint16
}

func (*UserInfoOK) Type() FrameType { return TypeUserInfoOK }
func (m *UserInfoOK) AppendPayload(b []byte) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(b, m.Round), m.Load)
}
func (m *UserInfoOK) parse(d *decoder) { m.Round, m.Load = d.u64(), d.u16() }

// Ratify is the paper's ratify notification (section 4.2.4): "information about the client" that a
// transfer sends to the next proxy.
type Ratify struct {
	Attempt Nonce // of the client's preamble
	Agent   AgentID
	Addr    netip.Addr // as the old proxy saw it
	Service string     // if known
	Expiry  time.Duration
}

func (*Ratify) Type() FrameType { return TypeRatify }
func (m *Ratify) AppendPayload(b []byte) []byte {
	b = append(append(b, m.Attempt[:]...), m.Agent[:]...)
	return appendMillis(appendText(appendAddr(b, m.Addr), m.Service), m.Expiry)
}
func (m *Ratify) parse(d *decoder) {
	d.fill(m.Attempt[:])
	d.fill(m.Agent[:])
	m.Addr, m.Service, m.Expiry = d.addr(), d.text(), d.millis()
}

// RatifyOK is the paper's approval; Load is in per mille.
type RatifyOK struct {
	Attempt Nonce
	Load    uint16
}

func (*RatifyOK) Type() FrameType { return TypeRatifyOK }
func (m *RatifyOK) AppendPayload(b []byte) []byte {
	return binary.BigEndian.AppendUint16(append(b, m.Attempt[:]...), m.Load)
}
func (m *RatifyOK) parse(d *decoder) {
	d.fill(m.Attempt[:])
	m.Load = d.u16()
}

// Busy answers a Ratify or a UserInfo whose clients cannot be taken.
type Busy struct{ Reason string }

func (*Busy) Type() FrameType                 { return TypeBusy }
func (m *Busy) AppendPayload(b []byte) []byte { return appendText(b, m.Reason) }
func (m *Busy) parse(d *decoder)              { m.Reason = d.text() }

func appendTexts(b []byte, ss []string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(ss)))
	for _, s := range ss {
		b = appendText(b, s)
	}
	return b
}

func (d *decoder) texts() (out []string) {
	for range d.count(2) {
		out = append(out, d.text())
	}
	return out
}
